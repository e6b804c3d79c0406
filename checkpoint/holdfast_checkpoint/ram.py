"""What an agent holds in RAM: copies of layers that its own workers made, and those it received.

All methods are cheap and for the event loop's thread, but `verify` and `Incoming.reserve`, which are for others. A copy
stays in RAM as long as anybody has it open, so it outlives the worker that made it.
"""

import errno
import logging
import mmap
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast_checkpoint.digest import Digest, check_chunk, chunks_of
from holdfast_checkpoint.errors import CheckpointError, CorruptError, StorageError
from holdfast_checkpoint.held_file import HeldFile, give_back, read_into
from holdfast_checkpoint.ram_folder import Note, RamFolder, forget_file, memory_file
from holdfast_checkpoint.sparing import FETCHED, KINDS, OWN, kind_of
from holdfast_checkpoint.stamp import STAMP_BYTES, is_spoilt, version_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One blob in RAM. `origin`: "own:<slot index>", "peer:<node>" or "fetched"."""

    layer: int
    step: int
    generation: int
    digest: Digest
    file: HeldFile
    origin: str

    @property
    def version(self) -> tuple[int, int]:
        return self.step, self.generation

    @property
    def kind(self) -> str:
        return kind_of(self.origin)

    @property
    def is_overwritten(self) -> bool:
        """Whether its worker has begun to write something else there, and did not come to tell us."""
        if self.kind != OWN:
            return False
        with self.file.hold() as fd:
            start = os.pread(fd, STAMP_BYTES, 0)
        # What is not to be read at all is for `verify` to find.
        return is_spoilt(start) or version_of(start) not in (None, self.version)

    def __str__(self) -> str:
        return f"the copy in RAM ({self.kind}) of layer {self.layer}, step {self.step}, generation {self.generation}"


class Incoming:
    """A buffer to receive one blob into, in pieces of any order; `RamTier.new_buffer` makes it."""

    def __init__(
        self, copy_of: Callable[[Digest, HeldFile], Copy], name: str, size: int, folder: RamFolder | None
    ) -> None:
        """`copy_of`: takes over the file. Raises: OSError."""
        self._copy_of, self._name, self._size, self._folder = copy_of, name, size, folder
        self._file = HeldFile(memory_file(name, folder.path if folder is not None else None))
        self._is_committed = False
        try:
            os.ftruncate(self._file.fileno(), size)
            self._map = mmap.mmap(self._file.fileno(), size)
        except BaseException:
            self._let_go()
            raise
        self.memory = memoryview(self._map)

    def reserve(self) -> None:
        """Have its memory there before the first byte; blocking, for a thread. Without it, pages come as they are
        written, and a system that has none left kills the process. Raises: StorageError."""
        with self._file.hold() as fd:
            try:
                os.posix_fallocate(fd, 0, self._size)
            except OSError as error:
                raise _no_memory(self._name, self._size, error) from error

    def commit(self, digest: Digest) -> Copy:
        """It is whole, and the caller has verified it. Whoever had a view of `memory` has let go of it.

        Raises: CorruptError: `digest` is of another size; nothing is kept.
        """
        if digest.size != self._size:
            self.discard()
            raise CorruptError(f"{self._name}: {self._size} bytes were announced, and the digest is of {digest.size}")
        self._unmap()
        self._is_committed = True
        return self._copy_of(digest, self._file)

    def discard(self) -> None:
        """Give its memory back. Again, or after `commit`, it does nothing."""
        if not self._is_committed:
            self._unmap()
            self._let_go()

    def _let_go(self) -> None:
        if not self._file.is_closed:
            forget_file(self._file.fileno())
            self._file.release()

    def _unmap(self) -> None:
        with suppress(BufferError):  # a view that somebody still has unmaps it when it goes
            self.memory.release()
            give_back(self._map.close, self._size)


class RamTier:
    """All copies on this node, each under its origin, layer and version. `folder`: where they outlive this process.
    `take`: asked before so many bytes more are held, but for somebody who loads; it may raise StorageError."""

    def __init__(self, folder: RamFolder | None = None, take: Callable[[int], None] = lambda size: None) -> None:
        self._copies: dict[tuple[str, int, int, int], Copy] = {}
        self._folder, self._take = folder, take

    @property
    def path(self) -> Path | None:
        """Of that folder."""
        return self._folder.path if self._folder is not None else None

    @property
    def held_bytes(self) -> int:
        """Without what was fetched for somebody who loads."""
        return sum(copy.digest.size for copy in self._copies.values() if copy.kind != FETCHED)

    def recall(self) -> int:
        """Take over what is whole of what an agent before this one held; how many copies. The rest is removed."""
        if self._folder is None:
            return 0
        for path, note in self._folder.recall():
            try:
                self.adopt(note.origin, note.layer, note.step, note.generation, str(path), note.digest)
            except (OSError, CheckpointError, ValueError) as error:
                log.info("ram.not_recalled", extra={"path": str(path), "error": str(error)})
                path.unlink(missing_ok=True)
        self._folder.sweep()
        return len(self._copies)

    def sweep(self) -> None:
        """Remove what workers left behind that are gone."""
        if self._folder is not None:
            self._folder.sweep()

    def adopt(self, origin: str, layer: int, step: int, generation: int, path: str, digest: Digest) -> Copy:
        """Open `path` (of a worker: /proc/<pid>/fd/<fd>) as the copy of that name, in the place of any before.

        Raises:
            FileNotFoundError, PermissionError: the worker is gone.
            CorruptError: not of the size that was told, or another version by now.
            StorageError: no room, or no more open files.
        """
        self._take(digest.size)
        copy = Copy(
            layer=layer,
            step=step,
            generation=generation,
            digest=digest,
            file=HeldFile(_open(path, layer, digest.size)),
            origin=_checked(origin),
        )
        size = os.fstat(copy.file.fileno()).st_size
        if size != digest.size or copy.is_overwritten:
            copy.file.release()
            what = f"has {size} bytes, and {digest.size} were told" if size != digest.size else "is being overwritten"
            raise CorruptError(f"{copy}: {path} {what}")
        return self._add(copy)

    def new_buffer(self, layer: int, step: int, generation: int, size: int, origin: str) -> Incoming:
        """Raises: StorageError: no room, no memory, or no more open files."""
        if _checked(origin) != FETCHED:
            self._take(size)

        def copy_of(digest: Digest, file: HeldFile) -> Copy:
            return self._add(
                Copy(layer=layer, step=step, generation=generation, digest=digest, file=file, origin=origin)
            )

        name = f"layer {layer}, step {step}, from {origin}"
        try:
            return Incoming(copy_of, name, size, self._folder)
        except OSError as error:
            raise _no_memory(name, size, error) from error

    def find(self, layer: int, step: int, generation: int) -> tuple[Copy, ...]:
        """Whole copies of it, this node's own first."""
        named = (c for c in self._copies.values() if (c.layer, c.step, c.generation) == (layer, step, generation))
        found = self._whole(list(named))
        return tuple(sorted(found, key=lambda copy: (KINDS.index(copy.kind), copy.origin)))

    def copies(self) -> tuple[Copy, ...]:
        """All that are whole."""
        return tuple(self._whole(list(self._copies.values())))

    def versions(self, kinds: Collection[str] = KINDS) -> Mapping[tuple[int, int], frozenset[int]]:
        """By (step, generation), ascending: the layers of which a whole copy of one of these kinds is here."""
        found: dict[tuple[int, int], set[int]] = {}
        for copy in (copy for copy in self.copies() if copy.kind in kinds):
            found.setdefault(copy.version, set()).add(copy.layer)
        return {version: frozenset(found[version]) for version in sorted(found)}

    def drop(self, copy: Copy) -> None:
        """Its memory is given back when nobody reads from it any more. Dropped already: nothing."""
        key = _key(copy)
        if self._copies.get(key) is copy:
            del self._copies[key]
            if self._folder is not None:
                self._folder.forget(copy.file.fileno(), _note(copy))
                if copy.kind != OWN:
                    forget_file(copy.file.fileno())
        copy.file.release()

    def keep_only(self, predicate: Callable[[Copy], bool]) -> None:
        for copy in list(self._copies.values()):
            if not predicate(copy):
                self.drop(copy)

    def bytes_held(self) -> Mapping[str, int]:
        """By kind of origin. "own" counts what this node's workers hold too, not twice as much."""
        held = dict.fromkeys(KINDS, 0)
        for copy in self._copies.values():
            held[copy.kind] += copy.digest.size
        return held

    def verify(self, copy: Copy) -> None:
        """Read every byte of it; blocking, for a thread.

        Raises:
            CorruptError: naming layer, step and place in the blob. The copy is still listed: drop it.
            FileNotFoundError: it was dropped, or overwritten, before we were through.
        """
        buffer = memoryview(bytearray(min(copy.digest.chunk_bytes, copy.digest.size)))
        with copy.file.hold() as fd:
            for chunk, start, stop in chunks_of(copy.digest, 0, copy.digest.size):
                read = read_into(fd, buffer[: stop - start], start)
                try:
                    check_chunk(buffer[:read], copy.digest, chunk, str(copy))
                except CorruptError:
                    if copy.is_overwritten:
                        raise FileNotFoundError(errno.ENOENT, f"{copy} is being overwritten") from None
                    raise

    def close(self) -> None:
        self.keep_only(lambda copy: False)
        if self._folder is not None:
            self._folder.close()

    def _whole(self, copies: Iterable[Copy]) -> list[Copy]:
        """Of these. Copies that were overwritten without a word go here: their worker died before it could tell."""
        whole = []
        for copy in copies:
            if not copy.is_overwritten:
                whole.append(copy)
                continue
            place = {"layer": copy.layer, "step": copy.step, "generation": copy.generation}
            log.info("ram.overwritten", extra=place | {"origin": copy.origin})
            self.drop(copy)
        return whole

    def _add(self, copy: Copy) -> Copy:
        before = self._copies.get(_key(copy))
        if before is not None:
            self.drop(before)
        self._copies[_key(copy)] = copy
        if self._folder is not None:
            self._folder.note(copy.file.fileno(), _note(copy))
        return copy


def _key(copy: Copy) -> tuple[str, int, int, int]:
    return copy.origin, copy.layer, copy.step, copy.generation


def _note(copy: Copy) -> Note:
    return Note(origin=copy.origin, layer=copy.layer, step=copy.step, generation=copy.generation, digest=copy.digest)


def _checked(origin: str) -> str:
    if kind_of(origin) not in KINDS:
        raise ValueError(f"origin {origin!r} is none of own:<slot index>, peer:<node>, fetched")
    return origin


def _open(path: str, layer: int, size: int) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except ProcessLookupError as error:  # it ended while we looked
        raise FileNotFoundError(errno.ENOENT, "its process has ended", path) from error
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise _no_memory(f"layer {layer}", size, error) from error
        raise


def _no_memory(what: str, size: int, error: OSError) -> StorageError:
    return StorageError(
        f"no room in RAM for {what} ({size} bytes): {error.strerror}; give the node more memory, or more open files "
        "(ulimit -n) if those are the limit"
    )
