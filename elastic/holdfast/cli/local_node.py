"""What nodes of a local run are forked from: a fork server that has imported an agent and torch, once for all of them.

Each node is a process group of its own, which a fault can hit as one: an agent that is started as `holdfast agent`
would be, and its zygote, forked before the agent has a thread. So a run of many nodes starts in the time of one, and a
node that joins is there at once.
"""

# ruff: noqa: E402

import argparse
import contextlib
import gc
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from holdfast.worker.forking import ForkServer, die_with_parent, fork_server, leave_with, redirect

if __name__ == "__main__":
    die_with_parent()  # before what takes seconds to import
gc.disable()  # as in the zygote

import holdfast.cli.serving  # noqa: F401  which the command line imports late
from holdfast.agent.main import allow_many_files
from holdfast.cli.access import SECRET
from holdfast.cli.main import main as holdfast_main
from holdfast.model.messages import NodeOrder
from holdfast.model.wire import decode
from holdfast.telemetry.logs import set_up_logging
from holdfast.worker.zygote import serve_zygote, share_memory


def serve_nodes(connection: socket.socket) -> None:
    """Fork a node for each NodeOrder, until the socket closes."""
    # Of Ctrl-C the run tells the nodes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_up_logging()
    share_memory()
    read = partial(decode, NodeOrder)
    ForkServer("nodes", connection, read, lambda order: order.number, _become_node, own_groups=True).serve()


def _become_node(order: NodeOrder) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    redirect(sys.stdout, order.log)
    redirect(sys.stderr, order.log)
    os.environ.update(order.environment)
    tempfile.tempdir = None  # what was imported here may have asked for it, before the environment named another
    be_agent(order.node, order.arguments, {SECRET: order.secret})


def be_agent(node: str, arguments: Sequence[str], secrets: Mapping[str, str]) -> None:
    """Be `holdfast agent` with these arguments, to its end. `secrets`: of the environment, which its workers are not to
    inherit."""
    with contextlib.suppress(OSError):  # for ps and top; the kernel cuts it at 15 bytes
        Path("/proc/self/comm").write_text(node, encoding="utf-8")
    allow_many_files()
    zygote, connection = fork_server(partial(serve_zygote, node=node))
    os.environ.update(secrets)
    sys.argv = ["holdfast", "agent", *arguments, "--zygote", f"{zygote}:{connection.detach()}"]
    holdfast_main()


def main() -> None:
    """Entry point of `python -m holdfast.cli.local_node`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    arguments = parser.parse_args()
    leave_with(lambda: serve_nodes(socket.socket(fileno=arguments.fd)))


if __name__ == "__main__":
    main()
