"""What a node does with its workers' snapshots follows from the plan under which they were taken."""

import asyncio
import os
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from holdfast.agent.credentials import Credentials
from holdfast.agent.peers import Peers
from holdfast.agent.tiers import Home, Tiers
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.messages import SnapshotBlob, Snapshotted
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.model.records import (
    Action,
    AgentRef,
    Cause,
    GenerationRecord,
    JobRecord,
    StartRecord,
    StopMode,
    UploadRecord,
    Version,
)
from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.header import LENGTH

pytestmark = pytest.mark.asyncio
A, B = NodeId("a"), NodeId("b")
LAYERS, VERSION = 4, Version(10, 1)


def job(url: Path) -> JobRecord:
    return JobRecord(
        spec={
            "name": "toy",
            "program": {"entry": "toy.py:program"},
            "steps": 50,
            "checkpoints": {"url": str(url)},
        },
        base="/",
        out="/",
        layer_names=tuple("wxyz"),
        layer_bytes=(1000,) * LAYERS,
        microbatches=4,
        steps=50,
        run="run",
    )


def replicas() -> Plan:
    """Each node holds all."""
    return Plan(
        tuple(Pipeline((Stage(SlotId(node, 0), Span(0, LAYERS)),), Span(n, n + 1)) for n, node in enumerate((A, B)))
    )


def halves() -> Plan:
    """`b` holds the first half alone, `a` the second."""
    stages = (Stage(SlotId(B, 0), Span(0, 2)), Stage(SlotId(A, 0), Span(2, LAYERS)))
    return Plan((Pipeline(stages, Span(0, 2)),))


def record(number: int) -> GenerationRecord:
    agents = tuple(AgentRef(node=node, incarnation="i", host="127.0.0.1", port=1, domain=node) for node in (A, B))
    return GenerationRecord(
        number=number,
        members=(),
        leavers=(),
        stop=StopMode.BOUNDARY,
        cause=Cause.START,
        reason="test",
        agents=agents,
    )


def start(number: int, plan: Plan) -> StartRecord:
    return StartRecord(
        generation=number,
        action=Action.TRAIN,
        version=VERSION,
        plan=plan,
        transfers=(),
        roll_forward=None,
        redone_steps=0,
        initialise=False,
        kept=VERSION,
    )


class Node:
    """Its one worker is this process."""

    def __init__(self, name: NodeId, url: Path, stack: ExitStack) -> None:
        self.uploaded: list[UploadRecord] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._stack = stack
        home = Home(
            tell_worker=lambda *_: None,
            worker_pid=lambda _: os.getpid(),
            say_upload=lambda said: self.uploaded.append(said.record),
            snapshots_changed=lambda *_: None,
            restore_failed=lambda *_: None,
            restore_waits=lambda *_: None,
            in_background=self._begin,
            corrupt=lambda _: None,
        )
        self.tiers = Tiers(job(url), home, name, Peers(Credentials(b"0123456789abcdef", "toy")))

    def _begin(self, work: Coroutine[Any, Any, None], _: str) -> None:
        self.tasks.append(asyncio.create_task(work))

    def take(self) -> None:
        """A snapshot of all layers, for a checkpoint."""
        blobs = []
        for layer in range(LAYERS):
            data = LENGTH.pack(1000) + bytes([layer]) * (1000 - LENGTH.size)
            fd = os.memfd_create(f"layer-{layer}")
            self._stack.callback(os.close, fd)
            os.write(fd, data)
            digest = digest_of(data)
            blobs.append(
                SnapshotBlob(layer=layer, fd=fd, size=1000, chunk_bytes=digest.chunk_bytes, chunks=digest.chunks)
            )
        message = Snapshotted(version=VERSION, blobs=tuple(blobs), for_checkpoint=True, loss=0.5, copy_s=0.0)
        self.tiers.snapshot_said(0, message)

    async def written(self) -> set[int]:
        await asyncio.gather(*self.tasks)
        return {blob.layer for said in self.uploaded for blob in said.blobs}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


async def test_replicas_of_which_one_has_seen_the_next_plan_leave_no_layer_to_each_other(
    tmp_path: Path, stack: ExitStack
) -> None:
    nodes = [Node(name, tmp_path, stack) for name in (A, B)]
    for node in nodes:
        node.tiers.tend(record(1), start(1, replicas()))
        node.take()
    nodes[0].tiers.tend(record(2), start(2, halves()))

    shares = [await node.written() for node in nodes]
    assert shares[0] | shares[1] == set(range(LAYERS))
    assert not shares[0] & shares[1], "and each layer is written once"
    for node in nodes:
        await node.tiers.close(1.0)
