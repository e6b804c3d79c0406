"""Where bytes of a blob come from: a folder of this machine (disk or shared memory), or a repository anywhere."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol

from holdfast_checkpoint.errors import CorruptError, StorageBusyError
from holdfast_checkpoint.manifest import BlobEntry
from holdfast_checkpoint.remote import Repository
from holdfast_checkpoint.storage_errors import translated
from holdfast_checkpoint.storage_retry import Patience

_IOV_MAX = 512  # Linux takes 1024
_LOCAL = ("file", "local")
T = TypeVar("T")


class Source(Protocol):
    """Thread-safe. `is_near`: many small reads cost no more than a large one, and nothing is verified; else it is, and
    what is corrupt was read again. `what`: of a blob, for messages."""

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
    """Straight from files into the caller's memory. `patience`: with what fails for now; None has none."""

    is_near = True

    def __init__(self, folder: Path, *, is_optional: bool = False, patience: Patience | None = None) -> None:
        self._folder, self._is_optional, self._patience = folder, is_optional, patience
        self._lock = threading.Lock()
        self._fds: dict[str, int] = {}

    def what(self, entry: BlobEntry) -> str:
        return str(self._folder / entry.path)

    def has(self, entry: BlobEntry) -> bool:
        return not self._is_optional or (self._folder / entry.path).exists()

    def read_into(self, entry: BlobEntry, start: int, views: Sequence[memoryview]) -> None:
        what = self.what(entry)

        def anew() -> None:
            # A handle that has gone stale stays so; others may be reading through the one that is kept.
            fd = _opened(Path(what))
            try:
                fill(fd, start, views, what, entry.size)
            finally:
                os.close(fd)

        try:
            fill(self._open(entry), start, views, what, entry.size)
        except StorageBusyError as error:
            if self._patience is None:
                raise
            self._patience.call(after_failure(error, anew), "read", what)

    def close(self) -> None:
        with self._lock:
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()

    def _open(self, entry: BlobEntry) -> int:
        with self._lock:
            if entry.path not in self._fds:
                self._fds[entry.path] = _opened(self._folder / entry.path)
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
    """From a file, one view after the other; `size`: what was written.

    Raises: CorruptError: it ends before. StorageError.
    """
    at, left = start, [view for view in views if view]
    while left:
        try:
            count = os.preadv(fd, left[:_IOV_MAX], at)
        except OSError as error:
            raise translated(error, "read", what) from error
        if count == 0:
            raise CorruptError(f"{what} has {at} bytes, and {size} were written")
        at += count
        left = _rest(left, count)


def after_failure(error: Exception, read: Callable[[], T]) -> Callable[[], T]:
    """`read`, the first call of which is over, and failed so. For reads that are so quick that to make them repeatable
    takes longer: that begins once one has failed."""
    failed = [error]

    def call() -> T:
        if failed:
            raise failed.pop()
        return read()

    return call


def source_of(repository: Repository, folder: str) -> Source:
    """The quickest way to that folder."""
    root = local_root(repository.url)
    return RepositorySource(repository, folder) if root is None else LocalSource(root / folder, patience=Patience())


def local_root(url: str) -> Path | None:
    """The folder of this machine that `url` names; None if it names another storage."""
    if get_protocol(url) not in _LOCAL:
        return None
    # fsspec's own reading of it (a home folder, a relative path), so that it is where the repository is.
    return Path(LocalFileSystem._strip_protocol(url))


def _opened(path: Path) -> int:
    """Raises: CorruptError: it is not there. StorageError."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise CorruptError(f"{path} is missing, and the manifest names it") from error
    except OSError as error:
        raise translated(error, "read", str(path)) from error


def _rest(views: Sequence[memoryview], count: int) -> list[memoryview]:
    """What remains after the first `count` bytes."""
    for index, view in enumerate(views):
        if count < len(view):
            return [view[count:], *views[index + 1 :]]
        count -= len(view)
    return []
