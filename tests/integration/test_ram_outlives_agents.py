"""Copies in RAM outlive the processes of a node where they lie on tmpfs: a whole cluster that is killed goes on."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from harness.realrun.cluster import Cluster, cluster
from harness.realrun.jobs import run_job, toy_spec

pytestmark = [pytest.mark.slow, pytest.mark.chaos]
NODES = tuple(f"node-{number}" for number in range(3))
# Of about 16 kB of state: two slots at least, so each layer lies on one or two of three nodes.
LAYOUT = {"depth": None, "memory_per_slot_bytes": 28_000}
QUICK = {"lease_ttl_s": 2.0, "start_settle_s": 30.0}


@pytest.fixture
def shared_memory() -> Iterator[Path]:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm that this user may write to")
    with TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path / "cluster") as made:
        yield made


def test_a_cluster_killed_as_a_whole_goes_on_from_its_ram(one: Cluster, tmp_path: Path, shared_memory: Path) -> None:
    spec = toy_spec(
        tmp_path,
        params={"pause_s": 0.05},
        steps=100_000,
        nodes={"min": 3, "desired": 3},
        layout=LAYOUT,
        snapshots={"every": 1},
        timeouts=QUICK,
    )
    one.submit(spec, tmp_path / "out")
    first = [one.start(node, "--ram", str(shared_memory / node)) for node in NODES]
    one.wait_for(lambda: one.about("status")["step"] >= 5, "training")
    for agent in first:
        os.killpg(agent.pid, signal.SIGKILL)
    before = one.about("status")
    assert before["step"] >= 5
    for agent in first:
        agent.wait(30)

    for node in NODES:
        one.start(node, "--ram", str(shared_memory / node))
    one.wait_for(lambda: one.about("status")["step"] >= before["step"] + 3, "training again")
    outcome = one.about("stop", "--wait")["outcome"]
    assert outcome["result"] == "stopped"
    collected = json.loads(one.command("collect", str(tmp_path / "out"), "--json"))
    for agent in one.agents.values():
        agent.wait(30)

    undisturbed = run_job(spec, tmp_path / "undisturbed", "--nodes", "3", "--steps", str(outcome["step"]))
    assert undisturbed.code == 0, undisturbed.output
    assert collected["weights_sha256"] == undisturbed.report["weights_sha256"]
    assert not [path for path in shared_memory.rglob("*") if path.is_file()], "nothing is left behind"


def test_a_folder_that_is_not_in_memory_is_refused_before_anything_starts(one: Cluster, tmp_path: Path) -> None:
    one.submit(toy_spec(tmp_path, steps=10), tmp_path / "out")
    assert one.start("node-0", "--ram", "/proc/nowhere").wait(60) == 2
    assert "--ram /proc/nowhere" in one.log("node-0.0").read_text()
