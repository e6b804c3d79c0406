"""The live view on a terminal: progress, the grid of pipelines and stages, the nodes, the last events."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from holdfast.cli.screen import Line
from holdfast.telemetry.live import RunView
from holdfast.telemetry.report import StageReport
from holdfast.telemetry.roster import NodeState
from holdfast.telemetry.run_state import RunState

_EVENTS_SHOWN = 8
_REFRESH_S = 0.1
_IDLE_REFRESH_S = 1.0  # the clock goes on
_NODE_STYLES = {
    NodeState.STARTING: "cyan",
    NodeState.READY: "green",
    NodeState.DRAINING: "yellow",
    NodeState.LOST: "red",
    NodeState.LEFT: "dim",
}
_STATE_STYLES = {
    RunState.STARTING: "cyan",
    RunState.TRAINING: "green",
    RunState.RESHAPING: "yellow",
    RunState.HOLDING: "red",
    RunState.FINISHED: "bold",
}


class LiveScreen:
    """Drawn on the event loop alone: a thread that draws would read the recorder while it changes."""

    def __init__(self, view: Callable[[], RunView], console: Console) -> None:
        self._view = view
        self._begun_s = time.time()
        self._lines: deque[Line] = deque(maxlen=_EVENTS_SHOWN)
        self._live = Live(console=console, auto_refresh=False)
        self._next: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._next is not None:
            self._next.cancel()
        self._live.update(self._draw())
        self._live.stop()

    def show(self, lines: Sequence[Line]) -> None:
        self._lines.extend(line for line in lines if not line.is_commit)
        loop = asyncio.get_running_loop()
        soon_s = loop.time() + _REFRESH_S
        if self._next is None or self._next.when() > soon_s:
            self._schedule(soon_s)

    def _schedule(self, at_s: float) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next = asyncio.get_running_loop().call_at(at_s, self._refresh)

    def _refresh(self) -> None:
        self._live.update(self._draw(), refresh=True)
        self._schedule(asyncio.get_running_loop().time() + _IDLE_REFRESH_S)

    def _draw(self) -> RenderableType:
        return draw(self._view(), self._lines, self._begun_s, time.time())


def draw(view: RunView, lines: Sequence[Line], begun_s: float, now_s: float) -> RenderableType:
    """The whole view."""
    parts: list[RenderableType] = [_progress(view, now_s - begun_s)]
    if view.pipelines:
        parts.append(_grid(view))
    if view.nodes:
        parts.append(_nodes(view))
    if lines:
        parts.append(_events(lines, begun_s))
    title = f"[bold]{escape(view.name)}[/bold] [{_STATE_STYLES[view.state]}]{view.state.value}[/]"
    return Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED)


def _progress(view: RunView, elapsed_s: float) -> RenderableType:
    facts = [
        f"loss [bold]{view.loss:.4f}[/bold]" if view.loss is not None else "loss –",
        f"{view.samples_per_s:,.0f} samples/s" if view.samples_per_s is not None else "– samples/s",
        f"generation {view.generation}" if view.generation is not None else "generation –",
        view.layout or "no layout",
        f"{view.coordinator} coordinates" if view.coordinator is not None else "nobody coordinates",
        f"{elapsed_s:.0f} s",
    ]
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(no_wrap=True)
    bar.add_column(ratio=1)
    bar.add_row(f"step [bold]{view.step}[/bold]/{view.steps}", ProgressBar(total=view.steps, completed=view.step))
    return Group(bar, Text.from_markup(" · ".join(facts)))


def _grid(view: RunView) -> RenderableType:
    depth = max(len(pipeline.stages) for pipeline in view.pipelines)
    table = Table(box=box.SIMPLE_HEAD, expand=False, pad_edge=False)
    table.add_column("pipeline", justify="right")
    for stage in range(depth):
        table.add_column(f"stage {stage}", no_wrap=True)
    table.add_column("microbatches", justify="right")
    for number, pipeline in enumerate(view.pipelines):
        cells = [_stage(view, stage) for stage in pipeline.stages]
        table.add_row(str(number), *cells, *[""] * (depth - len(cells)), str(pipeline.microbatches))
    return table


def _stage(view: RunView, stage: StageReport) -> Text:
    """Slot and layers, in the colour of its node's state."""
    first, end = stage.layers
    names = view.layer_names[first], view.layer_names[end - 1]
    layers = names[0] if end - first == 1 else f"{names[0]} – {names[1]}"
    status = next((status for node, status in view.nodes.items() if node == stage.node), None)
    style = _NODE_STYLES[status.state] if status is not None else "dim"
    return Text.assemble((f"{stage.node}/{stage.slot}", style), f" {layers}")


def _nodes(view: RunView) -> RenderableType:
    cells = [
        Text.assemble((f"● {node}", _NODE_STYLES[status.state]), f" {status.state.value}")
        for node, status in view.nodes.items()
    ]
    return Text("   ").join(cells)


def _events(lines: Sequence[Line], begun_s: float) -> RenderableType:
    told = Text(no_wrap=True, overflow="ellipsis")
    for line in lines:
        told.append(f"\n{max(0.0, line.time_s - begun_s):7.1f}s  ", "dim").append(line.text)
    return told
