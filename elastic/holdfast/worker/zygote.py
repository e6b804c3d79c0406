"""A process per node that has torch imported and no device touched, from which workers are forked in milliseconds.

Spoken to over the socket given as --fd: one JSON line a request, one JSON line an event.
    an encoded WorkerOrder              ->  {"spawned": pid, "slot": index}
                                        or  {"not_forked": index, "error": why}
    (a child ends)                      ->  {"exited": pid, "status": exit code, negative for a signal}
It ends, and its workers with it, when the socket closes. SIGTERM means nothing to it and to its workers: a service
manager sends it to every process of the agent, and the agent leaves in its own time.
"""

# ruff: noqa: E402

import argparse
import ctypes
import faulthandler
import gc
import json
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Mapping
from typing import NoReturn

# Nothing of what is imported ever goes; looking through it again and again would take a third of the start.
gc.disable()

import torch
import torch._dynamo  # noqa: F401  imported here once, so that no fork has to: it takes most of a second
import torch.distributed.pipelining  # noqa: F401

from holdfast.errors import ProtocolError
from holdfast.model.messages import WorkerOrder
from holdfast.model.wire import FRAME_BYTES_MAX, decode
from holdfast.telemetry.logs import set_up_logging
from holdfast.worker.main import Worker

log = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Linux: get SIGKILL when the parent ends, however it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Zygote:
    """The fork server: one thread, no torch operation before a fork."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unread = b""
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        signal.set_wakeup_fd(self._wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._connection, selectors.EVENT_READ)
        selector.register(self._wake_read, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == self._wake_read:
                    os.read(self._wake_read, 4096)
                    self._reap()
                else:
                    received = self._connection.recv(1 << 20)
                    if not received:
                        return
                    *orders, self._unread = (self._unread + received).split(b"\n")
                    if len(self._unread) > FRAME_BYTES_MAX:
                        log.error("zygote.malformed", extra={"error": "an order without end"})
                        return
                    for order in orders:
                        self._obey(order)

    def _obey(self, line: bytes) -> None:
        try:
            order = decode(WorkerOrder, line)
        except ProtocolError as error:
            log.error("zygote.malformed", extra={"error": str(error)[:200]})
            return
        self._fork(order)

    def _fork(self, order: WorkerOrder) -> None:
        try:
            pid = os.fork()
        except OSError as error:  # no processes or memory left: the agent asks again
            self._tell({"not_forked": order.slot.index, "error": str(error)})
            return
        if pid == 0:
            self._become_worker(order)
        self._tell({"spawned": pid, "slot": order.slot.index})

    def _become_worker(self, order: WorkerOrder) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with_parent()
            # The agent asks for the stacks of a worker that it is about to kill for making no progress.
            faulthandler.register(signal.SIGUSR1, all_threads=True)
            self._connection.close()
            torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
            Worker(order).serve()
            status = 0
        finally:
            # Not sys.exit: the zygote's exit handlers and buffers are not the worker's to run.
            sys.stderr.flush()
            os._exit(status)

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


def main() -> None:
    """Entry point of `python -m holdfast.worker.zygote`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--node", required=True)
    arguments = parser.parse_args()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_up_logging(node=arguments.node)
    # Workers share the memory of what is there, as long as no collector touches it.
    gc.freeze()
    gc.enable()
    Zygote(socket.socket(fileno=arguments.fd)).serve()
    sys.stderr.flush()
    os._exit(0)  # to take all of torch apart would take longer than anybody waits


if __name__ == "__main__":
    main()
