"""Whatever fails, whenever: the weights, the optimizer's state and the losses are those of the undisturbed run."""

import os
import signal
from pathlib import Path

import pytest

from harness.realrun.jobs import Ended, Holds, agents_of, job, run_job, toy_spec
from harness.realrun.schedules import random_schedule

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
STEPS = 24
SLOW = {"pause_s": 0.005}  # a step of about 0.1 s, so that there is something to interrupt


def disturbed(folder: Path, nodes: int, *faults: str, slots: int = 1, depth: int = 2) -> Ended:
    spec = toy_spec(folder, params=SLOW, steps=STEPS, layout={"depth": depth}, timeouts={"start_settle_s": 10.0})
    return run_job(spec, folder / "out", "--nodes", str(nodes), "--slots", str(slots), faults=faults)


@pytest.mark.parametrize(("nodes", "slots", "depth"), [(3, 1, 2), (2, 2, 2), (1, 3, 3), (1, 5, 2), (2, 3, 1)])
def test_the_layout_does_not_change_a_bit(
    undisturbed: Ended, tmp_path: Path, nodes: int, slots: int, depth: int
) -> None:
    ended = disturbed(tmp_path, nodes, slots=slots, depth=depth)
    assert ended.code == 0, ended.output
    assert ended.bits == undisturbed.bits


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(("kill node-0 at step 5", "kill node-1 at step 12"), id="losses, first of the node that leads"),
        pytest.param(("stop node-1 at step 5", "resume node-1 at step 14"), id="a node that freezes and thaws"),
        pytest.param(("drain node-0 at step 4", "join at step 5", "drain node-1 at step 14"), id="drains and a join"),
        pytest.param(("terminate node-3 at step 4", "kill node-2 at step 4"), id="a notice and a loss at once"),
        pytest.param(
            ("kill worker node-1/0 at step 3", "kill worker node-2/0 at step 9", "stop worker node-1/0 at step 15"),
            id="workers that die, and one that freezes",
        ),
        pytest.param(
            ("kill agent node-2 at step 5", "stop node-1 at step 14"),
            id="an agent that dies before its worker, and a node that freezes",
        ),
    ],
)
def test_no_fault_changes_a_bit_or_loses_a_step(undisturbed: Ended, tmp_path: Path, faults: tuple[str, ...]) -> None:
    spec = toy_spec(tmp_path, params=SLOW, steps=STEPS, timeouts={"progress_s": 3.0})
    ended = run_job(spec, tmp_path / "out", "--nodes", "4", faults=faults)
    assert ended.code == 0, ended.output
    assert ended.report["steps_committed"] == STEPS
    assert ended.report["samples_consumed"] == STEPS * 16
    assert ended.bits == undisturbed.bits


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_random_schedules_change_nothing(undisturbed: Ended, tmp_path: Path, seed: int) -> None:
    schedule = random_schedule(seed, STEPS)
    ended = disturbed(tmp_path, schedule.nodes, *schedule.faults, slots=schedule.slots, depth=schedule.depth)
    assert ended.code == 0, f"{schedule}\n{ended.output}"
    assert ended.bits == undisturbed.bits, str(schedule)


def test_killing_real_pids_from_outside_is_no_different(undisturbed: Ended, tmp_path: Path) -> None:
    holds = Holds(tmp_path, 4, 10)
    spec = toy_spec(tmp_path, params=holds.params, steps=STEPS)
    with job(spec, tmp_path / "out", "--nodes", "4") as running:
        running.wait_for(lambda run: run.step() >= 4)
        os.kill(running.nodes()["node-3"]["worker_pids"][0], signal.SIGKILL)
        holds.let_go(4)
        running.wait_for(lambda run: run.step() >= 10)
        os.killpg(agents_of(running)["node-2"], signal.SIGKILL)
        holds.let_go(10)
        ended = running.end()
    assert ended.code == 0, ended.output
    assert ended.bits == undisturbed.bits
    assert len(ended.report["generations"]) >= 3


def test_tied_layers_stay_tied_wherever_they_are(tmp_path: Path) -> None:
    results = []
    for nodes, faults in ((1, ()), (4, ("kill node-1 at step 3",))):
        folder = tmp_path / str(nodes)
        folder.mkdir()
        spec = toy_spec(folder, params={**SLOW, "tied": True})
        results.append(run_job(spec, folder / "out", "--nodes", str(nodes), faults=faults))
    assert [ended.code for ended in results] == [0, 0], results[1].output
    assert results[0].bits == results[1].bits
    weights = load_weights(results[1].out)
    assert (weights["embed.table.weight"] == weights["head.out.weight"]).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_allreduce_trains_on_through_a_loss(tmp_path: Path, optimizer: str) -> None:
    spec = toy_spec(tmp_path, params={**SLOW, "optimizer": optimizer}, reduction="allreduce")
    ended = run_job(spec, tmp_path / "out", "--nodes", "3", faults=("kill node-1 at step 5",))
    assert ended.code == 0, ended.output
    assert ended.report["steps_committed"] == 12
    assert ended.report["losses"][-1] < ended.report["losses"][0]


def load_weights(out: Path):  # type: ignore[no-untyped-def]
    """The final weights as a user would read them."""
    from safetensors.numpy import load_file

    return load_file(out / "weights.safetensors")
