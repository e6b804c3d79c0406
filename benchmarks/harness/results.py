"""How a benchmark tells its results: one JSON document, or a table for people."""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.harness.processes import REPOSITORY

SMALL = REPOSITORY / "examples" / "gpt" / "small.yaml"


def parser(description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--spec", type=Path, default=SMALL, help="job spec (default: examples/gpt/small.yaml)")
    made.add_argument("--json", metavar="FILE", help="write one JSON document there; '-': on standard output")
    return made


def machine() -> dict[str, Any]:
    """What the numbers depend on; a load above 0 before the start says that they are noisy."""
    return {
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": version("torch"),
        "threads_per_process": 1,
    }


def progress(text: str) -> None:
    """To people who wait; standard output is for the result."""
    print(text, file=sys.stderr, flush=True)


def tell(document: dict[str, Any], table: Sequence[str], json_to: str | None) -> None:
    text = json.dumps(document, indent=1)
    if json_to == "-":
        print(text)
        return
    print("\n".join(table))
    if json_to is not None:
        Path(json_to).write_text(text + "\n")


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def rounded(values: Sequence[float], digits: int = 4) -> list[float]:
    return [round(value, digits) for value in values]
