"""Garbage under every key of a live job: it is told of, and the job ends with the weights it would have had."""

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.realrun.cluster import Cluster, cluster
from harness.realrun.jobs import Ended, toy_spec, undisturbed
from holdfast.errors import LeaseExpiredError
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.stores.address import StoreAccess, open_store, parse_store

pytestmark = [pytest.mark.slow, pytest.mark.chaos]
GARBAGE = (
    b"",
    b"\xff\x00\xfe",
    b"{}",
    b"[" * 2000,
    b'{"v":1,"body":null}',
    b'{"v":1,"body":{"node":"x"}}',
    b'{"v":1,"body":{"generation":1,"commits":[]}}',
    b'{"v":7,"body":{}}',
)
STEPS = 24


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return undisturbed(tmp_path_factory.mktemp("alone") / "run", STEPS)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path / "cluster") as made:
        yield made


async def litter(one: Cluster, keys: list[str], writes: int) -> None:
    """Write garbage to `keys`, over and over; where a key hangs on a lease, what is written stands without one."""
    rng = random.Random(5)
    store = open_store(parse_store(one.store), StoreAccess(secret=one.secret))
    try:
        for _ in range(writes):
            try:
                await store.put(rng.choice(keys), rng.choice(GARBAGE))
            except LeaseExpiredError:
                continue
            await asyncio.sleep(0.01)
    finally:
        await store.close()


@pytest.mark.parametrize(
    "names",
    [
        ("drains/node-0", "drains/x", "suspects/1/x", "suspects/1/node-1", "acks/1/x", "acks/1/node-1", "reach/node-0"),
        ("progress", "failure", "stop", "outcome", "nodes/x", "claims/x", "pardons/x", "spec", "nonsense", "start/9"),
        ("generation", "start/1", "leader", "nodes/node-0", "nodes/node-1", "claims/node-0"),
    ],
    ids=["of nodes", "of the job", "that steer"],
)
def test_a_live_job_is_not_led_astray_by_garbage(
    one: Cluster, alone: Ended, tmp_path: Path, names: tuple[str, ...]
) -> None:
    spec = toy_spec(tmp_path, params={"pause_s": 0.03}, steps=STEPS, nodes={"min": 1, "desired": 2})
    one.submit(spec, tmp_path / "out")
    for number in range(2):
        one.start(f"node-{number}")
    one.wait_for(lambda: one.status()["step"] >= 2, "training")
    keys = Keys(job="toy")
    asyncio.run(litter(one, [f"{keys.prefix}{name}" for name in names], writes=120))
    one.wait_for(lambda: all(agent.poll() is not None for agent in one.agents.values()), "over")

    assert {agent.returncode for agent in one.agents.values()} == {0}, one.logs()
    hashes = json.loads(one.command("collect", str(tmp_path / "out"), "--json"))
    assert hashes["weights_sha256"] == alone.report["weights_sha256"]
    logs = [path.read_text() for path in one.folder.glob("*.log")]
    assert any("malformed" in log for log in logs), "what cannot be read is logged"
    assert keys.node(NodeId("x")).startswith(keys.prefix)
