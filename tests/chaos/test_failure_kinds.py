"""Failures are told apart: what ends the job, what it survives, what it waits for, and what it says."""

import os
import signal
from pathlib import Path

import pytest

from harness.realrun.cluster import cluster
from harness.realrun.jobs import Ended, Holds, events_of, job, run_job, toy_spec, wait_gone
from holdfast.telemetry.run_event import EventKind

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
SLOW = {"pause_s": 0.005}


@pytest.mark.parametrize(
    ("trouble", "text", "where"),
    [
        ("raise", "the forward is unhappy", "block-1"),
        ("backward", "the backward is unhappy", "backward"),
        ("dataset", "sample 5 cannot be read", "dataset"),
    ],
)
def test_an_exception_in_user_code_ends_the_job_with_its_traceback(
    tmp_path: Path, trouble: str, text: str, where: str
) -> None:
    spec = toy_spec(tmp_path, params={"trouble": trouble}, steps=200)
    ended = run_job(spec, tmp_path / "out", "--nodes", "2")
    assert ended.code == 1
    assert text in ended.output
    assert "Traceback" in ended.output
    failure = ended.report["failure"]
    assert where in failure["where"]
    assert text in failure["traceback"]
    assert ended.report["outcome"] == "failed"
    assert len(ended.report["generations"]) == 1, "it must not be tried again"


def test_a_worker_that_dies_once_is_replaced(tmp_path: Path) -> None:
    params = {"trouble": "die", "trouble_once": str(tmp_path / "died"), **SLOW}
    ended = run_job(toy_spec(tmp_path, params=params, steps=20), tmp_path / "out", "--nodes", "3")
    assert ended.code == 0, ended.output
    causes = [generation["cause"] for generation in ended.report["generations"]]
    assert "worker_died" in causes


def test_a_worker_that_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    params = {"trouble": "hang", "trouble_once": str(tmp_path / "hung"), **SLOW}
    spec = toy_spec(tmp_path, params=params, steps=20, timeouts={"progress_s": 2.0})
    ended = run_job(spec, tmp_path / "out", "--nodes", "3")
    assert ended.code == 0, ended.output
    assert "worker_died" in [generation["cause"] for generation in ended.report["generations"]]


def test_a_step_at_which_workers_keep_dying_ends_the_job(tmp_path: Path) -> None:
    """The first forward of every process dies: whoever takes the step over dies of it too."""
    params = {"trouble": "die", "trouble_at": 1}
    spec = toy_spec(tmp_path, params=params, layout={"depth": 1}, failures={"worker_deaths_per_step": 2})
    ended = run_job(spec, tmp_path / "out", "--nodes", "1")
    assert ended.code == 1
    assert "step 0" in ended.output


def test_the_last_copy_of_a_layer_gone_ends_the_job_by_name(tmp_path: Path) -> None:
    spec = toy_spec(tmp_path, params=SLOW, steps=200, timeouts={"start_settle_s": 10.0})
    faults = ("kill node-0 at step 3", "kill node-2 at step 3")  # 2x2: both hold the same layers
    ended = run_job(spec, tmp_path / "out", "--nodes", "4", faults=faults)
    assert ended.code == 1
    assert "last copy" in ended.output
    assert "embed" in ended.report["reason"]


def test_below_the_minimum_the_job_waits_with_its_state(undisturbed: Ended, tmp_path: Path) -> None:
    holds = Holds(tmp_path, 4)
    spec = toy_spec(tmp_path, params={**SLOW, **holds.params}, steps=24, nodes={"min": 3, "desired": 3})
    with cluster(tmp_path / "cluster") as nodes, nodes.followed(spec, tmp_path / "out") as following:
        for name in ("a", "b", "c"):
            nodes.start(name)
        following.wait_for(lambda run: run.step() >= 4)
        os.killpg(nodes.agents["c.2"].pid, signal.SIGKILL)
        holds.let_go(4)
        nodes.wait_for(lambda: nodes.status()["action"] == "hold", "waiting")
        assert nodes.status()["step"] == 4

        nodes.start("d")
        ended = following.end()
    assert ended.code == 0, ended.output
    assert ended.bits == undisturbed.bits
    actions = [generation["action"] for generation in ended.report["generations"]]
    assert actions == ["train", "hold", "train"]


def test_a_first_interrupt_stops_at_a_boundary_with_the_weights(tmp_path: Path) -> None:
    spec = toy_spec(tmp_path, params=SLOW, steps=10_000)
    with job(spec, tmp_path / "out", "--nodes", "2") as running:
        running.wait_for(lambda run: run.step() >= 3)
        running.process.send_signal(signal.SIGINT)
        ended = running.end()
    assert ended.code == 3, ended.output
    assert ended.report["outcome"] == "stopped"
    assert ended.report["weights_sha256"]
    assert (tmp_path / "out" / "weights.safetensors").exists()


def test_a_second_interrupt_ends_everything_at_once(tmp_path: Path) -> None:
    spec = toy_spec(tmp_path, params=Holds(tmp_path, 1).params, steps=10_000)
    with job(spec, tmp_path / "out", "--nodes", "2", forked=False) as running:
        running.wait_for(lambda run: run.step() >= 1)  # it stops at the next boundary, which does not come
        pids = [pid for node in running.nodes().values() for pid in (node["agent_pid"], *node["worker_pids"])]
        running.process.send_signal(signal.SIGINT)
        running.wait_for(lambda run: bool(events_of(run.out, EventKind.STOP_REQUESTED)))
        running.process.send_signal(signal.SIGINT)
        ended = running.end(timeout_s=20)
    assert ended.code == 130
    wait_gone(set(filter(None, pids)))


def test_losses_that_are_not_numbers_are_reported_and_survived(tmp_path: Path) -> None:
    ended = run_job(toy_spec(tmp_path, params={"trouble": "nan"}, steps=3), tmp_path / "out", "--nodes", "2")
    assert ended.code == 0, ended.output
    assert ended.report["losses"] == [None, None, None]
    assert ended.report["losses_not_finite"] == 3
