"""Agents that are configured by their environment alone, as in pods: the first that comes submits the job, the final
weights go to a storage that nobody mounts, and who runs them is told how they are and why they ended."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness.realrun.cluster import Cluster, cluster
from harness.realrun.jobs import GIVE_UP_S, toy_spec, undisturbed
from harness.server_process import free_ports
from harness.storage.faulty import faulty_environment
from harness.storage.s3_server import Kind, S3Server, running_s3

pytestmark = [pytest.mark.slow]
STEPS = 12


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    with running_s3(tmp_path, Kind.MOTO, "bucket") as running:
        yield running


class Pods:
    """Agents of one job, none of which has an argument."""

    def __init__(self, nodes: Cluster, folder: Path, spec: Path, out: str, extra: Mapping[str, str]) -> None:
        self._nodes, self._folder, self._spec, self._out, self._extra = nodes, folder, spec, out, extra

    def start(self, name: str) -> tuple["subprocess.Popen[bytes]", int]:
        """The agent's process, and the port of its health."""
        (port,) = free_ports(1)
        told = {
            "HOLDFAST_JOB": "renamed",
            "HOLDFAST_STORE": self._nodes.store,
            "HOLDFAST_NODE": name,
            "HOLDFAST_ADDRESS": "127.0.0.1",
            "HOLDFAST_DOMAIN": f"host-of-{name}",
            "HOLDFAST_SUBMIT": str(self._spec),
            "HOLDFAST_OUT": self._out,
            "HOLDFAST_HEALTH": f"127.0.0.1:{port}",
            "HOLDFAST_LOG": "json",
            "HOLDFAST_TERMINATION_LOG": str(self.end_of(name)),
        }
        with self._nodes.log(name).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "holdfast.cli.main", "agent"],
                env={**self._nodes.environment, **self._extra, **told},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._nodes.agents[name] = process
        return process, port

    def end_of(self, name: str) -> Path:
        return self._folder / f"{name}.end"


