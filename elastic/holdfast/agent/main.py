"""Entry point of an agent process: `python -m holdfast.agent.main`."""

import argparse
import asyncio
import ctypes
import os
import shutil
import signal
import tempfile
from pathlib import Path

from holdfast.agent.agent import Agent, node_id, read_job
from holdfast.agent.settings import AgentSettings
from holdfast.stores.embedded import EmbeddedStore
from holdfast.telemetry.logs import set_up_logging

_PR_SET_PDEATHSIG = 1
SECRET_VARIABLE = "HOLDFAST_SECRET"


async def serve(settings: AgentSettings) -> None:
    store = EmbeddedStore(settings.store_host, settings.store_port, secret=settings.secret)
    try:
        job = await read_job(store, settings.job)
        await Agent(settings, store, job).run()
    finally:
        await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="holdfast-agent")
    parser.add_argument("--job", required=True)
    parser.add_argument("--store", required=True, help="host:port")
    parser.add_argument("--node", required=True, type=node_id)
    parser.add_argument("--host", default="127.0.0.1", help="address at which peers reach this node")
    parser.add_argument("--domain", default=None, help="failure domain; the node itself by default")
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--parent-pid", type=int, default=None, help="end when this parent process ends")
    arguments = parser.parse_args()
    if arguments.parent_pid is not None:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != arguments.parent_pid:
            return  # it ended before we asked to be told
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_up_logging(job=arguments.job, node=arguments.node)
    host, _, port = arguments.store.rpartition(":")
    scratch = Path(tempfile.mkdtemp(prefix="holdfast-"))
    try:
        settings = AgentSettings(
            job=arguments.job,
            store_host=host,
            store_port=int(port),
            node=arguments.node,
            host=arguments.host,
            domain=arguments.domain or arguments.node,
            slots=arguments.slots,
            scratch=scratch,
            secret=os.environ.get(SECRET_VARIABLE, "").encode(),
        )
        asyncio.run(serve(settings))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
