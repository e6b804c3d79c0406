"""`holdfast run`: prepare, launch, show, report."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from holdfast.agent.fork_server import RunningServer
from holdfast.cli.exits import EXIT_COMPLETED, EXIT_FAILED, EXIT_KILLED, EXIT_STOPPED
from holdfast.cli.folder import check_free, choose_folder, clear, logging_to
from holdfast.cli.launcher import Ending, launch
from holdfast.cli.live import LiveScreen
from holdfast.cli.nodes import nodes_command
from holdfast.cli.preparing import Prepared, Wish, prepare
from holdfast.cli.recording import Recording
from holdfast.cli.screen import PlainScreen, Screen
from holdfast.cli.summary import summary
from holdfast.errors import HoldfastError
from holdfast.model.records import Result
from holdfast.telemetry.report import Report
from holdfast_checkpoint.errors import CheckpointError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run, and how to show it."""

    out: Path | None
    overwrite: bool
    plain: bool
    as_json: bool


def run_job(wish: Wish, options: Options) -> int:
    """The exit code.

    Raises:
        UserError: wrong input; nothing was started.
        UserCodeError: the user's code raised while its Program was built.
    """
    try:
        # First what takes no time to refuse.
        if options.out is not None:
            check_free(options.out, replace=options.overwrite, option="--overwrite")
        with _closing(nodes_command().start()) as server:
            return _run_on(server, wish, options)
    except KeyboardInterrupt:  # before or after the launcher, which takes signals itself
        print("holdfast: interrupted", file=sys.stderr)
        return EXIT_KILLED


@contextlib.contextmanager
def _closing(server: RunningServer) -> Iterator[RunningServer]:
    """End it in the end; a further Ctrl-C does not come between."""
    try:
        yield server
    finally:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        server.close()
        signal.signal(signal.SIGINT, before)


def _run_on(server: RunningServer, wish: Wish, options: Options) -> int:
    prepared = prepare(wish)
    out = choose_folder(options.out, prepared.spec.name)
    clear(out)
    with logging_to(out, prepared.spec.name):
        return _run(prepared, server, wish, options, out)


def _run(prepared: Prepared, server: RunningServer, wish: Wish, options: Options, out: Path) -> int:
    recording = Recording(prepared, wish.spec, out)
    with contextlib.closing(recording):
        with screen(recording, plain=options.plain, as_json=options.as_json) as shown:
            recording.show_on(shown)
            ending = asyncio.run(launch(prepared, server, out, recording))
        names = [layer.name for layer in prepared.facts.layers]
        return finish(recording, names, ending, out, as_json=options.as_json)


def finish(
    recording: Recording, layer_names: Sequence[str], ending: Ending, out: Path, *, as_json: bool, submission: str = ""
) -> int:
    """Join the weights, write the report and print it; the exit code."""
    is_failed = ending.outcome.result is Result.FAILED
    hashes, trouble = (None, None) if is_failed else join(out, layer_names, submission)
    report = recording.finish(ending, hashes)
    _print_end(report, ending, out, as_json=as_json)
    if trouble is not None:
        print(f"holdfast: error: {trouble}", file=sys.stderr)
        return EXIT_FAILED
    return _exit_code(ending)


def screen(recording: Recording, *, plain: bool, as_json: bool) -> Screen:
    """Where a run is shown."""
    console = Console()
    if console.is_terminal and not plain and not as_json:
        return LiveScreen(recording.view, console)
    return PlainScreen(recording.view, sys.stderr if as_json else sys.stdout)


def join(out: Path, layer_names: Sequence[str], submission: str) -> tuple[tuple[str, str] | None, str | None]:
    """(hashes of the final weights and optimizer, what went wrong with them)."""
    from holdfast.worker.final import join_final  # here, because it imports torch

    try:
        return join_final(out, layer_names, submission), None
    except (OSError, HoldfastError, CheckpointError) as error:
        log.info("launcher.join_failed", exc_info=True)
        return None, f"the final weights in {out / 'layers'} cannot be joined: {error}"


def _print_end(report: Report, ending: Ending, out: Path, *, as_json: bool) -> None:
    if as_json:
        print(report.to_json(), end="")
    else:
        print(summary(report, out), flush=True)
    if ending.outcome.failure is not None:
        print(f"\n{ending.outcome.failure.traceback}", file=sys.stderr, end="")


def _exit_code(ending: Ending) -> int:
    if ending.killed:
        return EXIT_KILLED
    return {Result.COMPLETED: EXIT_COMPLETED, Result.STOPPED: EXIT_STOPPED, Result.FAILED: EXIT_FAILED}[
        ending.outcome.result
    ]
