"""What autograd saves of a forward for the backward; on the meta device too, where memory has a size and no place."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class SavedMemory:
    """Bytes of each piece of memory that was saved. They are kept alive, so none is taken for another."""

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []
        self._bytes: dict[int, int] = {}

    def add(self, tensor: Tensor) -> Tensor:
        self._tensors.append(tensor)
        self._bytes[_piece(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    def bytes_beside(self, state: Iterable[Tensor]) -> int:
        """Of what is not these. Where two tensors share memory it is counted once."""
        own = {_piece(tensor) for tensor in state}
        return sum(size for piece, size in self._bytes.items() if piece not in own)


@contextmanager
def saved_memory() -> Iterator[SavedMemory]:
    found = SavedMemory()
    with torch.autograd.graph.saved_tensors_hooks(found.add, lambda tensor: tensor):
        yield found


def _piece(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
