"""A node that is slow is noticed while steps run and gets less to do; not a bit is different."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.realrun.jobs import RunningJob, job, toy_spec, undisturbed

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
STEPS = 70
SLOW_NODE = "node-1"


@contextmanager
def slowed(running: RunningJob, node: str) -> Iterator[None]:
    """Its worker stands still for two thirds of the time, a moment at a time."""
    over = threading.Event()
    (pid,) = running.nodes()[node]["worker_pids"]

    def slow() -> None:
        try:
            while not over.wait(0.02):
                os.kill(pid, signal.SIGSTOP)
                over.wait(0.04)
                os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:  # the job is over
            return

    thread = threading.Thread(target=slow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def microbatches(generation: dict[str, Any], node: str) -> int:
    """Of a step: those of the pipelines that this node has a stage of."""
    return sum(
        pipeline["microbatches"]
        for pipeline in generation["pipelines"]
        if any(stage["node"] == node for stage in pipeline["stages"])
    )


def test_a_slow_node_gets_less_and_the_result_is_the_same(tmp_path: Path) -> None:
    alone = undisturbed(tmp_path / "alone", STEPS)
    spec = toy_spec(tmp_path, params={"pause_s": 0.01}, steps=STEPS, layout={"depth": 1, "adaptive": True})
    with job(spec, tmp_path / "out", "--nodes", "3") as running:
        running.wait_for(lambda job: job.step() >= 2)
        with slowed(running, SLOW_NODE):
            ended = running.end()

    assert ended.code == 0, ended.output
    assert ended.bits == alone.bits
    assert ended.report["steps_committed"] == STEPS
    first, *later = ended.report["generations"]
    # The first may be meant for another node, if the machine is busy with other tests.
    balanced = [generation for generation in later if generation["cause"] == "balance"]
    assert any(f"{SLOW_NODE}/0 computes at" in generation["reason"] for generation in balanced)
    assert min(microbatches(generation, SLOW_NODE) for generation in balanced) < microbatches(first, SLOW_NODE)
    assert not any(generation["redone_steps"] for generation in balanced)
