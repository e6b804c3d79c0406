"""One step of a plan as a picture: a row a slot, what it is at from left to right; as text, or as a PNG."""

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from holdfast.errors import UserError
from holdfast.planner.crowding import Work
from holdfast.planner.timeline import Busy

# A mark, a style of rich, a colour of matplotlib.
_LOOKS = {
    Work.LOAD: ("l", "cyan", "tab:cyan"),
    Work.FORWARD: ("F", "blue", "tab:blue"),
    Work.BACKWARD: ("B", "green", "tab:green"),
    Work.REDUCE: ("R", "magenta", "tab:purple"),
    Work.REST: ("v", "dim", "tab:gray"),
    Work.UPDATE: ("U", "yellow", "tab:olive"),
}
_IDLE = "·"
_ROWS_MAX = 32

Timeline = Sequence[Sequence[Busy]]


def legend() -> str:
    marks = ", ".join(f"{mark} {work.value}" for work, (mark, _, _) in _LOOKS.items())
    return f"{marks.replace('v rest', 'v vote')}, {_IDLE} waits"


def as_text(timeline: Timeline, seconds: float, width: int) -> list[Text]:
    """A line a slot, of the first ones; each of `width` columns is marked with what most of its time goes to."""
    shown = [row for row in timeline if row][:_ROWS_MAX]
    label = max(len(str(row[0].slot)) for row in shown)
    lines = []
    for row in shown:
        line = Text(f"{row[0].slot!s:<{label}} ", end="")
        for work in _columns(row, seconds, max(10, width - label - 1)):
            mark, style = _LOOKS[work][:2] if work is not None else (_IDLE, "dim")
            line.append(mark, style)
        lines.append(line)
    if len(timeline) > len(shown):
        lines.append(Text(f"... and {len(timeline) - len(shown)} more slots"))
    return lines


def _columns(row: Sequence[Busy], seconds: float, width: int) -> list[Work | None]:
    spent: list[dict[Work, float]] = [{} for _ in range(width)]
    for busy in row:
        first, last = (int(at / seconds * width) if seconds else 0 for at in (busy.start_s, busy.end_s))
        for column in range(max(0, first), min(width - 1, last) + 1):
            start_s, end_s = column * seconds / width, (column + 1) * seconds / width
            inside = min(end_s, busy.end_s) - max(start_s, busy.start_s)
            spent[column][busy.work] = spent[column].get(busy.work, 0.0) + max(0.0, inside)
    half = seconds / width / 2
    return [max(works, key=works.__getitem__) if sum(works.values()) > half else None for works in spent]


def write_png(timeline: Timeline, seconds: float, title: str, path: Path) -> None:
    """Raises: UserError: matplotlib is not installed, or the file cannot be written."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise UserError("--png: matplotlib is not installed; install it with pip install 'holdfast[plots]'") from error
    figure = Figure(figsize=(12, 1.5 + 0.35 * len(timeline)), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(timeline):
        for work, (_, _, colour) in _LOOKS.items():
            bars = [(busy.start_s * 1000, (busy.end_s - busy.start_s) * 1000) for busy in row if busy.work is work]
            axes.broken_barh(bars, (number - 0.4, 0.8), facecolors=colour, edgecolor="white", linewidth=0.3)
    axes.set_yticks(range(len(timeline)), [str(row[0].slot) for row in timeline])
    axes.invert_yaxis()
    axes.set_xlim(0, seconds * 1000)
    axes.set_xlabel("ms")
    axes.set_title(title)
    patches = [
        Patch(color=colour, label="vote" if work is Work.REST else work.value)
        for work, (_, _, colour) in _LOOKS.items()
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches))
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise UserError(f"--png {path}: {error.strerror}; give a file that can be written") from error
