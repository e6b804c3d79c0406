"""Reads ranges of blobs straight to where they belong, in parallel; no byte counts before its checksum was right.

The unit is a chunk of a blob's digest: it is read once, however many ranges lie in it, and no other chunk is read.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeAlias

from holdfast_checkpoint.dcp.sources import Source, after_failure
from holdfast_checkpoint.digest import Hasher, check_chunk, corrupt_chunk
from holdfast_checkpoint.errors import CheckpointError, CorruptError
from holdfast_checkpoint.manifest import BlobEntry
from holdfast_checkpoint.verified_reading import read_sound

log = logging.getLogger(__name__)
_THREADS = 8
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


@dataclass(frozen=True, slots=True)
class _Piece:
    """Whole chunks of a blob's digest, from number `first` on, with what is wanted of them: (index of the Wanted, it),
    by where it begins. Where there are several chunks, one Wanted alone wants every byte."""

    entry: BlobEntry
    first: int
    start: int
    stop: int
    wanted: tuple[tuple[int, Wanted], ...]

    @property
    def is_plain(self) -> bool:
        """Whether its bytes are those of one Wanted, and nothing else."""
        if len(self.wanted) > 1:
            return False
        _, one = self.wanted[0]
        return one.start <= self.start and one.stop >= self.stop


_Run: TypeAlias = list[_Piece]  # neighbours in one blob
_Attempt: TypeAlias = Callable[[Callable[[], None]], None]  # makes a read


def read_ranges(
    wanted: Sequence[Wanted],
    sources: Sequence[Source],
    *,
    threads: int | None = None,
    on_done: Callable[[int], None] = lambda _: None,
) -> None:
    """Fill every view; `on_done(index)` is called in this thread once `wanted[index]` is filled and verified.

    A source that fails or gives other bytes is reported and the next one asked; the last one is asked again for what is
    corrupt, since it may be so on its way only. After an error, views hold anything.

    Raises: CorruptError, StorageError: no source has a sound copy; names the blob, the bytes and the tensors.
    """
    pieces = _pieces(wanted)
    left = [0] * len(wanted)
    for piece in pieces:
        for index, _ in piece.wanted:
            left[index] += 1
    for index in (index for index, count in enumerate(left) if count == 0):
        on_done(index)
    reader = _Reader(sources)
    workers = threads or reading_threads()
    with ThreadPoolExecutor(workers, thread_name_prefix="holdfast-read") as pool:
        futures = {pool.submit(reader.read, run): run for run in _runs(pieces)}
        try:
            for future in as_completed(futures):
                future.result()
                for index in (index for piece in futures[future] for index, _ in piece.wanted):
                    left[index] -= 1
                    if left[index] == 0:
                        on_done(index)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def reading_threads() -> int:
    """How many read at a time, where nobody says."""
    return min(_THREADS, len(os.sched_getaffinity(0)))


def _pieces(wanted: Sequence[Wanted]) -> list[_Piece]:
    """By blob and place, so that a disk is read forwards."""
    of_blob: dict[int, list[tuple[int, Wanted]]] = {}
    for index, one in enumerate(wanted):
        if one.view:
            of_blob.setdefault(one.entry.layer, []).append((index, one))
    pieces: list[_Piece] = []
    for layer in sorted(of_blob):
        inside = sorted(of_blob[layer], key=lambda pair: (pair[1].start, pair[0]))
        pieces += sorted(_of_blob(inside), key=lambda piece: piece.start)
    return pieces


def _of_blob(inside: Sequence[tuple[int, Wanted]]) -> Iterator[_Piece]:
    """Chunks that one of them wants as a whole, and nobody else, together; the others one by one."""
    entry, size = inside[0][1].entry, inside[0][1].entry.digest.chunk_bytes
    most, shared = max(1, _RUN_BYTES // size), dict[int, list[tuple[int, Wanted]]]()
    taken = 0  # chunks before this one are wanted by one that begins earlier
    begins = [*(one.start // size for _, one in inside[1:]), -(-entry.size // size)]
    for (index, one), following in zip(inside, begins, strict=True):
        first, end = one.start // size, -(-one.stop // size)
        alone = max(-(-one.start // size), taken)
        until = min(end if one.stop == entry.size else one.stop // size, following)
        for number in (*range(first, min(alone, end)), *range(max(alone, until), end)):
            shared.setdefault(number, []).append((index, one))
        for number in range(alone, until, most):
            yield _piece(entry, number, min(number + most, until), ((index, one),))
        taken = max(taken, end)
    for number, together in shared.items():
        yield _piece(entry, number, number + 1, tuple(together))


def _piece(entry: BlobEntry, first: int, end: int, wanted: tuple[tuple[int, Wanted], ...]) -> _Piece:
    size = entry.digest.chunk_bytes
    return _Piece(entry, first, first * size, min(end * size, entry.size), wanted)


def _runs(pieces: Sequence[_Piece]) -> Iterator[_Run]:
    """What one thread reads, and what is asked of a storage at once if it is far away."""
    run: _Run = []
    for piece in pieces:
        follows = run and run[-1].entry.layer == piece.entry.layer and run[-1].stop == piece.start
        if run and (not follows or piece.stop - run[0].start > _RUN_BYTES):
            yield run
            run = []
        run.append(piece)
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
                return self._read_from(source, run, _once)
            except CheckpointError as error:
                log.warning("checkpoint.copy_skipped", extra={"blob": source.what(entry), "error": str(error)})
        last = self._sources[-1]
        self._read_from(last, run, _soundly if last.is_near else _once)

    def _read_from(self, source: Source, run: _Run, attempt: _Attempt) -> None:
        for part in [[piece] for piece in run] if source.is_near else [run]:
            try:
                if source.is_near and part[0].is_plain:
                    _read_straight(source, part[0], attempt)
                else:
                    attempt(partial(self._read_part, source, part))
            except CheckpointError as error:
                raise type(error)(f"{error} ({_names(part)})") from error

    def _read_part(self, source: Source, part: _Run) -> None:
        entry, start = part[0].entry, part[0].start
        scratch = self._scratch(part[-1].stop - start)
        views = [_views(piece, scratch[piece.start - start : piece.stop - start]) for piece in part]
        source.read_into(entry, start, [view for of_piece in views for view in of_piece])
        for piece, of_piece in zip(part, views, strict=True):
            _check(piece, of_piece, source)
            if _overlap(piece):
                _hand_out(piece, of_piece[0])

    def _scratch(self, size: int) -> memoryview:
        """Of this thread; kept, since fresh memory costs as much as the read."""
        held: bytearray | None = getattr(self._own, "scratch", None)
        if held is None or len(held) < size:
            held = self._own.scratch = bytearray(size)
        return memoryview(held)[:size]


def _once(read: Callable[[], None]) -> None:
    read()


def _soundly(read: Callable[[], None]) -> None:
    """Again while it is corrupt."""
    try:
        read()
    except CorruptError as error:
        read_sound(after_failure(error, read))


def _read_straight(source: Source, piece: _Piece, attempt: _Attempt) -> None:
    """Chunk by chunk: each is in the cache when its checksum is made."""
    entry, size, (_, one) = piece.entry, piece.entry.digest.chunk_bytes, piece.wanted[0]
    what = source.what(entry)
    for number, start in enumerate(range(piece.start, piece.stop, size), piece.first):
        view = one.view[start - one.start : min(start + size, piece.stop) - one.start]
        attempt(partial(_read_chunk, source, entry, number, view, what))


def _read_chunk(source: Source, entry: BlobEntry, number: int, view: memoryview, what: str) -> None:
    source.read_into(entry, number * entry.digest.chunk_bytes, (view,))
    check_chunk(view, entry.digest, number, what)


def _check(piece: _Piece, views: Sequence[memoryview], source: Source) -> None:
    """Raises: CorruptError: names the bytes of the blob."""
    hasher = Hasher(piece.entry.digest.chunk_bytes)
    for view in views:
        hasher.update(view)
    for number, found in enumerate(hasher.digest().chunks, piece.first):
        if found != piece.entry.digest.chunks[number]:
            raise corrupt_chunk(piece.entry.digest, number, source.what(piece.entry))


def _overlap(piece: _Piece) -> bool:
    """Whether two want the same bytes."""
    return any(one.stop > other.start for (_, one), (_, other) in pairwise(piece.wanted))


def _views(piece: _Piece, scratch: memoryview) -> list[memoryview]:
    """The piece as parts of the wanted views, and of scratch memory between them; only scratch if some overlap."""
    if _overlap(piece):
        return [scratch]
    views: list[memoryview] = []
    at = piece.start
    for _, one in piece.wanted:
        start, stop = max(one.start, piece.start), min(one.stop, piece.stop)
        views += [scratch[at - piece.start : start - piece.start], one.view[start - one.start : stop - one.start]]
        at = stop
    views.append(scratch[at - piece.start :])
    return [view for view in views if view]


def _hand_out(piece: _Piece, read: memoryview) -> None:
    for _, one in piece.wanted:
        start, stop = max(one.start, piece.start), min(one.stop, piece.stop)
        one.view[start - one.start : stop - one.start] = read[start - piece.start : stop - piece.start]


def _names(run: _Run) -> str:
    names = sorted({one.name for piece in run for _, one in piece.wanted})
    more = f" and {len(names) - _NAMES_MAX} more" if len(names) > _NAMES_MAX else ""
    return f"it holds {', '.join(map(repr, names[:_NAMES_MAX]))}{more}"
