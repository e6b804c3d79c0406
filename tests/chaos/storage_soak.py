"""Trains through random faults of nodes and of the storage at once, and prints every broken promise.

    python tests/chaos/storage_soak.py --seeds 300 [--first 0] [--json FILE]

A schedule's nodes are killed, drained and joined as in soak.py, while a tenth to a third of all calls to the storage
fail, are slow, are torn, or lie. Some are killed as a whole once a checkpoint is told of, and resumed. Exit code 1 if a
job hangs or ends with other bits, or if a checkpoint that was told of is not there, byte for byte.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.realrun.jobs import Ended, RunningJob, events_of, job, kill_all, run_job, toy_spec
from harness.realrun.schedules import Schedule, random_schedule
from harness.storage.faulty import faulty_environment
from holdfast.cli.exits import EXIT_INPUT
from holdfast.telemetry.run_event import EventKind
from holdfast_checkpoint.remote import Repository

STEPS = 24
_STARTS_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSchedule:
    """`rate`: of calls to the storage that go wrong. `every`: steps from one snapshot to the next; None: automatic."""

    schedule: Schedule
    rate: float
    every: int | None
    is_killed: bool

    def __str__(self) -> str:
        end = ", killed as a whole and resumed" if self.is_killed else ""
        return f"{self.schedule}; storage {self.rate:.2f}, snapshots {self.every or 'automatic'}{end}"


def storage_schedule(seed: int) -> StorageSchedule:
    random = Random(f"storage {seed}")
    return StorageSchedule(
        schedule=random_schedule(seed, STEPS),
        rate=random.choice((0.1, 0.2, 0.35)),
        every=random.choice((None, 1, 3)),
        is_killed=random.random() < 0.3,
    )


def run_schedule(made: StorageSchedule, folder: Path) -> tuple[Ended, list[str]]:
    """How the job ended, and what was told of its checkpoints that is not so."""
    schedule = made.schedule
    spec = toy_spec(
        folder,
        params={"pause_s": 0.005},
        steps=schedule.steps,
        layout={"depth": schedule.depth},
        snapshots={"every": made.every},
    )
    arguments = ["--nodes", str(schedule.nodes), "--slots", str(schedule.slots)]
    arguments += ["--checkpoint", f"faulty://{folder}/checkpoints", "--checkpoint-every", "4"]
    known = faulty_environment(folder / "known", seed=schedule.seed, rate=made.rate)
    outs: list[Path] = []

    def begin(faults: Sequence[str]) -> AbstractContextManager[RunningJob]:
        outs.append(folder / f"out-{len(outs)}")
        return job(spec, outs[-1], *arguments, faults=faults, environment=known)

    if made.is_killed:
        with begin(schedule.faults) as running:
            while not (told_of(running.out) or is_over(running) or running.process.poll() is not None):
                time.sleep(0.05)
            kill_all(running)
    for _ in range(_STARTS_MAX):
        with begin(() if made.is_killed else schedule.faults) as running:
            ended = running.end()
        if ended.code != EXIT_INPUT:  # refused at the start, where the storage was not to be had
            break
    return ended, wrong_checkpoints(folder / "checkpoints", outs)


def is_over(running: RunningJob) -> bool:
    """Where the storage was so bad that nothing was committed until the end."""
    return bool(events_of(running.out, EventKind.OUTCOME))


def told_of(out: Path) -> set[str]:
    """Folders of checkpoints that were told to be committed."""
    return {told["folder"] for told in events_of(out, EventKind.CHECKPOINT_COMMITTED)}


def let_go(out: Path) -> set[str]:
    """Folders that retention was about to delete: more may be listed than went."""
    lines = [line for path in out.glob("logs/*") for line in path.read_text().splitlines()]
    return {json.loads(line)["folder"] for line in lines if '"event": "checkpoint.deleting"' in line}


def wrong_checkpoints(folder: Path, outs: list[Path]) -> list[str]:
    """Read every byte of what was told of, past the faults."""
    repository = Repository(str(folder))
    told = set().union(*map(told_of, outs)) - set().union(*map(let_go, outs))
    return [f"{one}: {error}" for one in sorted(told) for error in repository.verify(one)]


def undisturbed(folder: Path) -> Ended:
    spec = toy_spec(folder, steps=STEPS)
    return run_job(spec, folder / "out", "--nodes", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="holdfast-storage-soak-"))
    (root / "reference").mkdir()
    reference = undisturbed(root / "reference")
    assert reference.code == 0, reference.output
    wrong: list[str] = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        made, folder = storage_schedule(seed), root / str(seed)
        folder.mkdir()
        try:
            ended, broken = run_schedule(made, folder)
        except subprocess.TimeoutExpired:
            verdict = "HANG"
        else:
            same = ended.code == 0 and ended.report["weights_sha256"] == reference.report["weights_sha256"]
            verdict = "same" if same and not broken else f"WRONG (exit {ended.code}) {broken}"
        print(f"{verdict}  {made}", flush=True)
        if verdict == "same":
            shutil.rmtree(folder)
        else:
            wrong.append(f"{verdict}  {made}  {folder}")
    print(f"{arguments.seeds} schedules, {len(wrong)} wrong")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"schedules": arguments.seeds, "wrong": wrong}, indent=1) + "\n")
    if not wrong:
        shutil.rmtree(root)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
