"""A worker's own shared memory: two buffers for each layer, so that a whole copy outlives every attempt at the next.

Invariant: no two buffers of a layer hold the same version, and a buffer that is being written holds none.
"""

import ctypes
import errno
import logging
import os
from pathlib import Path
from typing import Any

import torch

from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.header import LENGTH
from holdfast_checkpoint.ram_folder import forget_file, memory_file
from holdfast_checkpoint.stamp import Version

log = logging.getLogger(__name__)

_HUGE_BYTES = 2 << 20
_MADV_HUGEPAGE = 14
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_HOST_REGISTER_PORTABLE = 1
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Buffer:
    """A file in memory of `size` bytes, mapped and all there. Its size never changes: others may have it mapped too."""

    def __init__(self, name: str, size: int, folder: Path | None = None) -> None:
        """`folder`: see `ram_folder`; None: an anonymous one. Raises: OSError: no memory, or no more descriptors."""
        self.size = size
        self.fd = memory_file(name, folder)
        self._pinned: bool | None = None  # None: nobody asked for it
        try:
            os.ftruncate(self.fd, size)
            # Unlike Python's mmap this keeps no second file descriptor.
            self.bytes = _map(self.fd, size)
            _populate(self.fd, self.address, size)
        except BaseException:
            forget_file(self.fd)
            os.close(self.fd)
            raise
        array: Any = self.bytes.numpy()  # its stubs do not say that it is a buffer
        self.view = memoryview(array)
        self.version: Version | None = None
        self.digest: Digest | None = None

    @property
    def address(self) -> int:
        return self.bytes.data_ptr()

    def spoil(self) -> None:
        """Before the first write: from now on this holds no version, and whoever else has it open can see that."""
        self.version = self.digest = None
        self.view[: LENGTH.size] = bytes(LENGTH.size)

    def complete(self, head: bytes, version: Version, digest: Digest) -> None:
        """After the last write: the head, by which others see that this is whole."""
        self.view[LENGTH.size : len(head)] = head[LENGTH.size :]
        self.view[: LENGTH.size] = head[: LENGTH.size]
        self.version, self.digest = version, digest

    def pin(self) -> None:
        """Make it known to CUDA, so that a GPU writes to it by itself. Where that is refused, copies are slower."""
        if self._pinned is not None:
            return
        code = torch.cuda.cudart().cudaHostRegister(self.address, self.size, _HOST_REGISTER_PORTABLE)
        self._pinned = code == torch.cuda.cudart().cudaError.success
        if not self._pinned:
            log.warning("snapshot.not_pinned", extra={"bytes": self.size, "error": str(code)})

    def close(self) -> None:
        """Others who have it open keep it, without its name if it had one."""
        if self._pinned:
            torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(self.address))
        self.view.release()
        del self.bytes
        forget_file(self.fd)
        os.close(self.fd)


class LayerBuffers:
    """A layer's two buffers."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._pair: list[Buffer | None] = [None, None]

    @property
    def versions(self) -> tuple[Version | None, ...]:
        return tuple(None if buffer is None else buffer.version for buffer in self._pair)

    def __getitem__(self, at: int) -> Buffer:
        buffer = self._pair[at]
        assert buffer is not None
        return buffer

    def sized(self, at: int, name: str, size: int) -> Buffer:
        """The buffer there, of that size, spoilt. Raises: OSError: as `Buffer`."""
        buffer = self._pair[at]
        if buffer is None or buffer.size != size:
            # The old one goes first: there are never more than two.
            self._pair[at] = None
            if buffer is not None:
                buffer.close()
            self._pair[at] = buffer = Buffer(name, size, self._folder)
        buffer.spoil()
        return buffer

    def close(self) -> None:
        for buffer in self._pair:
            if buffer is not None:
                buffer.close()
        self._pair = [None, None]


def _map(fd: int, size: int) -> torch.Tensor:
    try:
        return torch.from_file(f"/proc/self/fd/{fd}", shared=True, size=size, dtype=torch.uint8)
    except RuntimeError as error:  # torch's only kind; that the file is there and large enough we have just seen to
        raise OSError(errno.ENOMEM, f"{os.strerror(errno.ENOMEM)} ({error})") from error


def _populate(fd: int, address: int, size: int) -> None:
    """Have all pages there: an error now, instead of a signal in the midst of a copy, and no page faults then."""
    if size >= _HUGE_BYTES:
        _libc.madvise(address, size, _MADV_HUGEPAGE)  # a wish: where the system has none for shared memory, no harm
    if _libc.madvise(address, size, _MADV_POPULATE_WRITE) != 0:
        code = ctypes.get_errno()
        if code != errno.EINVAL:
            raise OSError(code, os.strerror(code))
        os.posix_fallocate(fd, 0, size)
