"""How fast fake workers are: some are slow, and some of these for a while only. A function of names and steps alone."""

from collections.abc import Iterable
from zlib import crc32

from holdfast.model.ids import WorkerId

_WHILE = 2  # steps
_LAYER_S, _SLOWNESS = 0.5, (1.0, 1.0, 1.0, 1.0, 2.0, 4.0)


def layer_s(worker: WorkerId, step: int, layers: Iterable[int]) -> tuple[tuple[int, float], ...]:
    """What a microbatch takes in each layer."""
    odd = crc32(worker.encode()) % len(_SLOWNESS)
    slowness = _SLOWNESS[odd] if odd % 2 or step // _WHILE % 2 else 1.0
    return tuple((layer, slowness * _LAYER_S) for layer in sorted(layers))
