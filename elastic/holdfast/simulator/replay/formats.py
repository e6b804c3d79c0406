"""Traces in files: ours, and those that Bamboo and Parcae published. Which one it is, its first line tells."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

from holdfast.errors import UserError
from holdfast.model.ids import NodeId
from holdfast.simulator.replay.trace import SPOT, Change, Trace

FORMAT, VERSION = "holdfast-trace", 1
# Bamboo's and Parcae's traces have one row a minute: the last one counts as long as the others.
_GRID_S = 60.0
_HEADER_FIELDS = {"format", "version", "name", "duration_s"}
_CHANGE_FIELDS = {"at_s", "join", "leave", "notice_s", "kind"}

Lines = list[tuple[int, str]]


def load_trace(path: Path) -> Trace:
    """Raises: UserError: there is no such file, or a line cannot be read; the message names it, and the remedy."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--trace {path}: {error}; give a readable text file") from error
    return parse_trace(text, path.stem)


def parse_trace(text: str, name: str) -> Trace:
    """Raises: UserError: as for `load_trace`."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise UserError(f"trace {name!r} is empty; give at least one line")
    number, first = lines[0]
    for pattern, read in _READERS:
        if re.match(pattern, first):
            return read(lines, name)
    raise _error(name, number, first, f'a line of {FORMAT} such as {{"format": "{FORMAT}", ...}}, of Bamboo or Parcae')


def dump_trace(trace: Trace) -> str:
    """In our format."""
    header = {"format": FORMAT, "version": VERSION, "name": trace.name, "duration_s": trace.duration_s}
    rows = [header, *(row for change in trace.changes for row in _rows(trace, change))]
    return "".join(json.dumps(row) + "\n" for row in rows)


def _rows(trace: Trace, change: Change) -> Iterator[dict[str, Any]]:
    """A line a kind of node; who leaves is in the first."""
    left: dict[str, Any] = {"leave": list(change.left)} if change.left else {}
    notice: dict[str, Any] = {"notice_s": change.notice_s} if change.left and change.notice_s else {}
    kinds = sorted({trace.kinds.get(node, SPOT) for node in change.joined}, key=lambda kind: (kind != SPOT, kind))
    for kind in kinds or [SPOT]:
        joined = [node for node in change.joined if trace.kinds.get(node, SPOT) == kind]
        row: dict[str, Any] = {"at_s": change.at_s} | ({"join": joined} if joined else {}) | left | notice
        yield row | ({"kind": kind} if kind != SPOT else {})
        left = notice = {}


# Ours.


def _read_ours(lines: Lines, name: str) -> Trace:
    number, first = lines[0]
    header = _json(name, number, first, dict)
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise _error(name, number, first, f'"format": "{FORMAT}" and "version": {VERSION}')
    _check_fields(name, number, header, _HEADER_FIELDS)
    changes: list[Change] = []
    kinds: dict[NodeId, str] = {}
    for number, line in lines[1:]:
        row = _json(name, number, line, dict)
        _check_fields(name, number, row, _CHANGE_FIELDS)
        change = Change(
            at_s=_seconds(name, number, row, "at_s"),
            joined=_nodes(name, number, row, "join"),
            left=_nodes(name, number, row, "leave"),
            notice_s=_seconds(name, number, row, "notice_s", 0.0),
        )
        kind = row.get("kind", SPOT)
        if not isinstance(kind, str):
            raise _error(name, number, repr(kind), "kind: text, such as spot or on-demand")
        if kind != SPOT:
            kinds |= dict.fromkeys(change.joined, kind)
        changes.append(change)
    last_s = max((change.at_s for change in changes), default=0.0)
    duration_s = _seconds(name, lines[0][0], header, "duration_s", last_s)
    return Trace(name=str(header.get("name", name)), changes=_merged(changes), duration_s=duration_s, kinds=kinds)


def _check_fields(name: str, number: int, row: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(row) - known):
        raise _error(name, number, repr(unknown[0]), f"one of the fields {', '.join(sorted(known))}")


def _seconds(name: str, number: int, row: dict[str, Any], field: str, default: float | None = None) -> float:
    value = row.get(field, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise _error(name, number, repr(value), f"{field}: seconds, 0 or more")
    return float(value)


def _nodes(name: str, number: int, row: dict[str, Any], field: str) -> tuple[NodeId, ...]:
    value = row.get(field, [])
    if not isinstance(value, list) or not all(isinstance(node, str) and node for node in value):
        raise _error(name, number, repr(value), f"{field}: a list of names of nodes")
    if len(set(value)) < len(value):
        raise _error(name, number, repr(value), f"{field}: each node once")
    return tuple(map(NodeId, value))


# Bamboo's: `ms,add|remove,node`.


def _read_bamboo(lines: Lines, name: str) -> Trace:
    changes: list[Change] = []
    for number, line in lines:
        match = re.fullmatch(r"(\d+),(add|remove),([^,\s]+)", line)
        if match is None:
            raise _error(name, number, line, "MILLISECONDS,add|remove,NODE, such as 60000,add,node19")
        node = (NodeId(match[3]),)
        at_s = int(match[1]) / 1000
        changes.append(Change(at_s=at_s, joined=node) if match[2] == "add" else Change(at_s=at_s, left=node))
    merged = _merged(changes)
    return Trace(name=name, changes=merged, duration_s=merged[-1].at_s + _GRID_S)


# Bamboo's: `date, time, count`.


def _read_counts(lines: Lines, name: str) -> Trace:
    """Rows of how many nodes there are. They are put in order of time; of several rows of one moment the last counts.

    Who they are is not told. Names are given in order of arrival; who leaves is drawn, each node alike, by a generator
    that is seeded with 0: the same file gives the same trace. Nodes that come and go between two rows remain unseen.
    """
    counts: dict[datetime, int] = {}
    for number, line in lines:
        match = re.fullmatch(r"(\d{4}-\d\d-\d\d),\s*(\d\d:\d\d:\d\d),\s*(\d+)", line)
        try:
            moment = datetime.fromisoformat(f"{match[1]} {match[2]}") if match else None
        except ValueError:
            moment = None
        if match is None or moment is None:
            raise _error(name, number, line, "DATE, TIME, COUNT, such as 2021-12-10, 13:07:45, 80")
        counts[moment] = int(match[3])
    start = min(counts)
    draw, present, named = Random(0), list[NodeId](), 0
    changes = []
    for moment, count in sorted(counts.items()):
        joined = tuple(NodeId(f"node-{named + new}") for new in range(max(0, count - len(present))))
        left = tuple(draw.sample(present, max(0, len(present) - count)))
        named += len(joined)
        present = [node for node in present if node not in left] + list(joined)
        if joined or left:
            changes.append(Change(at_s=(moment - start).total_seconds(), joined=joined, left=left))
    duration_s = (max(counts) - start).total_seconds() + _GRID_S
    return Trace(name=name, changes=tuple(changes), duration_s=duration_s)


# Parcae's: `[ms, "add"|"remove"|"no-op"|"migration", {"nodes": [...], "duration": ms, ...}]`.


def _read_parcae(lines: Lines, name: str) -> Trace:
    changes = []
    end_s = 0.0
    for number, line in lines:
        row = _json(name, number, line, list)
        match row:
            case [int(at_ms), str(kind), {"nodes": list(names), "duration": int(duration_ms)}] if at_ms >= 0:
                nodes = tuple(NodeId(str(node)) for node in names)
            case _:
                raise _error(name, number, line, '[MILLISECONDS, "add", {"nodes": [...], "duration": MILLISECONDS}]')
        at_s = at_ms / 1000
        end_s = max(end_s, (at_ms + duration_ms) / 1000)
        match kind:
            case "add":
                changes.append(Change(at_s=at_s, joined=nodes))
            case "remove":
                changes.append(Change(at_s=at_s, left=nodes))
            case "no-op" | "migration":  # nobody comes or goes
                pass
            case _:
                raise _error(name, number, repr(kind), "add, remove, no-op or migration")
    return Trace(name=name, changes=_merged(changes), duration_s=end_s)


def _merged(changes: Iterable[Change]) -> tuple[Change, ...]:
    """One change a moment, in order of time."""
    by_time: dict[float, Change] = {}
    for change in changes:
        known = by_time.get(change.at_s, Change(at_s=change.at_s))
        by_time[change.at_s] = Change(
            at_s=change.at_s,
            joined=known.joined + change.joined,
            left=known.left + change.left,
            notice_s=max(known.notice_s, change.notice_s),
        )
    return tuple(change for _, change in sorted(by_time.items()))


def _json(name: str, number: int, line: str, kind: type) -> Any:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise _error(name, number, line, "one JSON " + ("object" if kind is dict else "array"))
    return value


def _error(name: str, number: int, value: str, right: str) -> UserError:
    shown = value if len(value) <= 80 else value[:77] + "..."
    return UserError(f"trace {name!r}, line {number}: {shown} given; should be {right}")


_READERS: tuple[tuple[str, Callable[[Lines, str], Trace]], ...] = (
    (r"\{", _read_ours),
    (r"\[", _read_parcae),
    (r"\d+,\w+,", _read_bamboo),
    (r"\d{4}-\d\d-\d\d,", _read_counts),
)
