"""The model as a replay sees it: the bytes of its layers, and which of them a stage of a pipeline holds."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise

from holdfast.errors import UserError
from holdfast.model.plan import Span


class Model:
    """Stages are as even in bytes as layers allow. The planner's cuts follow costs; what moves hardly differs."""

    def __init__(self, layer_bytes: Sequence[int]) -> None:
        if not layer_bytes or min(layer_bytes) < 0 or not sum(layer_bytes):
            raise UserError(f"layers: sizes {list(layer_bytes)[:5]} given; should be bytes, not all of them 0")
        self.layers = len(layer_bytes)
        self._sums = [0, *accumulate(layer_bytes)]
        self._cuts: dict[int, tuple[Span, ...]] = {}

    @property
    def state_bytes(self) -> int:
        return self._sums[-1]

    def cuts(self, depth: int) -> tuple[Span, ...]:
        """The stages of a pipeline so deep, at most one for each layer."""
        if depth not in self._cuts:
            assert 1 <= depth <= self.layers, f"{self.layers} layers in {depth} stages"
            bounds = [0]
            for stage in range(1, depth):
                at = self._nearest(self.state_bytes * stage / depth)
                bounds.append(min(max(at, bounds[-1] + 1), self.layers - depth + stage))
            self._cuts[depth] = tuple(Span(start, stop) for start, stop in pairwise([*bounds, self.layers]))
        return self._cuts[depth]

    def size(self, span: Span) -> int:
        """Bytes of state of these layers."""
        return self._sums[span.stop] - self._sums[span.start]

    def layer_size(self, layer: int) -> int:
        return self._sums[layer + 1] - self._sums[layer]

    def lacking(self, wanted: Span, held: Span | None) -> int:
        """Bytes of `wanted` that are not in `held`."""
        if held is None:
            return self.size(wanted)
        start, stop = max(wanted.start, held.start), min(wanted.stop, held.stop)
        return self.size(wanted) - (self._sums[stop] - self._sums[start] if stop > start else 0)

    def _nearest(self, size: float) -> int:
        at = bisect_left(self._sums, size)
        return at - 1 if size - self._sums[at - 1] < self._sums[at] - size else at
