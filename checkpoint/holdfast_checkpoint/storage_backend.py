"""What a kind of storage must do, and what is handed to it. Paths are relative to the root that its URL names."""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from holdfast_checkpoint.digest import Buffer, Digest, Hasher, check_chunk, chunks_of, corrupt_chunk
from holdfast_checkpoint.errors import CorruptError, StorageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file or object."""

    path: str
    size: int
    modified_s: float | None  # seconds since the Unix epoch, by the storage's clock


class Source:
    """A blob to store, from a file or a memfd. Whatever is read from it was verified after it was read.

    So a flipped bit in memory, or a buffer that is overwritten meanwhile, is found before it becomes a checkpoint.
    May be read by several threads at once.
    """

    def __init__(self, path: str | Path, digest: Digest, what: str, given_up: threading.Event | None = None) -> None:
        """`path` may be /proc/self/fd/N. `what` it is called in errors. `given_up`: once set nothing more is read, so
        that a slow upload which nobody waits for any more ends at its next piece.

        Raises: CorruptError: it has another size than `digest`.
        """
        self.digest, self.path, self._what, self._given_up = digest, os.fspath(path), what, given_up
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(self._fd).st_size
        if found != digest.size:
            os.close(self._fd)
            raise CorruptError(f"{what} has {found} bytes, and its digest is of {digest.size}")

    @property
    def size(self) -> int:
        return self.digest.size

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fills `buffer`; `start` and the end lie on chunks. Raises: CorruptError; StorageError: it was given up."""
        self.require_wanted()
        at = 0
        while at < len(buffer):
            count = os.preadv(self._fd, [buffer[at:]], start + at)
            if count == 0:
                raise self._too_short()
            at += count
        self._check(start, buffer)

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """All bytes in order, piece after piece in `buffer`. Whether they were right is known at the end.

        Raises: CorruptError: at the end; what was done with the pieces must then be undone. StorageError: as above.
        """
        hasher, at = Hasher(self.digest.chunk_bytes), 0
        while at < self.size:
            self.require_wanted()
            count = os.preadv(self._fd, [buffer[: self.size - at]], at)
            if count == 0:
                raise self._too_short()
            hasher.update(buffer[:count])
            yield buffer[:count]
            at += count
        for chunk, (found, wanted) in enumerate(zip(hasher.digest().chunks, self.digest.chunks, strict=True)):
            if found != wanted:
                raise corrupt_chunk(self.digest, chunk, self._what)
        self.require_wanted()  # the last piece may have taken long

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop); both lie on chunks, or at the end. Raises: as `read_into`."""
        self.require_wanted()
        data = os.pread(self._fd, stop - start, start)
        while len(data) < stop - start:
            more = os.pread(self._fd, stop - start - len(data), start + len(data))
            if not more:
                raise self._too_short()
            data += more
        self._check(start, memoryview(data))
        return data

    def _check(self, start: int, data: memoryview) -> None:
        for chunk, begin, end in chunks_of(self.digest, start, start + len(data)):
            check_chunk(data[begin - start : end - start], self.digest, chunk, self._what)

    def require_wanted(self) -> None:
        """Before what was read gets its place. Raises: StorageError: it was given up."""
        if self._given_up is not None and self._given_up.is_set():
            raise StorageError(f"{self._what}: it was given up")

    def _too_short(self) -> CorruptError:
        return CorruptError(f"{self._what} became shorter than the {self.size} bytes of its digest")

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Backend(Protocol):
    """One kind of storage. Raises its own errors, which `storage_errors.translated` knows. Safe for threads.

    `streams`: how many reads at once use it well.
    """

    streams: int

    def put(self, path: str, data: Buffer, create_only: bool) -> bool:
        """Store it whole, as far as the storage can, and durably. False: `create_only`, and there is one already."""

    def put_file(self, path: str, source: Source) -> None:
        """Store it whole and durably, in place of what is there."""

    def size_of(self, path: str) -> int:
        """Raises: FileNotFoundError, or what means the same."""

    def entries(self, folder: str) -> Sequence[Entry]:
        """All below `folder` ("": below the root), never from a cache; none if it is not there."""

    def read_into(self, path: str, start: int, buffer: memoryview) -> int:
        """Bytes read: fewer than asked for only at the end."""

    def remove(self, path: str) -> None:
        """Durably. That it is not there is no error."""

    def remove_folder(self, folder: str) -> None:
        """With all that is in it, unfinished uploads included. That it is not there is no error."""
