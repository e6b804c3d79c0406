"""Copies of the last save's blobs in this host's shared memory, for processes that restart here.

They are a cache of the repository's blobs: used only for a checkpoint whose manifest is committed there, and only where
the manifest's checksums are right. So no copy that is torn, stale or corrupt is ever taken, and none needs a keeper.
They outlive the processes; the next save, or `forget`, removes them.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import xxhash

from holdfast_checkpoint.errors import StorageDeniedError
from holdfast_checkpoint.storage import check_url

SHARED_MEMORY = Path("/dev/shm")
_RANK = "rank-"
_PARTIAL = ".partial"
# Given a name and a size, makes a file of so many bytes, and returns its fd.
# Raises: OSError: there is no room. StorageDeniedError: another user made our folder.
Create: TypeAlias = Callable[[str, int], int]


class HostMemory:
    """Of one repository, for the user of this process."""

    def __init__(self, url: str, root: Path = SHARED_MEMORY) -> None:
        """Raises: StorageError: the URL is refused."""
        self._base = root / f"holdfast-{os.getuid()}"
        self._folder = self._base / xxhash.xxh3_64_hexdigest(check_url(url).encode())

    def copies(self, folder: str) -> tuple[Path, ...]:
        """Folders with blobs of that checkpoint, by the names that its manifest gives them; () if none."""
        return tuple(sorted(self._folder.glob(f"{_RANK}*/{folder}"))) if self._is_ours() else ()

    @contextmanager
    def saving(self, rank: int, ranks: int, folder: str) -> Iterator[Create]:
        """Around one rank's part of a save by `ranks`: what it creates appears at the end, all at once, and takes the
        place of that rank's copies before; or goes, if the part fails. What a killed process left goes at once."""
        self._remove(self._unfinished_of(rank))
        try:
            yield lambda name, size: self._create(rank, folder, name, size)
        except BaseException:
            self._remove([self._making(rank, folder)])
            raise
        if self._is_ours():
            self._keep_only(rank, ranks, folder)

    def forget(self) -> None:
        """Free all of it."""
        self._remove([self._folder])

    def _create(self, rank: int, folder: str, name: str, size: int) -> int:
        self._base.mkdir(mode=0o700, exist_ok=True)
        if not self._is_ours():
            raise StorageDeniedError(f"{self._base} is another user's, or open to others: remove it")
        place = self._making(rank, folder)
        place.mkdir(parents=True, exist_ok=True)
        path = place / name
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # Now, since a write that finds no room later is a signal that kills the process, or half a file.
            os.posix_fallocate(fd, 0, max(size, 1))
            os.ftruncate(fd, size)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        return fd

    def _keep_only(self, rank: int, ranks: int, folder: str) -> None:
        # Not there: there was no room, or this rank had nothing to save.
        with suppress(FileNotFoundError):
            self._making(rank, folder).rename(self._of(rank) / folder)
        self._remove(path for path in self._of(rank).glob("*") if path.name != folder)
        # Every rank does so, not the first alone: each host has a memory of its own.
        self._remove(path for path in self._folder.glob(f"{_RANK}*") if _number(path) >= ranks)

    def _of(self, rank: int) -> Path:
        return self._folder / f"{_RANK}{rank}"

    def _making(self, rank: int, folder: str) -> Path:
        """Where copies are until all of them are there: nobody looks for them under that name."""
        return self._of(rank) / f".{folder}{_PARTIAL}"

    def _unfinished_of(self, rank: int) -> list[Path]:
        """All but the newest whole one, which may be that of the last checkpoint."""
        found = sorted(self._of(rank).glob("*"), key=_made_ns)
        whole = [path for path in found if not path.name.endswith(_PARTIAL)]
        return [path for path in found if path not in whole[-1:]]

    def _remove(self, places: Iterable[Path]) -> None:
        if self._is_ours():
            for place in places:
                shutil.rmtree(place, ignore_errors=True)

    def _is_ours(self) -> bool:
        """Others could put a folder there before we do: it must be ours, and closed to them."""
        try:
            found = self._base.lstat()
        except OSError:
            return False
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and found.st_mode & 0o077 == 0


def _number(path: Path) -> int:
    """Of the rank whose folder that is; -1 of what is none."""
    number = path.name.removeprefix(_RANK)
    return int(number) if number.isdecimal() else -1


def _made_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # another save of this rank removed it
        return 0
