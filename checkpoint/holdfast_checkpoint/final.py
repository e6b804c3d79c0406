"""Where a job leaves its final weights: a folder or a URL, with one file a layer, and a mark for each submission.

A mark is named by its submission, so that of several that come at once none takes another's away. It holds what
whoever collects the layers must know. Beside each layer lies its digest, written when the layer is: so what comes back
is what was written. Several files of one layer have the same bytes, if they are of one submission.
"""

import json
import threading
from dataclasses import asdict
from pathlib import Path

from holdfast_checkpoint.digest import Digest, Hasher
from holdfast_checkpoint.errors import CorruptError, FormatError, NoCheckpointError, StorageBusyError
from holdfast_checkpoint.storage import Storage
from holdfast_checkpoint.storage_backend import Source
from holdfast_checkpoint.verified_reading import VerifiedReader, read_sound

MARKS, LAYERS = ".jobs", "layers"
_WRITES = 3


class FinalPlace:
    """Synchronous; safe for threads. Every method may raise StorageError."""

    def __init__(self, url: str, *, give_up_s: float = 60.0, pause_s: float = 0.2) -> None:
        """As `remote.Repository`. Raises: StorageError: the URL is refused, or a package is missing."""
        self._storage = Storage(url, give_up_s=give_up_s, pause_s=pause_s)
        self._reader = VerifiedReader(self._storage)
        self.url = self._storage.url

    def mark(self, submission: str, record: bytes) -> None:
        """Before anybody hears of it."""
        self._put_small(f"{MARKS}/{submission}", record)

    def unmark(self, submission: str) -> None:
        """Of one that came to nothing."""
        self._storage.remove(f"{MARKS}/{submission}")

    def marked(self, submission: str) -> bytes | None:
        """None: this place, as it is seen from here, is not that submission's."""
        return self._storage.read(f"{MARKS}/{submission}")

    def submissions(self) -> tuple[str, ...]:
        """All that have a mark."""
        return tuple(entry.path.rpartition("/")[2] for entry in self._storage.entries(MARKS))

    def put_layer(self, layer: int, path: Path, given_up: threading.Event | None = None) -> None:
        """`given_up`: once set this ends soon, with a StorageError."""
        where, digest = layer_path(layer), _digest_of_file(path)
        with Source(path, digest, self._storage.url_of(where), given_up) as source:
            self._storage.put_file(where, source)
        self._put_small(_digest_path(layer), json.dumps(asdict(digest)).encode())

    def fetch_layer(self, layer: int, to: Path) -> None:
        """Into a file of that name.

        Raises:
            NoCheckpointError: it is not there.
            CorruptError: it is not what was written.
        """
        digest, size = self._digest(layer), 0
        to.parent.mkdir(parents=True, exist_ok=True)
        with to.open("wb") as file:
            while size < digest.size:
                piece = memoryview(bytearray(min(digest.chunk_bytes, digest.size - size)))
                self._reader.fill(layer_path(layer), digest, size, piece, f"layer {layer}")
                file.write(piece)
                size += len(piece)

    def _digest(self, layer: int) -> Digest:
        url = self._storage.url_of(_digest_path(layer))

        def read() -> Digest:
            data = self._storage.read(_digest_path(layer))
            if data is None:
                raise NoCheckpointError(f"{url} is not there: not all final weights are written")
            try:
                found = json.loads(data)
                return Digest(**(found | {"chunks": tuple(found["chunks"])}))
            except (ValueError, TypeError, KeyError, FormatError) as error:
                raise CorruptError(f"{url} is no digest of a layer") from error

        return read_sound(read)

    def _put_small(self, path: str, data: bytes) -> None:
        """So that it reads back as it was written."""
        for _ in range(_WRITES):
            self._storage.put(path, data)
            if self._storage.read(path) == data:
                return
        raise StorageBusyError(f"{self._storage.url_of(path)} does not read back as it was written")


def layer_path(layer: int) -> str:
    """Relative to the place."""
    return f"{LAYERS}/{layer:05d}.safetensors"


def _digest_path(layer: int) -> str:
    return f"{LAYERS}/{layer:05d}.digest.json"


def _digest_of_file(path: Path) -> Digest:
    hasher, buffer = Hasher(), bytearray(1 << 20)
    with path.open("rb") as file:
        while count := file.readinto(buffer):
            hasher.update(memoryview(buffer)[:count])
    return hasher.digest()
