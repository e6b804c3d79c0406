"""What all commands show alike: tables, JSON, and a progress bar where somebody watches a terminal."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

# Wide enough for every table. Nothing is folded or cut, on no terminal either: a row stays a line, and what it names
# (a folder, a tensor) can be copied.
_WIDTH = 1000


def print_json(value: Any) -> None:
    """NaN and infinity, which JSON does not know, as null."""
    print(json.dumps(_finite(value), indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(held) for key, held in value.items()}
        case list() | tuple():
            return [_finite(held) for held in value]
        case _:
            return value


def table(*columns: str) -> Table:
    """Columns named `>name` are set right."""
    made = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        made.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    return made


def print_table(made: Table) -> None:
    console = Console(width=_WIDTH)
    with console.capture() as captured:
        console.print(made)
    print("\n".join(line.rstrip() for line in captured.get().splitlines() if line.strip()))


def warn(message: str) -> None:
    """Beside the result, on standard error."""
    print(f"holdfast: warning: {message}", file=sys.stderr)


@contextmanager
def byte_progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Call what is yielded with each further number of bytes, from any thread. On standard error, gone at the end."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    # Not as rich guesses it, which FORCE_COLOR in a log's environment misleads.
    is_watched = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not is_watched) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)
