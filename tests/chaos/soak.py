"""Runs random fault schedules against one undisturbed run and prints every difference.

    python tests/chaos/soak.py --seeds 200 [--first 0] [--json FILE]

Exit code 1 if any schedule differs, hangs or loses a step.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.realrun.jobs import Ended, run_job, toy_spec
from harness.realrun.schedules import Schedule, random_schedule

STEPS = 24


def run_schedule(schedule: Schedule, folder: Path) -> Ended:
    """One run of the toy Program under `schedule`; a step takes about 0.1 s."""
    spec = toy_spec(folder, params={"pause_s": 0.005}, steps=schedule.steps, layout={"depth": schedule.depth})
    arguments = ("--nodes", str(schedule.nodes), "--slots", str(schedule.slots))
    return run_job(spec, folder / "out", *arguments, faults=schedule.faults)


def undisturbed(folder: Path) -> Ended:
    return run_schedule(Schedule(seed=-1, nodes=1, slots=1, depth=1, steps=STEPS, faults=()), folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="holdfast-soak-"))
    (root / "reference").mkdir()
    reference = undisturbed(root / "reference")
    assert reference.code == 0, reference.output
    wrong: list[str] = []
    generations = 0
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        schedule = random_schedule(seed, STEPS)
        folder = root / str(seed)
        folder.mkdir()
        try:
            ended = run_schedule(schedule, folder)
        except subprocess.TimeoutExpired:
            verdict = "HANG"
        else:
            generations += len(ended.report.get("generations", ()))
            verdict = "same" if ended.code == 0 and ended.bits == reference.bits else f"DIFFERS (exit {ended.code})"
        print(f"{verdict}  {schedule}", flush=True)
        if verdict == "same":
            shutil.rmtree(folder)
        else:
            wrong.append(f"{verdict} {schedule}; see {folder}")
    print(f"{arguments.seeds} schedules, {generations} generations, {len(wrong)} wrong")
    print("\n".join(wrong))
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"schedules": arguments.seeds, "generations": generations, "wrong": wrong})
        )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
