"""What a run shows: lines where nobody watches a terminal. The live view is in `live`."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TextIO

from holdfast.telemetry.live import RunView

_COMMIT_LINE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that happened."""

    time_s: float  # wall clock
    text: str
    is_commit: bool = False


class Screen(AbstractContextManager["Screen"], Protocol):
    """Entered for as long as the run goes; `show` is called on the event loop."""

    def show(self, lines: Sequence[Line]) -> None: ...


class PlainScreen:
    """An event a line; of commits one a second at most, and the last."""

    def __init__(self, view: Callable[[], RunView], output: TextIO) -> None:
        self._view, self._output = view, output
        self._begun_s = time.time()
        self._commit_shown_s = 0.0
        self._commit_held: Line | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._show_held()

    def show(self, lines: Sequence[Line]) -> None:
        for line in lines:
            if not line.is_commit:
                self._show_held()
                self._print(line)
                continue
            self._commit_held = line
            if line.time_s - self._commit_shown_s >= _COMMIT_LINE_S:
                self._show_held()

    def _show_held(self) -> None:
        """The newest commit, if it was not shown."""
        line, self._commit_held = self._commit_held, None
        if line is None:
            return
        self._commit_shown_s = line.time_s
        rate = self._view().samples_per_s
        self._print(line, f", {rate:.0f} samples/s" if rate is not None else "")

    def _print(self, line: Line, more: str = "") -> None:
        elapsed_s = max(0.0, line.time_s - self._begun_s)
        print(f"{elapsed_s:8.2f}s  {line.text}{more}", file=self._output, flush=True)
