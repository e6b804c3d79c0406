"""Layers that no worker sends: the agent fetches and verifies them, the worker reads them out of RAM."""

import queue
from collections.abc import Callable

import torch

from holdfast.errors import ProtocolError
from holdfast.model.messages import Restored
from holdfast.model.records import Version
from holdfast.worker.layers import HeldLayer
from holdfast_checkpoint.layer_blob import LayerBlob, map_blob, read_layer

_LOOK_S = 0.05


class Restores:
    """What the agent has fetched; filled by the thread that reads from it."""

    def __init__(self) -> None:
        self._arrived: queue.SimpleQueue[Restored] = queue.SimpleQueue()

    def put(self, message: Restored) -> None:
        self._arrived.put(message)

    def next_of(self, generation: int, beat: Callable[[], None]) -> Restored:
        """The next one of this generation; `beat` is called while there is none, and may raise."""
        while True:
            beat()
            try:
                message = self._arrived.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if message.generation == generation:
                return message


def load_restored(path: str, blank: HeldLayer, version: Version, device: torch.device) -> int:
    """Fill a blank layer from a blob; the blob's bytes."""
    with map_blob(path) as blob:
        layer = read_layer(blob)
        # One of another run counts as of generation 0.
        if (layer.name, layer.step) != (blank.name, version.step) or version.generation not in (0, layer.generation):
            raise ProtocolError(
                f"{path} was to hold layer {blank.name!r} of step {version.step}, generation {version.generation}, and "
                f"holds {layer.name!r} of step {layer.step}, generation {layer.generation}"
            )

        # Copies: nothing of the layer may lie in the file, which is about to be overwritten.
        tensors = {name: tensor.to(_home_of(name, layer, device), copy=True) for name, tensor in layer.tensors.items()}
        blank.load(tensors, layer.scalars)
        size = len(blob)
        del layer
    return size


def _home_of(name: str, layer: LayerBlob, device: torch.device) -> torch.device:
    """Optimizers keep counters on the CPU. A blob that was made without any accelerator tells no devices."""
    beside = name in layer.devices or (not layer.devices and layer.tensors[name].dim() > 0)
    return device if beside else torch.device("cpu")
