"""Where bytes of a blob come from: a folder of this machine (disk or shared memory), or a repository anywhere."""

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol

from holdfast_checkpoint.errors import CorruptError, StorageError
from holdfast_checkpoint.manifest import BlobEntry
from holdfast_checkpoint.remote import Repository

_IOV_MAX = 512  # Linux takes 1024
_LOCAL = ("file", "local")


class Source(Protocol):
    """Thread-safe. `is_near`: many small reads cost no more than a large one. `what`: of a blob, for messages."""

    is_near: bool

    def what(self, entry: BlobEntry) -> str: ...

    def has(self, entry: BlobEntry) -> bool:
        """Whether it is worth asking."""
        ...

    def read_into(self, entry: BlobEntry, start: int, views: Sequence[memoryview]) -> None:
        """Bytes from `start` on, one view after the other. Raises: CorruptError, StorageError."""
        ...

    def close(self) -> None: ...


class LocalSource:
    """Straight from files into the caller's memory."""

    is_near = True

    def __init__(self, folder: Path, *, is_optional: bool = False) -> None:
        self._folder, self._is_optional = folder, is_optional
        self._lock = threading.Lock()
        self._fds: dict[str, int] = {}

    def what(self, entry: BlobEntry) -> str:
        return str(self._folder / entry.path)

    def has(self, entry: BlobEntry) -> bool:
        return not self._is_optional or (self._folder / entry.path).exists()

    def read_into(self, entry: BlobEntry, start: int, views: Sequence[memoryview]) -> None:
        fill(self._open(entry), start, views, self.what(entry), entry.size)

    def close(self) -> None:
        with self._lock:
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()

    def _open(self, entry: BlobEntry) -> int:
        with self._lock:
            if entry.path not in self._fds:
                try:
                    self._fds[entry.path] = os.open(self._folder / entry.path, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError as error:
                    raise CorruptError(f"{self.what(entry)} is missing, and the manifest names it") from error
                except OSError as error:
                    reason = errno.errorcode.get(error.errno or 0, "")
                    raise StorageError(f"{self.what(entry)} cannot be read: {error.strerror} ({reason})") from error
            return self._fds[entry.path]


class RepositorySource:
    """Ranges through fsspec."""

    is_near = False

    def __init__(self, repository: Repository, folder: str) -> None:
        self._repository, self._folder = repository, folder

    def what(self, entry: BlobEntry) -> str:
        return f"{self._repository.url}/{self._folder}/{entry.path}"

    def has(self, entry: BlobEntry) -> bool:
        return True

    def read_into(self, entry: BlobEntry, start: int, views: Sequence[memoryview]) -> None:
        size = sum(len(view) for view in views)
        data = memoryview(self._repository.read_range(self._folder, entry, start, start + size))
        for view in views:
            view[:], data = data[: len(view)], data[len(view) :]

    def close(self) -> None:
        """Nothing is held."""


def fill(fd: int, start: int, views: Sequence[memoryview], what: str, size: int) -> None:
    """From a file, one view after the other. Raises: CorruptError: it ends before; `size`: what was written."""
    at, left = start, [view for view in views if view]
    while left:
        count = os.preadv(fd, left[:_IOV_MAX], at)
        if count == 0:
            raise CorruptError(f"{what} has {at} bytes, and {size} were written")
        at += count
        left = _rest(left, count)


def source_of(repository: Repository, folder: str) -> Source:
    """The quickest way to that folder."""
    root = local_root(repository.url)
    return RepositorySource(repository, folder) if root is None else LocalSource(root / folder)


def local_root(url: str) -> Path | None:
    """The folder of this machine that `url` names; None if it names another storage."""
    if get_protocol(url) not in _LOCAL:
        return None
    # fsspec's own reading of it (a home folder, a relative path), so that it is where the repository is.
    return Path(LocalFileSystem._strip_protocol(url))


def _rest(views: Sequence[memoryview], count: int) -> list[memoryview]:
    """What remains after the first `count` bytes."""
    for index, view in enumerate(views):
        if count < len(view):
            return [view[count:], *views[index + 1 :]]
        count -= len(view)
    return []
