"""A job that all nodes leave at once loses nothing: what they held lies in storage before the last of them goes, and
nodes that come later, under old names or new ones, go on from there."""

import asyncio
import json
from pathlib import Path

import pytest

from harness.realrun.cluster import Cluster, cluster
from harness.realrun.jobs import Ended, toy_spec
from holdfast.cli.target import Target
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import DrainRecord
from holdfast.model.wire import encode
from holdfast.ports.store import Compare, Put
from holdfast.stores.address import StoreAccess, parse_store
from holdfast_checkpoint.remote import Repository

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
STEPS, GRACE_S = 24, 60.0


def drain_all(nodes: Cluster, names: list[str]) -> None:
    """As the operator suspends a job: a drain for each of its nodes."""
    target = Target(job="toy", address=parse_store(nodes.store), access=StoreAccess(secret=nodes.secret))

    async def write() -> None:
        keys = Keys(job="toy")
        async with target.open() as store:
            for name in names:
                record = DrainRecord(node=NodeId(name), grace_s=GRACE_S, reason="suspended")
                key = keys.drain(record.node)
                await store.transact([Compare(key=key, exists=False)], [Put(key=key, value=encode(record))])

    asyncio.run(write())


def test_a_job_left_by_all_its_nodes_goes_on_with_others_and_ends_with_the_undisturbed_bits(
    undisturbed: Ended, tmp_path: Path
) -> None:
    url, every = str(tmp_path / "checkpoints"), 10**6
    fields = {"nodes": {"min": 2, "desired": 2}, "checkpoints": {"url": url, "every": every}}
    spec = toy_spec(tmp_path, params={"pause_s": 0.03}, steps=STEPS, **fields)
    with cluster(tmp_path / "cluster") as nodes:
        nodes.submit(spec, tmp_path / "out")
        for name in ("a", "b"):
            nodes.start(name)
        nodes.wait_for(lambda: nodes.status()["step"] >= 5, "training")
        drain_all(nodes, ["a", "b"])
        for left in ("a.0", "b.1"):
            assert nodes.agents[left].wait(GRACE_S) == 0, nodes.logs()
        step = nodes.status()["step"]
        newest, manifest = Repository(url).newest()
        assert manifest.step == step < STEPS, f"the last committed step is {step}, the checkpoint is {newest}"

        for name in ("b", "c"):  # a name that was drained, and a new one
            nodes.start(name)
        nodes.wait_for(lambda: nodes.status()["outcome"], "at its end")
        collected = json.loads(nodes.command("collect", str(tmp_path / "out"), "--json"))

    assert collected["weights_sha256"] == undisturbed.report["weights_sha256"]
    assert collected["optimizer_sha256"] == undisturbed.report["optimizer_sha256"]
