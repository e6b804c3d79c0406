"""A fork server: a process that has imported what its children need and has one thread, which forks them on demand.

Spoken to over a socket: one JSON line a request, one JSON line an event.
    an encoded order        ->  {"spawned": pid, "number": the order's}
                                or  {"not_forked": the order's number, "error": why}
    (a child ends)          ->  {"exited": pid, "status": exit code, negative for a signal}
It ends, and its children with it, when the socket closes.
"""

import contextlib
import ctypes
import json
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Generic, NoReturn, TextIO, TypeVar

from holdfast.errors import ProtocolError
from holdfast.model.wire import FRAME_BYTES_MAX

log = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1
Order = TypeVar("Order")


def die_with_parent(parent: int | None = None) -> None:
    """Linux: get SIGKILL when the parent ends, however it ends. `parent`: its pid, where that is known; if it has ended
    already, so does this process."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def fork_server(serve: Callable[[socket.socket], None]) -> tuple[int, socket.socket]:
    """The pid of a child that serves and ends with this process, and this end of its socket. Called before this process
    has a second thread."""
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with_parent(parent)
        ours.close()
        leave_with(lambda: serve(theirs))
    theirs.close()
    return pid, ours


def redirect(stream: TextIO, path: str) -> None:
    """What this process and its children write there from now on goes to the end of a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, stream.fileno())
    os.close(file)


class ForkServer(Generic[Order]):
    """`read` an order, give its `number`, and, in the child, `become` what it says; the child ends when that returns.

    What a child gets: no descriptor of the server's own, no signal handler of its, and death when the server ends.
    """

    def __init__(
        self,
        name: str,
        connection: socket.socket,
        read: Callable[[bytes], Order],
        number: Callable[[Order], int],
        become: Callable[[Order], None],
        *,
        own_groups: bool = False,
    ) -> None:
        """`name`: what its events in the log begin with. `read` raises ProtocolError for what is no order.
        `own_groups`: each child leads a process group, from before anybody is told of it."""
        self._name, self._connection, self._own_groups = name, connection, own_groups
        self._read, self._number, self._become = read, number, become
        self._unread = b""
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        signal.set_wakeup_fd(self._wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._connection, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until the socket closes."""
        while True:
            for key, _ in self._selector.select():
                if key.fd == self._wake_read:
                    os.read(self._wake_read, 4096)
                    self._reap()
                else:
                    received = self._connection.recv(1 << 20)
                    if not received:
                        return
                    *orders, self._unread = (self._unread + received).split(b"\n")
                    if len(self._unread) > FRAME_BYTES_MAX:
                        log.error("%s.malformed", self._name, extra={"error": "an order without end"})
                        return
                    for order in orders:
                        self._obey(order)

    def _obey(self, line: bytes) -> None:
        try:
            order = self._read(line)
        except ProtocolError as error:
            log.error("%s.malformed", self._name, extra={"error": str(error)[:200]})
            return
        number, parent = self._number(order), os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # no processes or memory left: whoever asked asks again
            self._tell({"not_forked": number, "error": str(error)})
            return
        if pid == 0:
            self._be_child(order, parent)
        if self._own_groups:
            with contextlib.suppress(OSError):  # it has ended already
                os.setpgid(pid, pid)
        self._tell({"spawned": pid, "number": number})

    def _be_child(self, order: Order, parent: int) -> NoReturn:
        def child() -> None:
            if self._own_groups:
                os.setpgid(0, 0)
            die_with_parent(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            self._connection.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._become(order)

        leave_with(child)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._tell({"exited": pid, "status": os.waitstatus_to_exitcode(status)})

    def _tell(self, event: Mapping[str, int | str]) -> None:
        self._connection.sendall(json.dumps(event).encode() + b"\n")


def leave_with(work: Callable[[], None]) -> NoReturn:
    """Do it, then end this process with its status, as one that was forked has to: what the parent had planned for its
    own end (handlers, buffers, all of torch to be taken apart) is not the child's to run."""
    status = 1
    try:
        work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        log.exception("process.failed")
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
