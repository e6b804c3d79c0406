"""Process groups of one backend: how to make one and how to end what blocks in it. gloo and NCCL behind one face.

gloo in torch 2.13 cannot abort: the group's connected sockets are shut down instead, which ends a blocked
operation within a millisecond. Listening sockets are left alone (shutting one down aborts the process).
"""

import contextlib
import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

Message = tuple[int, Tensor]  # (peer's rank in the group, contiguous tensor)

# torch's own stubs know neither these backends' options nor that they are process groups.
ProcessGroup: TypeAlias = Any
_GLOO: Any = getattr(dist, "ProcessGroupGloo", None)
_NCCL: Any = getattr(dist, "ProcessGroupNCCL", None)


class Backend(Protocol):
    """Makes process groups; used from the thread that forms groups and from the one that aborts."""

    takes_strangers: bool  # whoever connects in time becomes a rank

    def create(self, store: dist.Store, rank: int, size: int, timeout: timedelta) -> ProcessGroup:
        """Form one group; blocks until every rank of it has called. The timeout is of each operation, too."""
        ...

    def exchange(self, group: ProcessGroup, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        """Send and receive all messages, in order between any two ranks; blocks until all are done."""
        ...

    def all_reduce(self, group: ProcessGroup, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over the group, in place; blocks until all are done."""
        ...

    def abort(self, groups: Sequence[ProcessGroup], sockets: frozenset[int]) -> None:
        """End whatever blocks in `groups`. `sockets`: inodes of the sockets opened while they were formed."""
        ...


class GlooBackend:
    """CPU tensors over TCP."""

    takes_strangers = True

    def __init__(self, host: str) -> None:
        self._device = _GLOO.create_device(hostname=host, lazy_init=False)

    def create(self, store: dist.Store, rank: int, size: int, timeout: timedelta) -> ProcessGroup:
        options = _GLOO._Options()
        options._timeout = timeout
        options._devices = [self._device]
        return _GLOO(store, rank, size, options)

    def exchange(self, group: ProcessGroup, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        works = [group.recv([tensor], peer, 0) for peer, tensor in receives]
        works += [group.send([tensor], peer, 0) for peer, tensor in sends]
        for work in works:
            work.wait()

    def all_reduce(self, group: ProcessGroup, tensors: Sequence[Tensor]) -> None:
        for work in [group.allreduce([tensor]) for tensor in tensors]:
            work.wait()

    def abort(self, groups: Sequence[ProcessGroup], sockets: frozenset[int]) -> None:
        for fd, inode in open_sockets().items():
            if inode in sockets:
                _shut_down_if_connected(fd)


class NcclBackend:
    """CUDA tensors; one communicator a group, aborted by NCCL itself. Only who read its id in the store can connect."""

    takes_strangers = False

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def create(self, store: dist.Store, rank: int, size: int, timeout: timedelta) -> ProcessGroup:
        options = _NCCL.Options()
        options._timeout = timeout
        group = _NCCL(store, rank, size, options)
        if size > 1:
            # The communicator is made lazily; making it here keeps its cost and its failures in the forming phase.
            self.all_reduce(group, [torch.zeros(1, device=self._device)])
        return group

    def exchange(self, group: ProcessGroup, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        if not sends and not receives:
            return
        group._group_start()
        works = [group.recv([tensor], peer, 0) for peer, tensor in receives]
        works += [group.send([tensor], peer, 0) for peer, tensor in sends]
        group._group_end()
        self._finish(works)

    def all_reduce(self, group: ProcessGroup, tensors: Sequence[Tensor]) -> None:
        self._finish([group.allreduce([tensor]) for tensor in tensors])

    def _finish(self, works: Sequence[Any]) -> None:
        """NCCL's own wait is only the stream's: without more, this thread would block at the first value it reads."""
        for work in works:
            work.wait()
        torch.cuda.current_stream(self._device).synchronize()

    def abort(self, groups: Sequence[ProcessGroup], sockets: frozenset[int]) -> None:
        for group in groups:
            group.abort()
        for fd, inode in open_sockets().items():
            if inode in sockets:
                _shut_down_if_connected(fd)


def make_backend(device: torch.device, host: str) -> Backend:
    return NcclBackend(device) if device.type == "cuda" else GlooBackend(host)


def open_sockets() -> dict[int, int]:
    """Inode of every socket this process has open, by descriptor."""
    found: dict[int, int] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # closed since it was listed
        if target.startswith("socket:["):
            found[int(name)] = int(target[8:-1])
    return found


def require_answers(sockets: frozenset[int], within_s: float) -> None:
    """Have the kernel break connections among `sockets` (inodes) whose other end answers nothing for so long, whether
    or not anything is sent: a cut network tells nobody. For a process that computes its kernel answers.
    """
    options = (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(within_s / 3))),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, round(within_s / 3))),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(within_s * 1000)),
    )
    for fd, inode in open_sockets().items():
        duplicate = duplicated(fd) if inode in sockets else None
        if duplicate is None:
            continue
        with duplicate, contextlib.suppress(OSError):  # broken meanwhile
            if duplicate.family in (socket.AF_INET, socket.AF_INET6):
                for option in options:
                    duplicate.setsockopt(*option)


def duplicated(fd: int) -> socket.socket | None:
    """The socket behind a descriptor that somebody else owns; None: it was closed since it was listed."""
    try:
        copy = os.dup(fd)
    except OSError:
        return None
    try:
        return socket.socket(fileno=copy)
    except OSError:  # by now it is something else
        os.close(copy)
        return None


def _shut_down_if_connected(fd: int) -> None:
    duplicate = duplicated(fd)
    if duplicate is not None:
        with duplicate, contextlib.suppress(OSError):  # listening, or already down
            duplicate.getpeername()
            duplicate.shutdown(socket.SHUT_RDWR)
