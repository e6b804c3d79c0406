"""What `commands` forks `holdfast` from: it has imported all that a command imports, and torch, which takes seconds."""

import os
import signal
import socket
import sys
import tempfile
from functools import partial
from unittest import mock

import fsspec

import holdfast.cli.running  # with all that the command line imports late
from harness.netns.network import enter_namespace
from harness.realrun.command_order import CommandOrder
from holdfast.agent.fork_server import ForkedChild, RunningServer
from holdfast.cli.local_node import be_agent, serve_nodes
from holdfast.cli.main import main as holdfast_main
from holdfast.model.wire import decode
from holdfast.telemetry.logs import set_up_logging
from holdfast.worker.forking import ForkServer, fork_server, leave_with, redirect
from holdfast.worker.zygote import share_memory


class _Ready:
    """In the place of the command that starts what a run forks its nodes from: it is there."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server

    def start(self) -> RunningServer:
        return self._server


def _become_command(order: CommandOrder) -> None:
    if order.network:
        with open(order.network, "rb") as network:
            enter_namespace(network.fileno())
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.environment)
    tempfile.tempdir = None
    redirect(sys.stdout, order.output)
    redirect(sys.stderr, order.errors)
    _know_storages()
    if order.arguments[0] == "agent":
        node = order.arguments[order.arguments.index("--node") + 1]
        be_agent(node, order.arguments[1:], {})
        return
    if order.arguments[0] == "run":
        pid, connection = fork_server(_serve_nodes)
        ready = _Ready(RunningServer(ForkedChild(pid), connection))
        mock.patch.object(holdfast.cli.running, "nodes_command", return_value=ready).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["holdfast", *order.arguments]
    holdfast_main()


def _serve_nodes(connection: socket.socket) -> None:
    """As what a run starts for it: with nothing of Holdfast's in the environment, out of reach of Ctrl-C."""
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        del os.environ[name]
    os.setsid()
    serve_nodes(connection)


def _know_storages() -> None:
    """What fsspec reads of the environment when it is imported."""
    for path in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if path and path not in sys.path:
            sys.path.insert(0, path)
    fsspec.process_entries()
    fsspec.config.conf.clear()
    fsspec.config.set_conf_files(fsspec.config.conf_dir, fsspec.config.conf)
    fsspec.config.set_conf_env(fsspec.config.conf)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal's Ctrl-C those hear who started this
    set_up_logging()
    share_memory()
    connection, read = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1])), partial(decode, CommandOrder)
    server = ForkServer("commands", connection, read, lambda order: order.number, _become_command, own_groups=True)
    leave_with(server.serve)


if __name__ == "__main__":
    main()
