"""A storage that hangs, or is away for long, costs checkpoints, and nothing else."""

import os
import signal
import time
from pathlib import Path

import pytest

from harness.ram import all_copied, flip_all
from harness.realrun.jobs import Ended, Holds, agents_of, events_of, job, toy_spec
from harness.storage.faulty import faulty_environment
from holdfast.telemetry.run_event import EventKind

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
STEPS = 24
LAYERS = 6
# Of about 43 kB with gradients: three slots at least, so that with four nodes each layer lies on one node alone.
LAYOUT = {"depth": None, "memory_per_slot_bytes": 24_000}


class Stored:
    """A storage that hangs, or refuses, while the test wants it to."""

    def __init__(self, folder: Path) -> None:
        self._gate = folder / "gate"
        self.arguments = ("--checkpoint", f"faulty://{folder}/checkpoints", "--checkpoint-every", "4")
        self.environment = faulty_environment(folder / "known", rate=0, gate=self._gate)

    def away(self, how: str) -> None:
        self._gate.write_text(how)

    def back(self) -> None:
        self._gate.unlink()


def test_a_storage_that_hangs_stops_neither_training_nor_recovery_from_ram_nor_the_end(
    undisturbed: Ended, tmp_path: Path
) -> None:
    stored = Stored(tmp_path)
    holds = Holds(tmp_path, 6, 14)
    fields = {"snapshots": {"every": 1}, "nodes": {"min": 4}, "checkpoints": {"upload_s": 2.0}}
    spec = toy_spec(tmp_path, params={"pause_s": 0.01, **holds.params}, steps=STEPS, layout=LAYOUT, **fields)
    with job(spec, tmp_path / "out", "--nodes", "4", *stored.arguments, environment=stored.environment) as running:
        running.wait_for(lambda run: bool(events_of(run.out, EventKind.CHECKPOINT_COMMITTED)))
        stored.away("hang")
        holds.let_go(6)
        running.wait_for(lambda run: run.step() >= 14)  # an upload hangs by now
        os.kill(running.nodes()["node-1"]["worker_pids"][0], signal.SIGKILL)
        holds.let_go(14)
        running.wait_for(lambda run: len(events_of(run.out, EventKind.GENERATION_RECOVERED)) > 0)
        ended = running.end()

    assert ended.code == 0, ended.output
    assert ended.bits == undisturbed.bits
    back = next(g for g in ended.report["generations"][1:] if g["layers_restored"])
    assert "checkpoint" not in back["bytes_restored"], "from RAM"
    logs = [line for path in (tmp_path / "out" / "logs").iterdir() for line in path.read_text().splitlines()]
    assert any('"event": "storage.given_up"' in line for line in logs), "it was said"


def test_a_node_that_drains_while_its_upload_hangs_is_gone_in_time(undisturbed: Ended, tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    holds = Holds(tmp_path, 6, 14)
    spec = toy_spec(tmp_path, params={"pause_s": 0.02, **holds.params}, steps=STEPS, layout={"depth": None})
    with job(spec, tmp_path / "out", "--nodes", "2", *stored.arguments, environment=stored.environment) as running:
        running.wait_for(lambda run: bool(events_of(run.out, EventKind.CHECKPOINT_COMMITTED)))
        stored.away("hang")
        holds.let_go(6)
        running.wait_for(lambda run: run.step() >= 14)
        pid = agents_of(running)["node-1"]
        os.kill(pid, signal.SIGTERM)
        holds.let_go(14)
        begun_s = time.monotonic()
        running.wait_for(lambda _: not Path(f"/proc/{pid}").exists() or "Z" in stat_of(pid), 25.0)
        assert time.monotonic() - begun_s < 25, "before its deadline of 30 s"
        stored.back()
        ended = running.end()

    assert ended.code == 0, ended.output
    assert ended.bits == undisturbed.bits


def stat_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.parametrize("how", ["busy", "hang"])
def test_a_restore_waits_for_a_storage_that_is_away_and_says_so(undisturbed: Ended, tmp_path: Path, how: str) -> None:
    stored, holds = Stored(tmp_path), Holds(tmp_path, 6, 10)
    fields = {"snapshots": {"every": 6}, "timeouts": {"start_s": 4.0}}
    spec = toy_spec(tmp_path, params={"pause_s": 0.02, **holds.params}, steps=STEPS, layout=LAYOUT, **fields)
    with job(spec, tmp_path / "out", "--nodes", "4", *stored.arguments, environment=stored.environment) as running:
        running.wait_for(lambda run: bool(events_of(run.out, EventKind.CHECKPOINT_COMMITTED)))
        holds.let_go(6)
        agents = agents_of(running)
        running.wait_for(lambda run: run.step() >= 10 and all_copied(agents.values(), 8, LAYERS))
        # None is being written: a start would wait for it, since it would be newer.
        running.wait_for(lambda run: len(events_of(run.out, EventKind.CHECKPOINT_COMMITTED)) == 2)
        stored.away(how)
        flip_all(agents.values())
        os.killpg(agents["node-1"], signal.SIGKILL)
        holds.let_go(10)
        running.wait_for(lambda run: bool(events_of(run.out, EventKind.RESTORE_WAITS)), 90.0)
        time.sleep(4.0)  # a start that was decided on before is told by then
        begun = len(events_of(running.out, EventKind.GENERATION_BEGUN))
        time.sleep(10.0)  # two and a half times what a start may take
        assert len(events_of(running.out, EventKind.GENERATION_BEGUN)) == begun, "nobody is blamed meanwhile"
        stored.back()
        ended = running.end(200.0)

    assert ended.code == 0, ended.output
    assert ended.bits == undisturbed.bits
    assert any("checkpoint" in g["bytes_restored"] for g in ended.report["generations"])
