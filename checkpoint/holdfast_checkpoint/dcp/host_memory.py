"""Copies of the last save's blobs in this host's shared memory, for processes that restart here.

They are a cache of the repository's blobs: used only for a checkpoint whose manifest is committed there, and only where
the manifest's checksums are right. So no copy that is torn, stale or corrupt is ever taken, and none needs a keeper.
They outlive the processes; the next save, or `forget`, removes them.
"""

import os
import shutil
import stat
from pathlib import Path

import xxhash

from holdfast_checkpoint.errors import StorageDeniedError

SHARED_MEMORY = Path("/dev/shm")


class HostMemory:
    """Of one repository, for the user of this process."""

    def __init__(self, url: str, root: Path = SHARED_MEMORY) -> None:
        self._base = root / f"holdfast-{os.getuid()}"
        self._folder = self._base / xxhash.xxh3_64_hexdigest(url.encode())

    def copies(self, folder: str) -> tuple[Path, ...]:
        """Folders with blobs of that checkpoint, by the names that its manifest gives them; () if none."""
        return tuple(sorted(self._folder.glob(f"rank-*/{folder}"))) if self._is_ours() else ()

    def create(self, rank: int, folder: str, name: str, size: int) -> int:
        """A file of `size` bytes, which nobody reads before `publish` gives it its name. Returns its fd.

        Raises: OSError: there is no room. StorageDeniedError: another user made our folder.
        """
        self._base.mkdir(mode=0o700, exist_ok=True)
        if not self._is_ours():
            raise StorageDeniedError(f"{self._base} is another user's, or open to others: remove it")
        place = self._folder / f"rank-{rank}" / folder
        place.mkdir(parents=True, exist_ok=True)
        path = place / _unnamed(name)
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

    def publish(self, rank: int, folder: str, name: str) -> None:
        """Once it is whole; nothing happens if there was no room for it."""
        place = self._folder / f"rank-{rank}" / folder
        if (place / _unnamed(name)).exists():
            (place / _unnamed(name)).rename(place / name)

    def keep_only(self, rank: int, folder: str) -> None:
        """Of that rank's copies."""
        for other in (self._folder / f"rank-{rank}").glob("*"):
            if other.name != folder:
                shutil.rmtree(other, ignore_errors=True)

    def forget(self) -> None:
        """Free all of it."""
        if self._is_ours():
            shutil.rmtree(self._folder, ignore_errors=True)

    def _is_ours(self) -> bool:
        """Others could put a folder there before we do: it must be ours, and closed to them."""
        try:
            found = self._base.lstat()
        except OSError:
            return False
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and found.st_mode & 0o077 == 0


def _unnamed(name: str) -> str:
    return f".{name}.partial"
