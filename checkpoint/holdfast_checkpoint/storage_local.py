"""Checkpoints in a local (or mounted) file system. What was stored survives the machine losing power.

A file is written beside its place, flushed, put in its place in one step, and then its folder is flushed. So nobody
ever sees part of one, and what is left of a write that was cut off has a name that begins with a dot.
"""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from holdfast_checkpoint.digest import Buffer
from holdfast_checkpoint.storage_backend import Entry, Source

_PIECE_BYTES = 1 << 20
# File systems without hard links (FAT, some network ones) say so in different ways.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
# Some mounted ones do not flush folders: what is in them is as durable as their server makes it.
_NO_FLUSH = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS})


class LocalBackend:
    def __init__(self, root: str) -> None:
        self.streams = min(4, os.cpu_count() or 1)
        self._root = Path(root)

    def put(self, path: str, data: Buffer, create_only: bool) -> bool:
        return self._store(self._root / path, lambda file: _write_all(file, memoryview(data).cast("B")), create_only)

    def put_file(self, path: str, source: Source) -> None:
        def copy(file: int) -> None:
            # Small enough to stay in the processor's cache from reading over verifying to writing.
            for piece in source.pieces(memoryview(bytearray(_PIECE_BYTES))):
                _write_all(file, piece)

        self._store(self._root / path, copy, create_only=False)

    def size_of(self, path: str) -> int:
        return (self._root / path).stat().st_size

    def entries(self, folder: str) -> Sequence[Entry]:
        return tuple(self._walk(self._root / folder))

    def read_into(self, path: str, start: int, buffer: memoryview) -> int:
        file = os.open(self._root / path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            at = 0
            while at < len(buffer):
                count = os.preadv(file, [buffer[at:]], start + at)
                if count == 0:
                    break
                at += count
            return at
        finally:
            os.close(file)

    def remove(self, path: str) -> None:
        place = self._root / path
        with contextlib.suppress(FileNotFoundError):
            place.unlink()
            _flush_folder(place.parent)

    def remove_folder(self, folder: str) -> None:
        place = self._root / folder
        # Somebody else may be removing it too: what is gone already is what we want.
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(place)
            _flush_folder(place.parent)

    def _store(self, place: Path, write: Callable[[int], None], create_only: bool) -> bool:
        if create_only and place.exists():
            return False
        _make_folder(place.parent)
        partial = place.with_name(f".{place.name}.{secrets.token_hex(6)}.partial")
        file = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        try:
            try:
                write(file)
                os.fsync(file)
            finally:
                os.close(file)
            is_stored = _link(partial, place) if create_only else _replace(partial, place)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
        _flush_folder(place.parent)
        return is_stored

    def _walk(self, folder: Path) -> Iterator[Entry]:
        try:
            found = sorted(os.scandir(folder), key=lambda one: one.name)
        except FileNotFoundError:
            return
        for one in found:
            if one.is_dir(follow_symlinks=False):
                yield from self._walk(Path(one.path))
                continue
            # Gone since it was listed: removed, or a partial file that has got its name.
            with contextlib.suppress(FileNotFoundError):
                facts = one.stat()
                path = Path(one.path).relative_to(self._root).as_posix()
                yield Entry(path=path, size=facts.st_size, modified_s=facts.st_mtime)


def _link(partial: Path, place: Path) -> bool:
    """In one step, unless there is one already, which is then left alone (False)."""
    try:
        os.link(partial, place)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return not place.exists() and _replace(partial, place)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    return True


def _replace(partial: Path, place: Path) -> bool:
    partial.replace(place)
    return True


def _write_all(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]


def _make_folder(folder: Path) -> None:
    """With its parents, each of them durable: a flushed file in a folder that is lost with the power is lost too."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _flush_folder(folder.parent)


def _flush_folder(folder: Path) -> None:
    try:
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # removed meanwhile, by whoever collects garbage: there is nothing to flush
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
    finally:
        os.close(file)
