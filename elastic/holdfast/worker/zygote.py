"""A process per node that has torch imported and no device touched, from which workers are forked in milliseconds.

A fork server (forking.py) whose orders are encoded WorkerOrders and whose numbers are those of slots. SIGTERM means
nothing to it and to its workers: a service manager sends it to every process of the agent, and the agent leaves in its
own time.
"""

# ruff: noqa: E402

import argparse
import faulthandler
import gc
import os
import signal
import socket
from functools import partial

# Nothing of what is imported ever goes; looking through it again and again would take a third of the start.
gc.disable()

import torch
import torch._dynamo  # noqa: F401  imported here once, so that no fork has to: it takes most of a second
import torch.distributed.pipelining  # noqa: F401

from holdfast.model.messages import WorkerOrder
from holdfast.model.wire import decode
from holdfast.telemetry.logs import set_up_logging
from holdfast.worker.forking import ForkServer, die_with_parent, leave_with
from holdfast.worker.main import Worker


def serve_zygote(connection: socket.socket, node: str) -> None:
    """Be the zygote of a node, until the socket closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_up_logging(node=node)
    share_memory()
    read = partial(decode, WorkerOrder)
    ForkServer("zygote", connection, read, lambda order: order.slot.index, _become_worker).serve()


def share_memory() -> None:
    """Children share the memory of what is there, as long as no collector touches it."""
    gc.freeze()
    gc.enable()


def _become_worker(order: WorkerOrder) -> None:
    # The agent asks for the stacks of a worker that it is about to kill for making no progress.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    Worker(order).serve()


def main() -> None:
    """Entry point of `python -m holdfast.worker.zygote`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--node", required=True)
    arguments = parser.parse_args()
    die_with_parent()
    leave_with(lambda: serve_zygote(socket.socket(fileno=arguments.fd), arguments.node))


if __name__ == "__main__":
    main()
