"""Agents started by hand, as on machines of their own, train a submitted job; commands reach it by its store."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from harness.etcd.server import running_server
from harness.realrun.cluster import Cluster, cluster
from harness.realrun.jobs import TOY, run_job, toy_spec, undisturbed
from harness.server_process import free_ports

pytestmark = [pytest.mark.slow]
PATIENT = {"timeouts": {"start_settle_s": 30.0}}


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path / "cluster") as made:
        yield made


def working(status: dict[str, Any]) -> set[str]:
    """Nodes that have a place in the layout."""
    return {stage["node"] for pipeline in status["pipelines"] for stage in pipeline["stages"]}


@pytest.fixture(params=["embedded", "etcd"])
def anywhere(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with ExitStack() as held:
        store = None
        if request.param == "etcd":
            server = held.enter_context(running_server(tmp_path))
            (gone,) = free_ports(1)
            store = f"etcd://127.0.0.1:{gone},127.0.0.1:{server.client_port}/some/prefix"
        yield held.enter_context(cluster(tmp_path / "cluster", store))


@pytest.mark.chaos
def test_agents_that_come_and_go_leave_the_weights_of_the_undisturbed_run(anywhere: Cluster, tmp_path: Path) -> None:
    one = anywhere
    spec = toy_spec(tmp_path, params={"pause_s": 0.05}, steps=100_000, nodes={"min": 1, "desired": 4}, **PATIENT)
    one.start("node-0")  # before there is a job
    one.wait_logged("node-0.0", "job.awaited")
    out = tmp_path / "out"
    submitted = one.submit(spec, out)
    assert submitted == {"job": "toy", "store": one.store, "out": str(out), "id": submitted["id"]}
    for number in (1, 2, 3):
        one.start(f"node-{number}")
    follow = ("events", "--follow", "--job", "toy", "--store", one.store, "--json")
    command = [sys.executable, "-m", "holdfast.cli.main", *follow]
    with subprocess.Popen(command, env=one.environment, stdout=subprocess.PIPE, text=True) as following:
        four = {f"node-{number}" for number in range(4)}
        one.wait_for(lambda: one.status()["step"] >= 3 and working(one.status()) == four, "training")
        status = one.about("status")
        assert set(status["nodes"]) == four
        assert status["leader"] in four
        assert status["generation"]["number"] >= 1
        assert following.stdout is not None
        lines = map(json.loads, following.stdout)
        told = [next(lines)]
        while (told[-1]["kind"], told[-1]["fields"].get("node")) != ("node.joined", "node-1"):
            told.append(next(lines))  # a follower that begins later knows nothing of its loss

        os.killpg(one.agents["node-1.1"].pid, signal.SIGKILL)
        one.wait_for(lambda: "node-1" not in one.status()["nodes"], "without node-1")
        one.start("node-4")
        one.wait_for(lambda: "node-4" in one.status()["nodes"], "joined by node-4")
        assert one.about("drain", "node-2") == {"node": "node-2", "grace_s": 30.0, "already": False}
        assert one.agents["node-2.2"].wait(60) == 0
        outcome = one.about("stop", "--wait")["outcome"]
        told += lines

    kinds = [event["kind"] for event in told]
    for kind in ("node.joined", "generation.begun", "step.committed", "node.lost", "node.draining", "node.released"):
        assert kind in kinds, kind
    assert kinds[-1] == "job.outcome"
    alone = undisturbed(tmp_path / "undisturbed", outcome["step"])
    collected = json.loads(one.command("collect", str(out), "--json"))
    assert collected["weights_sha256"] == alone.report["weights_sha256"]
    assert collected["optimizer_sha256"] == alone.report["optimizer_sha256"]
    for name in ("node-0.0", "node-3.3", "node-4.4"):
        assert one.agents[name].wait(30) == 0


@pytest.mark.chaos
def test_a_name_belongs_to_one_live_agent_and_a_restarted_one_has_it_back(one: Cluster, tmp_path: Path) -> None:
    long = {"timeouts": {"lease_ttl_s": 30.0, "start_settle_s": 30.0}}
    spec = toy_spec(tmp_path, params={"pause_s": 0.05}, steps=100_000, nodes={"min": 1, "desired": 2}, **long)
    one.submit(spec, tmp_path / "out")
    one.start("node-0")
    first = one.start("node-1")
    one.wait_for(lambda: one.status()["step"] >= 1, "training")
    incarnation = one.status()["nodes"]["node-1"]["incarnation"]

    impostor = one.start("node-1")
    assert impostor.wait(60) == 1
    assert "--node node-1: an agent of that name lives at 127.0.0.1" in one.log("node-1.2").read_text()
    assert one.status()["nodes"]["node-1"]["incarnation"] == incarnation

    os.killpg(first.pid, signal.SIGKILL)
    one.start("node-1")  # at once: its lease would go on for 30 s
    one.wait_for(
        lambda: one.status()["nodes"].get("node-1", {}).get("incarnation", incarnation) != incarnation,
        "back under a new incarnation",
        timeout_s=25,
    )
    one.about("drain", "node-1")
    assert one.agents["node-1.3"].wait(60) == 0
    one.start("node-1")  # the drain was for the agent that left
    one.wait_for(lambda: one.status()["nodes"].get("node-1", {}).get("state") == "ready", "back after a drain")

    step = one.status()["step"]
    one.wait_for(lambda: one.status()["step"] > step + 3, "training on")
    stopped = one.about("stop", "--wait", "--reason", "enough")
    assert stopped["outcome"]["result"] == "stopped"
    assert stopped["outcome"]["reason"] == "enough"
    assert one.about("status")["outcome"] == stopped["outcome"]
    assert "the job is over" in one.command("stop", "--job", "toy", "--store", one.store, code=2)
    assert json.loads(one.command("collect", str(tmp_path / "out"), "--json"))["weights_sha256"]


@pytest.mark.chaos
def test_an_agent_that_stood_still_comes_back_under_a_new_incarnation_with_what_its_workers_hold(
    one: Cluster, tmp_path: Path
) -> None:
    spec = toy_spec(tmp_path, params={"pause_s": 0.02}, steps=100_000, nodes={"min": 1, "desired": 2}, **PATIENT)
    one.submit(spec, tmp_path / "out")
    for number in range(2):
        one.start(f"node-{number}")
    one.wait_for(lambda: one.status()["step"] >= 3 and len(one.status()["nodes"]) == 2, "training")
    status = one.status()
    (name,) = set(status["nodes"]) - {status["leader"]}
    before = status["nodes"][name]

    os.kill(before["agent_pid"], signal.SIGSTOP)
    # The layout shown is the last generation's: it names a lost node until the next one runs.
    one.wait_for(lambda: name not in working(one.status()), "a generation without it")
    step = one.status()["step"]
    one.wait_for(lambda: one.status()["step"] > step, "training on")
    os.kill(before["agent_pid"], signal.SIGCONT)
    one.wait_for(lambda: name in working(one.status()), "training with it")
    after = one.status()["nodes"][name]
    assert after["incarnation"] != before["incarnation"]
    assert after["worker_pids"] == before["worker_pids"]
    assert one.about("stop", "--wait")["outcome"]["result"] == "stopped"


def test_submit_refuses_a_job_that_is_there_and_replaces_one_that_is_over(one: Cluster, tmp_path: Path) -> None:
    spec = toy_spec(tmp_path, steps=2, **PATIENT)
    first = one.submit(spec, tmp_path / "out")
    again = ("submit", str(spec), "--store", one.store, "--out")

    assert "is there and not over" in one.command(*again, str(tmp_path / "other"), "--replace", code=2)
    assert "replace that run with --replace" in one.command(*again, str(tmp_path / "out"), code=2)
    one.start("node-0")
    one.wait_for(lambda: one.status()["outcome"], "over")
    assert one.agents["node-0.0"].wait(30) == 0
    assert "submit it anew with --replace" in one.command(*again, str(tmp_path / "other"), code=2)
    second = one.submit(spec, tmp_path / "out", "--replace")
    assert second["id"] != first["id"]
    assert one.status()["step"] == 0
    assert not (tmp_path / "out" / "layers").exists()


def test_submit_that_waits_leaves_what_a_run_leaves(one: Cluster, tmp_path: Path) -> None:
    spec = toy_spec(tmp_path, steps=4, nodes={"min": 1, "desired": 1}, **PATIENT)
    run = run_job(spec, tmp_path / "run", "--nodes", "1")
    one.start("node-0")
    report = one.submit(spec, tmp_path / "out", "--wait")

    assert report["outcome"] == "completed"
    assert report["weights_sha256"] == run.report["weights_sha256"]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert json.loads(one.command("status", str(tmp_path / "out"), "--json"))["report"] == report


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A job that waits for agents; its Program lies in the spec's folder."""
    folder = tmp_path_factory.mktemp("submitted")
    (folder / "toy.py").write_bytes(TOY.read_bytes())
    with cluster(folder / "cluster") as made:
        made.submit(toy_spec(folder, steps=2, program={"entry": "toy.py:program"}), folder / "out")
        yield made


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--base", "elsewhere"), "there is no file|cannot be read"),
        (("--out", "elsewhere"), "mount the folder"),
        (("--address", "192.0.2.1"), "cannot be bound"),
    ],
)
def test_a_machine_that_does_not_fit_the_job_is_told_why(
    submitted: Cluster, tmp_path: Path, arguments: tuple[str, str], complaint: str
) -> None:
    option, value = arguments
    given = str(tmp_path / value) if value == "elsewhere" else value
    agent = submitted.start("node-0", option, given)

    assert agent.wait(60) == 2
    text = submitted.log(list(submitted.agents)[-1]).read_text()
    assert any(words in text for words in complaint.split("|")), text
    assert not submitted.status()["nodes"]


def test_an_agent_of_another_version_is_refused_with_both_versions(submitted: Cluster) -> None:
    script = (
        "import sys, holdfast.model.wire as wire; wire.SCHEMA_VERSION = 2;"
        "from holdfast.cli.main import main; sys.argv[0] = 'holdfast'; main()"
    )
    arguments = ["agent", "--job", "toy", "--store", submitted.store, "--node", "node-0", "--address", "127.0.0.1"]
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=submitted.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ended.returncode == 2
    assert "JobRecord of protocol version 1, but this Holdfast speaks version 2" in ended.stderr
