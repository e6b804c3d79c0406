"""Nodes of a local run: forked from one process, and none of their processes outlives it or the run."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from harness.realrun.jobs import RunningJob, children_of, job, run_job, toy_spec, wait_gone
from harness.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.chaos]


def processes(running: RunningJob) -> set[int]:
    """Agents and workers."""
    nodes = running.nodes().values()
    return {pid for node in nodes for pid in (node["agent_pid"], *node["worker_pids"]) if pid}


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_fork_server(pid: int) -> bool:
    """Not before it runs its own program: one that is stopped earlier holds up its parent, which waits for that."""
    return b"holdfast.cli.local_node" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_run_whose_fork_server_is_killed_fails_and_leaves_no_process(tmp_path: Path) -> None:
    spec = toy_spec(tmp_path, params={"pause_s": 0.05}, steps=100_000)
    with job(spec, tmp_path / "out", "--nodes", "2", "--slots", "2", forked=False) as running:
        running.wait_for(lambda running: running.step() >= 2)
        pids = processes(running)
        assert len(pids) == 6
        (server,) = {parent_of(node["agent_pid"]) for node in running.nodes().values()}
        assert parent_of(server) == running.process.pid

        os.kill(server, signal.SIGKILL)
        ended = running.end()
    assert ended.code == 1
    assert "no node is left" in ended.output
    wait_gone(pids)


def test_a_run_that_is_killed_leaves_no_process_and_neither_does_a_node(tmp_path: Path) -> None:
    spec = toy_spec(tmp_path, params={"pause_s": 0.05}, steps=100_000)
    with job(spec, tmp_path / "out", "--nodes", "2", "--slots", "2", forked=False) as running:
        running.wait_for(lambda running: running.step() >= 2)
        pids, node = processes(running), running.nodes()["node-1"]
        assert os.getpgid(node["worker_pids"][0]) == node["agent_pid"]
        os.kill(node["agent_pid"], signal.SIGKILL)  # its zygote and its workers notice
        wait_gone({node["agent_pid"], *node["worker_pids"]})

        running.process.kill()
        wait_gone(pids)


def test_two_interrupts_end_a_run_whose_nodes_are_yet_to_be_forked(tmp_path: Path) -> None:
    spec = toy_spec(tmp_path, steps=100_000)
    with job(spec, tmp_path / "out", "--nodes", "2", forked=False) as running:
        launcher = running.process.pid
        wait_until(lambda: any(map(is_fork_server, children_of(launcher))), what=lambda: "the fork server")
        (server,) = children_of(launcher)
        os.kill(server, signal.SIGSTOP)
        wait_until((tmp_path / "out" / ".secret").exists, what=lambda: "the store")

        def is_over() -> bool:
            running.process.send_signal(signal.SIGINT)  # again and again: an impatient user
            return running.process.poll() is not None

        wait_until(is_over, what=lambda: "the end of the run")
        assert running.end().code in (130, -signal.SIGINT)  # the same to a shell; one more hit the interpreter's end
    wait_gone({server})


def test_a_killed_node_leaves_nothing_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # torch sets it; without, it asks for that folder
    # Short, for the sockets in it.
    with tempfile.TemporaryDirectory() as folder:
        ended = run_job(
            toy_spec(tmp_path, params={"pause_s": 0.02}),
            tmp_path / "out",
            *("--nodes", "3"),
            faults=["kill node-2 at step 2"],
            environment={"TMPDIR": folder},
            forked=False,
        )
        assert ended.code == 0, ended.output
        assert not list(Path(folder).glob("holdfast-*"))
