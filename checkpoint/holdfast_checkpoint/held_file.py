"""A file that somebody may still be reading when its owner lets go of it."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from holdfast_checkpoint.aside import call_aside

# The kernel takes half a second and more to give back a GB of memory: too long for an event loop.
_LARGE_BYTES = 16 << 20


class HeldFile:
    """Owns a file descriptor; closed when its owner and all who read have let go, so that nobody ever reads from a
    descriptor that has become another file's. For any thread."""

    def __init__(self, fd: int) -> None:
        self._fd, self._users = fd, 1
        self._is_released = False
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        """For this process, while held: opens as a file of its own, with its own offset."""
        return f"/proc/self/fd/{self._fd}"

    def fileno(self) -> int:
        """Only good while held."""
        return self._fd

    @property
    def is_closed(self) -> bool:
        return self._users == 0

    @contextmanager
    def hold(self) -> Iterator[int]:
        """The descriptor, which stays open inside. Raises: FileNotFoundError: it is closed already."""
        with self._lock:
            if self._users == 0:
                raise FileNotFoundError(f"{self.path} was let go of; look the copy up again")
            self._users += 1
        try:
            yield self._fd
        finally:
            self._drop_user()

    def release(self) -> None:
        """The owner's: closed once nobody holds it any more. Again does nothing."""
        with self._lock:
            if self._is_released:
                return
            self._is_released = True
        self._drop_user()

    def _drop_user(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                give_back(lambda: os.close(self._fd), os.fstat(self._fd).st_size)


def give_back(release: Callable[[], None], size: int) -> None:
    """Of so many bytes: aside, where that takes long."""
    if size < _LARGE_BYTES:
        release()
    else:
        call_aside(release, "give-back")


def read_into(fd: int, target: memoryview, offset: int) -> int:
    """As many bytes as there are, at most the target's; without the GIL."""
    done = 0
    while done < len(target):
        count = os.preadv(fd, [target[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done
