"""Reads blobs from a storage in several ranges at once, and hands out nothing whose checksum is another one."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from holdfast_checkpoint.aside import map_aside
from holdfast_checkpoint.digest import Digest, check_chunk, chunks_of
from holdfast_checkpoint.errors import CorruptError, StorageBusyError
from holdfast_checkpoint.storage import Storage

# Read at once into one place: enough to use a network well, little enough to hold several.
_RANGE_BYTES = 16 << 20
# A way that spoils one read in seventeen, which is the worst our tests know, spoils four in a row once in 80,000 times.
_READS = 4
T = TypeVar("T")


class _EndedEarlyError(StorageBusyError):
    """The storage handed out less than it says that there is."""


def read_sound(read: Callable[[], T]) -> T:
    """What `read` returns, asked again while it is corrupt: it may be so on its way only, and then nothing is lost.

    Raises: as the last `read`.
    """
    again = retry_if_exception_type((CorruptError, _EndedEarlyError))
    return Retrying(retry=again, stop=stop_after_attempt(_READS), reraise=True)(read)


class VerifiedReader:
    """Safe for threads. `what` a blob is called in errors; its URL is added."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def fill_all(self, path: str, digest: Digest, buffer: memoryview, what: str) -> None:
        """The whole blob, ranges of it at once. Raises: CorruptError."""

        def fill(span: tuple[int, int]) -> None:
            self.fill(path, digest, span[0], buffer[span[0] : span[1]], what)

        for _ in self._at_once(fill, digest):
            pass

    def fill(self, path: str, digest: Digest, start: int, buffer: memoryview, what: str) -> None:
        """`start` and the end lie on chunks.

        Raises:
            CorruptError: it is not what was written.
            StorageBusyError: less is handed out than the storage says that there is.
        """
        read_sound(lambda: self._fill_once(path, digest, start, buffer, what))

    def verify(self, path: str, digest: Digest, what: str) -> Iterator[tuple[int, CorruptError | None]]:
        """Of each range its bytes, and what is wrong with it. Holds no more than is read at once."""
        stored = self._storage.size_of(path)
        if stored != digest.size:
            yield digest.size, self._wrong_size(path, stored, digest.size, what)
            return

        def look(span: tuple[int, int]) -> tuple[int, CorruptError | None]:
            size = span[1] - span[0]
            try:
                self.fill(path, digest, span[0], memoryview(bytearray(size)), what)
            except CorruptError as error:
                return size, error
            return size, None

        yield from self._at_once(look, digest)

    def is_sound(self, path: str, digest: Digest) -> bool:
        return all(error is None for _, error in self.verify(path, digest, "it"))

    def _fill_once(self, path: str, digest: Digest, start: int, buffer: memoryview, what: str) -> None:
        count = self._storage.read_into(path, start, buffer)
        if count != len(buffer):
            if (stored := self._storage.size_of(path)) == digest.size:
                url, end = self._storage.url_of(path), start + (count or 0)
                raise _EndedEarlyError(
                    f"{url} has {stored} bytes, and what was read of it ended at {end}; try again later"
                )
            raise self._wrong_size(path, None if count is None else start + count, digest.size, what)
        name = f"{what} in {self._storage.url_of(path)}"
        for chunk, begin, end in chunks_of(digest, start, start + len(buffer)):
            check_chunk(buffer[begin - start : end - start], digest, chunk, name)

    def _wrong_size(self, path: str, stored: int | None, size: int, what: str) -> CorruptError:
        has = "is not there any more" if stored is None else f"ends at byte {stored}"
        return CorruptError(f"{what} in {self._storage.url_of(path)} {has}; {size} bytes were written")

    def _at_once(self, work: Callable[[tuple[int, int]], T], digest: Digest) -> Iterator[T]:
        """Of each range, in order."""
        spans = list(_ranges(digest))
        if len(spans) == 1:
            yield work(spans[0])
        else:
            yield from map_aside(work, spans, self._storage.streams, "checkpoint-read")


def _ranges(digest: Digest) -> Iterator[tuple[int, int]]:
    """Of whole chunks, each of about _RANGE_BYTES."""
    step = max(1, _RANGE_BYTES // digest.chunk_bytes) * digest.chunk_bytes
    for start in range(0, digest.size, step):
        yield start, min(start + step, digest.size)
