"""Remote storage as the job meets it: folders of blobs, those with a manifest count; at times away, or rotten."""

from dataclasses import dataclass, field

from holdfast.model.records import Version
from holdfast.simulator.weights import State


class StorageAwayError(Exception):
    """It does not answer."""


@dataclass(slots=True)
class Blob:
    state: State
    checksum: State

    @property
    def is_sound(self) -> bool:
        return self.state == self.checksum

    def flip(self) -> None:
        """A byte."""
        self.state = ~self.checksum


def folder_of(version: Version) -> str:
    return f"step-{version.step}-{version.generation}"


@dataclass(slots=True)
class Storage:
    """Mutable. `away`: how many disturbances keep it away."""

    away: int = 0
    folders: dict[str, dict[int, Blob]] = field(default_factory=dict)
    committed: set[str] = field(default_factory=set)

    def put(self, folder: str, layer: int, state: State) -> None:
        """Raises: StorageAwayError."""
        self._require()
        self.folders.setdefault(folder, {})[layer] = Blob(state, state)

    def commit(self, folder: str) -> None:
        """Its manifest is written. Raises: StorageAwayError."""
        self._require()
        self.committed.add(folder)

    def read(self, folder: str, layer: int) -> State | None:
        """None: it is corrupt, or gone. Raises: StorageAwayError."""
        self._require()
        blob = self.folders.get(folder, {}).get(layer)
        return blob.state if blob is not None and blob.is_sound else None

    def delete(self, folder: str) -> None:
        """Raises: StorageAwayError."""
        self._require()
        self.committed.discard(folder)
        self.folders.pop(folder, None)

    def is_sound(self, folder: str, layers: int) -> bool:
        blobs = self.folders.get(folder, {})
        return folder in self.committed and len(blobs) == layers and all(blob.is_sound for blob in blobs.values())

    def _require(self) -> None:
        if self.away:
            raise StorageAwayError
