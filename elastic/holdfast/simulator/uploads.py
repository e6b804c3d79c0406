"""A fake agent's share of checkpoints: mirror of holdfast.agent.uploading. One upload an action."""

from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from holdfast.control.member_commands import PutUpload
from holdfast.model.ids import NodeId
from holdfast.model.records import UploadedBlob, UploadRecord, Version
from holdfast.simulator.buffers import pair
from holdfast.simulator.ram import Copy
from holdfast.simulator.storage import StorageAwayError, folder_of

if TYPE_CHECKING:
    from holdfast.simulator.world import World


class Uploads:
    """One an agent. `sound`: its copy of a layer at a version, looked through; None: there is none."""

    def __init__(
        self,
        world: "World",
        node: NodeId,
        sound: Callable[[int, tuple[int, int]], Copy | None],
        say: Callable[[PutUpload], None],
    ) -> None:
        self._world, self._node, self._sound, self._say = world, node, sound, say
        self._wishes: deque[tuple[Version, frozenset[int], float | None, Callable[[], None]]] = deque()
        self._version: Version | None = None
        self._written: dict[int, UploadedBlob] = {}

    def wish(
        self,
        version: Version,
        layers: Collection[int],
        loss: float | None = None,
        over: Callable[[], None] = lambda: None,
    ) -> None:
        """`over`: called when that came to an end, good or bad."""
        self._wishes.append((version, frozenset(layers), loss, over))

    def can_upload(self) -> bool:
        return bool(self._wishes)

    def upload(self) -> str:
        """As far as the storage takes it."""
        version, layers, loss, over = self._wishes.popleft()
        if self._version is None or self._version.age < version.age:
            self._version, self._written = version, {}
        written = [layer for layer in sorted(layers) if self._write(version, layer)]
        if version == self._version and written:
            blobs = tuple(self._written[layer] for layer in sorted(self._written))
            self._say(PutUpload(UploadRecord(node=self._node, version=version, loss=loss, blobs=blobs)))
        over()
        return f"uploads {written} of {sorted(layers)} at {pair(version)}"

    def _write(self, version: Version, layer: int) -> bool:
        if version != self._version or layer in self._written:
            return version == self._version
        copy, world = self._sound(layer, pair(version)), self._world
        if copy is None or world.network.happens(world.dials.uploads_fail):
            return False
        try:
            world.storage.put(folder_of(version), layer, copy.buffer.state)
        except StorageAwayError:
            return False
        self._written[layer] = UploadedBlob(layer=layer, path=str(layer), size=1, chunk_bytes=1, chunks=("",))
        return True
