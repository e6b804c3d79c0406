"""Checksums of a run of bytes, chunk by chunk, so that what is read in ranges can be verified in ranges.

xxh3_128 (Yann Collet's xxHash, 2020): at 15 GB/s and more a core it is always on. It finds accidents; who may write
what is a matter of the storage's and the agents' own authentication.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import xxhash

from holdfast_checkpoint.errors import CorruptError, FormatError

ALGORITHM = "xxh3_128"
CHUNK_BYTES = 16 << 20
Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """Of `size` bytes: one checksum (32 hex digits) for each full chunk, and for the rest."""

    size: int
    chunks: tuple[str, ...]
    chunk_bytes: int = CHUNK_BYTES

    def __post_init__(self) -> None:
        if self.size < 0 or self.chunk_bytes < 1 or len(self.chunks) != -(-self.size // self.chunk_bytes):
            raise FormatError(
                f"a digest of {self.size} bytes in chunks of {self.chunk_bytes} has {len(self.chunks)} checksums"
            )

    @property
    def text(self) -> str:
        """One short name for the whole: equal for equal bytes."""
        return xxhash.xxh3_128_hexdigest(f"{self.size} {self.chunk_bytes} {' '.join(self.chunks)}".encode())


class Hasher:
    """Takes bytes in order, in pieces of any size. Not for several threads at once."""

    def __init__(self, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._chunk_bytes, self._size = chunk_bytes, 0
        self._chunks: list[str] = []
        self._now = xxhash.xxh3_128()

    def update(self, data: Buffer) -> None:
        """Without the GIL for long pieces."""
        view = memoryview(data).cast("B")
        while view:
            room = self._chunk_bytes - self._size % self._chunk_bytes
            piece, view = view[:room], view[room:]
            self._now.update(piece)
            self._size += len(piece)
            if len(piece) == room:
                self._chunks.append(self._now.hexdigest())
                self._now.reset()

    def digest(self) -> Digest:
        rest = () if self._size % self._chunk_bytes == 0 else (self._now.hexdigest(),)
        return Digest(size=self._size, chunks=(*self._chunks, *rest), chunk_bytes=self._chunk_bytes)


def digest_of(data: Buffer) -> Digest:
    hasher = Hasher()
    hasher.update(data)
    return hasher.digest()


def check(data: Buffer, digest: Digest, what: str) -> None:
    """Raises: CorruptError: `data`, called `what` in the message, is not what `digest` was made of."""
    view = memoryview(data).cast("B")
    if len(view) != digest.size:
        raise CorruptError(f"{what} has {len(view)} bytes, and {digest.size} were written")
    for chunk, start in enumerate(range(0, digest.size, digest.chunk_bytes)):
        check_chunk(view[start : start + digest.chunk_bytes], digest, chunk, what)


def check_chunk(data: Buffer, digest: Digest, chunk: int, what: str) -> None:
    """Of one chunk alone. Raises: CorruptError."""
    if xxhash.xxh3_128_hexdigest(data) != digest.chunks[chunk]:
        raise corrupt_chunk(digest, chunk, what)


def corrupt_chunk(digest: Digest, chunk: int, what: str) -> CorruptError:
    """Names the bytes."""
    start = chunk * digest.chunk_bytes
    stop = min(start + digest.chunk_bytes, digest.size)
    return CorruptError(f"{what} is corrupt between bytes {start} and {stop}: its checksum there is another one")


def chunks_of(digest: Digest, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(chunk, its start, its stop) of every chunk that [start, stop) touches."""
    for chunk in range(start // digest.chunk_bytes, -(-stop // digest.chunk_bytes)):
        begin = chunk * digest.chunk_bytes
        yield chunk, begin, min(begin + digest.chunk_bytes, digest.size)
