"""A zygote that dies or cannot fork leaves no slot without an end, and SIGTERM is for the agent alone."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness.realrun.jobs import children_of
from holdfast.agent import fork_server
from holdfast.agent.fork_server import Command, ForkServerProcess
from holdfast.agent.workers import Workers
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.messages import WorkerOrder
from holdfast.model.records import JobRecord
from holdfast.model.wire import encode

JOB = JobRecord(
    spec={"name": "toy", "program": {"entry": "toy.py:program"}, "steps": 5},
    base="/",
    out="/",
    layer_names=("a",),
    layer_bytes=(8,),
    microbatches=4,
    steps=5,
)
ORDER = WorkerOrder(
    slot=SlotId(NodeId("n"), 0), host="127.0.0.1", socket_path="/none", pulse_path="/none", key="00", job=JOB
)


async def test_a_zygote_that_dies_ends_each_worker_that_is_awaited_and_the_next_order_starts_another() -> None:
    ends: asyncio.Queue[tuple[int, int, str]] = asyncio.Queue()
    before = children_of(os.getpid())
    with tempfile.TemporaryDirectory() as folder:
        workers = Workers(
            NodeId("n"),
            "127.0.0.1",
            Path(folder),
            JOB,
            b"key",
            None,
            lambda *_: None,
            lambda *end: ends.put_nowait(end),
        )
        await workers.open(2)
        try:
            await asyncio.gather(workers.spawn(0), workers.spawn(1))
            (first,) = children_of(os.getpid()) - before
            os.kill(first, signal.SIGKILL)
            heard = sorted([await asyncio.wait_for(ends.get(), 10) for _ in range(2)])
            assert [(index, status) for index, status, _ in heard] == [(0, -9), (1, -9)]
            assert "its zygote ended" in heard[0][2]
            assert not workers.is_alive(0)

            await workers.spawn(0)
            (second,) = children_of(os.getpid()) - before
            assert second != first
            os.kill(second, signal.SIGKILL)
            assert (await asyncio.wait_for(ends.get(), 10))[:2] == (0, -9)
            assert ends.empty()
        finally:
            await workers.close()


async def test_an_order_that_could_not_be_carried_out_is_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "_AGAIN_S", 0.05)
    lost: list[tuple[int, int, int]] = []
    process = ForkServerProcess(
        "zygote", Command(module="none"), lambda *_: None, lambda *_: None, lambda *end: lost.append(end)
    )
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    reader, process._writer = await asyncio.open_connection(sock=ours)
    reading = asyncio.create_task(process._read(reader, process._writer))
    with theirs:
        await process.fork(0, 3, b"an order")
        assert await loop.sock_recv(theirs, 100) == b"an order\n"
        await loop.sock_sendall(theirs, b'{"not_forked": 0, "error": "no processes left"}\n')
        assert await asyncio.wait_for(loop.sock_recv(theirs, 100), 5) == b"an order\n"
    await asyncio.wait_for(reading, 10)
    assert lost == [(0, 3, 0)]
    await process.close()


@pytest.mark.slow
def test_a_zygote_that_cannot_fork_says_so_and_sigterm_ends_neither_it_nor_a_worker() -> None:
    script = (
        "import os, resource\n"
        "fork, left = os.fork, [1]\n"
        "def rarely():\n"
        "    if left: return left.pop() and fork()\n"
        "    raise BlockingIOError(11, 'Resource temporarily unavailable')\n"
        "os.fork = rarely\n"
        "import holdfast.worker.zygote as zygote, time\n"
        "class Idle:\n"
        "    def __init__(self, order): pass\n"
        "    def serve(self): time.sleep(600)\n"
        "zygote.Worker = Idle\n"
        "zygote.main()\n"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-c", script, "--fd", str(theirs.fileno()), "--node", "n"]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
        try:
            ours.settimeout(60)
            told = ours.makefile("r")
            ours.sendall(encode(ORDER) + b"\n")
            worker = json.loads(told.readline())["spawned"]
            os.kill(worker, signal.SIGTERM)
            process.terminate()
            ours.sendall(encode(ORDER) + b"\n")
            answer = json.loads(told.readline())  # not that the worker ended
            assert answer == {"not_forked": 0, "error": "[Errno 11] Resource temporarily unavailable"}
            told.close()
        finally:
            process.kill()
            process.communicate()


async def test_a_worker_that_does_not_die_is_killed_ever_more_rarely(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as folder:
        workers = Workers(NodeId("n"), "127.0.0.1", Path(folder), JOB, b"key", None, lambda *_: None, lambda *_: None)
        await workers.open(1)
        for _ in range(5):
            workers.kill(0, "no progress")
        await workers.close()
    assert [record.message for record in caplog.records].count("worker.kill") == 1