def health(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def test_a_job_is_not_completed_before_its_storage_has_the_weights(tmp_path: Path) -> None:
    gate, spec = tmp_path / "gate", toy_spec(tmp_path, params={"pause_s": 0.1}, steps=STEPS)
    faulty = faulty_environment(tmp_path / "known", rate=0.0, gate=gate)
    with cluster(tmp_path / "cluster") as nodes:
        pods = Pods(nodes, tmp_path, spec, f"faulty://{tmp_path}/final", faulty)
        process, _ = pods.start("a")
        nodes.wait_for(lambda: "node.claimed" in nodes.log("a").read_text(), "in the job")
        nodes.wait_for(lambda: nodes.status("renamed")["step"] >= 1, "training")
        gate.write_text("busy")
        nodes.wait_for(lambda: '"storage.retry"' in nodes.log("a").read_text(), "refused by the storage")
        nodes.wait_for(lambda: nodes.status("renamed")["step"] == STEPS, "trained")
        assert nodes.status("renamed")["outcome"] is None
        gate.unlink()
        assert process.wait(GIVE_UP_S) == 0, nodes.logs()
        assert nodes.status("renamed")["outcome"]["result"] == "completed"
        nodes.environment.update(faulty)
        told = ("collect", f"faulty://{tmp_path}/final", "--to", str(tmp_path / "here"), "--json")
        assert json.loads(nodes.command(*told))["weights_sha256"]


@pytest.mark.chaos
def test_pods_submit_their_job_once_and_its_weights_are_collected_from_a_storage(
    tmp_path: Path, server: S3Server
) -> None:
    spec = toy_spec(tmp_path, params={"pause_s": 0.1}, steps=STEPS, nodes={"min": 1, "desired": 3})
    url = "s3://bucket/state"
    with cluster(tmp_path / "cluster") as nodes:
        pods = Pods(nodes, tmp_path, spec, f"{url}/final", server.environment)
        agents = {name: pods.start(name) for name in ("a", "b", "c")}
        port = agents["a"][1]
        nodes.wait_for(lambda: health(port, "/livez") == 200, "alive")
        assert health(port, "/readyz") == 503, "its workers are not warm yet"
        nodes.wait_for(lambda: health(port, "/readyz") == 200, "ready")
        assert "libtorch" not in Path(f"/proc/{agents['a'][0].pid}/maps").read_text(), "a child submitted"
        nodes.wait_for(lambda: nodes.status("renamed")["step"] >= 2, "training")
        agents["c"][0].send_signal(signal.SIGTERM)
        assert agents["c"][0].wait(GIVE_UP_S) == 0, nodes.logs()
        for name in ("a", "b"):
            assert agents[name][0].wait(GIVE_UP_S) == 0, nodes.logs()
            assert not pods.end_of(name).exists(), "nothing is told of a good end"
        assert nodes.status("renamed")["outcome"]["result"] == "completed"
        lines = [json.loads(line) for line in nodes.log("a").read_text().splitlines()]
        assert any(line["event"] == "agent.leave" and line["job"] == "renamed" for line in lines)

        nodes.environment.update(server.environment)
        told = nodes.command("collect", f"{url}/final", "--to", str(tmp_path / "here"), "--json")
        assert "--to DIR" in nodes.command("collect", f"{url}/final", code=2)
    alone = undisturbed(tmp_path / "undisturbed", STEPS)
    assert json.loads(told)["weights_sha256"] == alone.report["weights_sha256"]
    assert json.loads(told)["optimizer_sha256"] == alone.report["optimizer_sha256"]


def test_a_wrong_program_ends_each_agent_with_the_whole_message(tmp_path: Path) -> None:
    spec = toy_spec(tmp_path, block=3)
    with cluster(tmp_path / "cluster") as nodes:
        pods = Pods(nodes, tmp_path, spec, str(tmp_path / "out"), {})
        process, _ = pods.start("a")
        assert process.wait(GIVE_UP_S) == 2, nodes.logs()
        assert "block: 3 does not divide the" in pods.end_of("a").read_text()
        assert not any((tmp_path / "out").rglob("*")), "nothing is left of it"


def test_a_submission_waits_for_its_storage_and_goes_on_when_that_is_back(tmp_path: Path, server: S3Server) -> None:
    spec = toy_spec(tmp_path, steps=2)
    server.kill()
    with cluster(tmp_path / "cluster") as nodes:
        pods = Pods(nodes, tmp_path, spec, "s3://bucket/final", server.environment)
        process, port = pods.start("a")
        nodes.wait_for(lambda: "storage.retry" in nodes.log("a").read_text() or health(port, "/livez") == 200, "begun")
        server.start()
        assert process.wait(GIVE_UP_S) == 0, nodes.logs()
        assert nodes.status("renamed")["outcome"]["result"] == "completed"


def test_a_job_that_failed_is_told_with_its_traceback(tmp_path: Path) -> None:
    spec = toy_spec(tmp_path, params={"trouble": "dataset"})
    with cluster(tmp_path / "cluster") as nodes:
        pods = Pods(nodes, tmp_path, spec, str(tmp_path / "out"), {})
        process, _ = pods.start("a")
        assert process.wait(GIVE_UP_S) == 0, nodes.logs()
        told = pods.end_of("a").read_text()
        assert told.startswith("the job renamed failed: ")
        assert "OSError: sample 5 cannot be read" in told


def test_a_job_whose_weights_go_nowhere_needs_no_place_that_its_pods_share(tmp_path: Path) -> None:
    spec = toy_spec(tmp_path, steps=2)
    with cluster(tmp_path / "cluster") as nodes:
        process, _ = Pods(nodes, tmp_path, spec, "", {}).start("a")
        assert process.wait(GIVE_UP_S) == 0, nodes.logs()
        assert nodes.status("renamed")["outcome"]["result"] == "completed"
        assert "final.nowhere" in nodes.log("a").read_text()
