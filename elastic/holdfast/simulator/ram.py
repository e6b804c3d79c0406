"""A fake agent's RAM: mirror of holdfast_checkpoint.ram, of buffers that know what is whole in them."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from holdfast.simulator.buffers import Buffer, Pair
from holdfast.simulator.weights import State
from holdfast_checkpoint.sparing import KINDS, kind_of


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    layer: int
    version: Pair
    origin: str
    buffer: Buffer

    @property
    def kind(self) -> str:
        return kind_of(self.origin)

    @property
    def is_whole(self) -> bool:
        return self.buffer.version == self.version


class Ram:
    """One an agent. `on_spoilt`: a copy turned out to have rotted when somebody wanted it, and was dropped."""

    def __init__(self, on_spoilt: Callable[[Copy], None]) -> None:
        self._on_spoilt = on_spoilt
        self._copies: list[Copy] = []

    def copies(self) -> Iterator[Copy]:
        """All that are whole, those that rotted as well: nobody has looked."""
        return (copy for copy in self._copies if copy.is_whole)

    def find(self, layer: int, version: Pair) -> list[Copy]:
        """Those that are preferred first."""
        found = [copy for copy in self.copies() if copy.layer == layer and copy.version == version]
        return sorted(found, key=lambda copy: (KINDS.index(copy.kind), copy.origin))

    def find_sound(self, layer: int, version: Pair) -> Copy | None:
        """The first of these, looked through."""
        for copy in self.find(layer, version):
            if copy.buffer.is_sound:
                return copy
            self.drop(copy)
            self._on_spoilt(copy)
        return None

    def versions(self, kinds: Collection[str] = KINDS) -> dict[Pair, set[int]]:
        """The layers that are whole of each."""
        found: dict[Pair, set[int]] = {}
        for copy in (copy for copy in self.copies() if copy.kind in kinds):
            found.setdefault(copy.version, set()).add(copy.layer)
        return found

    def add(self, copy: Copy) -> None:
        """In the place of any of that name."""
        same = (copy.origin, copy.layer, copy.version)
        self.keep_only(lambda other: (other.origin, other.layer, other.version) != same)
        self._copies.append(copy)

    def receive(self, layer: int, version: Pair, state: State, origin: str) -> Copy:
        buffer = Buffer()
        buffer.fill(version, state)
        copy = Copy(layer, version, origin, buffer)
        self.add(copy)
        return copy

    def drop(self, copy: Copy) -> None:
        self._copies.remove(copy)

    def keep_only(self, predicate: Callable[[Copy], bool]) -> None:
        self._copies = [copy for copy in self._copies if predicate(copy)]
