"""Reads ranges of blobs straight to where they belong, in parallel; no byte counts before its checksum was right.

The unit is a chunk of a blob's digest: it is read once, however many ranges lie in it, and no other chunk is read.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from holdfast_checkpoint.dcp.sources import Source
from holdfast_checkpoint.digest import Hasher, chunks_of
from holdfast_checkpoint.errors import CheckpointError, CorruptError
from holdfast_checkpoint.manifest import BlobEntry

log = logging.getLogger(__name__)
THREADS = 8
_RUN_BYTES = 16 << 20
_NAMES_MAX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Bytes from `start` on of a blob, as many as fit in `view`. `name`: of the tensor, for messages."""

    entry: BlobEntry
    start: int
    view: memoryview
    name: str

    @property
    def stop(self) -> int:
        return self.start + len(self.view)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunk:
    """One chunk of a blob's digest with what is wanted of it: (index of the Wanted, it), by where it begins."""

    entry: BlobEntry
    number: int
    start: int
    stop: int
    wanted: tuple[tuple[int, Wanted], ...]


_Run: TypeAlias = list[_Chunk]  # neighbours in one blob


def read_ranges(
    wanted: Sequence[Wanted],
    sources: Sequence[Source],
    *,
    threads: int | None = None,
    on_done: Callable[[int], None] = lambda _: None,
) -> None:
    """Fill every view; `on_done(index)` is called in this thread once `wanted[index]` is filled and verified.

    A source that fails or gives other bytes is reported and the next one asked. After an error, views hold anything.

    Raises: CorruptError, StorageError: no source has a sound copy; names the blob, the bytes and the tensors.
    """
    chunks = _chunks(wanted)
    left = [0] * len(wanted)
    for chunk in chunks:
        for index, _ in chunk.wanted:
            left[index] += 1
    for index in (index for index, count in enumerate(left) if count == 0):
        on_done(index)
    reader = _Reader(sources)
    workers = threads or min(THREADS, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers, thread_name_prefix="holdfast-read") as pool:
        futures = {pool.submit(reader.read, run): run for run in _runs(chunks)}
        try:
            for future in as_completed(futures):
                future.result()
                for index in (index for chunk in futures[future] for index, _ in chunk.wanted):
                    left[index] -= 1
                    if left[index] == 0:
                        on_done(index)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _chunks(wanted: Sequence[Wanted]) -> list[_Chunk]:
    """By blob and place, so that a disk is read forwards."""
    found: dict[tuple[int, int], list[tuple[int, Wanted]]] = {}
    for index, one in enumerate(wanted):
        for number, _, _ in chunks_of(one.entry.digest, one.start, one.stop) if one.view else ():
            found.setdefault((one.entry.layer, number), []).append((index, one))
    chunks = []
    for (_, number), inside in sorted(found.items(), key=lambda item: item[0]):
        entry = inside[0][1].entry
        start = number * entry.digest.chunk_bytes
        stop = min(start + entry.digest.chunk_bytes, entry.size)
        inside.sort(key=lambda pair: (pair[1].start, pair[0]))
        chunks.append(_Chunk(entry=entry, number=number, start=start, stop=stop, wanted=tuple(inside)))
    return chunks


def _runs(chunks: Sequence[_Chunk]) -> Iterator[_Run]:
    """What one thread reads, and what is asked of a storage at once if it is far away."""
    run: _Run = []
    for chunk in chunks:
        follows = run and run[-1].entry.layer == chunk.entry.layer and run[-1].stop == chunk.start
        if run and (not follows or chunk.stop - run[0].start > _RUN_BYTES):
            yield run
            run = []
        run.append(chunk)
    if run:
        yield run


class _Reader:
    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._own = threading.local()

    def read(self, run: _Run) -> None:
        """In a thread of the pool."""
        entry = run[0].entry
        for source in self._sources[:-1]:
            if not source.has(entry):
                continue
            try:
                return self._read_from(source, run)
            except CheckpointError as error:
                log.warning("checkpoint.copy_skipped", extra={"blob": source.what(entry), "error": str(error)})
        self._read_from(self._sources[-1], run)

    def _read_from(self, source: Source, run: _Run) -> None:
        # From near, chunk by chunk: each is in the cache when its checksum is made.
        for part in [[chunk] for chunk in run] if source.is_near else [run]:
            try:
                self._read_part(source, part)
            except CheckpointError as error:
                raise type(error)(f"{error} ({_names(part)})") from error

    def _read_part(self, source: Source, part: _Run) -> None:
        entry, start = part[0].entry, part[0].start
        scratch = self._scratch(part[-1].stop - start)
        views = [_views(chunk, scratch[chunk.start - start : chunk.stop - start]) for chunk in part]
        source.read_into(entry, start, [view for of_chunk in views for view in of_chunk])
        for chunk, of_chunk in zip(part, views, strict=True):
            hasher = Hasher(entry.digest.chunk_bytes)
            for view in of_chunk:
                hasher.update(view)
            if hasher.digest().chunks != (entry.digest.chunks[chunk.number],):
                raise CorruptError(
                    f"{source.what(entry)} is corrupt between bytes {chunk.start} and {chunk.stop}: "
                    "its checksum there is another one"
                )
            if _overlap(chunk):
                _hand_out(chunk, of_chunk[0])

    def _scratch(self, size: int) -> memoryview:
        """Of this thread; kept, since fresh memory costs as much as the read."""
        held: bytearray | None = getattr(self._own, "scratch", None)
        if held is None or len(held) < size:
            held = self._own.scratch = bytearray(size)
        return memoryview(held)[:size]


def _overlap(chunk: _Chunk) -> bool:
    """Whether two want the same bytes."""
    return any(one.stop > other.start for (_, one), (_, other) in pairwise(chunk.wanted))


def _views(chunk: _Chunk, scratch: memoryview) -> list[memoryview]:
    """The chunk as pieces of the wanted views, and of scratch memory between them; only scratch if some overlap."""
    if _overlap(chunk):
        return [scratch]
    views: list[memoryview] = []
    at = chunk.start
    for _, one in chunk.wanted:
        start, stop = max(one.start, chunk.start), min(one.stop, chunk.stop)
        views += [scratch[at - chunk.start : start - chunk.start], one.view[start - one.start : stop - one.start]]
        at = stop
    views.append(scratch[at - chunk.start :])
    return [view for view in views if view]


def _hand_out(chunk: _Chunk, read: memoryview) -> None:
    for _, one in chunk.wanted:
        start, stop = max(one.start, chunk.start), min(one.stop, chunk.stop)
        one.view[start - one.start : stop - one.start] = read[start - chunk.start : stop - chunk.start]


def _names(run: _Run) -> str:
    names = sorted({one.name for chunk in run for _, one in chunk.wanted})
    more = f" and {len(names) - _NAMES_MAX} more" if len(names) > _NAMES_MAX else ""
    return f"it holds {', '.join(map(repr, names[:_NAMES_MAX]))}{more}"
