"""The files of a run's folder: nodes.json, events.jsonl, report.json, run.json. All valid JSON, none half written."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from holdfast.errors import ProtocolError
from holdfast.model.ids import NodeId
from holdfast.telemetry.report import Report
from holdfast.telemetry.roster import NodeStatus
from holdfast.telemetry.run_event import RunEvent

T = TypeVar("T")
RUN, NODES, EVENTS, REPORT = "run.json", "nodes.json", "events.jsonl", "report.json"
_BLOCK_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """run.json: where a run can be reached."""

    job: str
    store: str  # host:port of the rendezvous store
    launcher_pid: int
    spec: str  # path of the job spec


class RunFiles:
    """Writes and reads the files in one folder; one writer a folder, any number of readers.

    Reading returns None (or nothing) for a file that is not there. Raises: ProtocolError: it is not what it should be.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._events: IO[str] | None = None
        self._nodes_written: str | None = None
        self._told = 0  # bytes of events.jsonl that `new_events` has read

    def begin(self, info: RunInfo) -> None:
        """A new run in this folder: what an earlier one left under these names goes."""
        self.close()
        self.out.mkdir(parents=True, exist_ok=True)
        for name in (EVENTS, NODES, REPORT):
            (self.out / name).unlink(missing_ok=True)
        self._nodes_written = None
        self._write(RUN, _dump(dataclasses.asdict(info)))

    def write_nodes(self, nodes: Mapping[NodeId, NodeStatus]) -> None:
        """Written only when it differs from what was written last."""
        text = _dump({name: dataclasses.asdict(status) for name, status in nodes.items()})
        if text != self._nodes_written:
            self._write(NODES, text)
            self._nodes_written = text

    def append_events(self, events: Iterable[RunEvent]) -> None:
        """A line each: {"time_s", "kind", "text", "fields"}."""
        lines = [event_json(event) + "\n" for event in events]
        if not lines:
            return
        if self._events is None:
            self.out.mkdir(parents=True, exist_ok=True)
            self._events = (self.out / EVENTS).open("a", encoding="utf-8")
        self._events.writelines(lines)
        self._events.flush()

    def write_report(self, report: Report) -> None:
        self._write(REPORT, report.to_json())

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def read_run(self) -> RunInfo | None:
        return self._read(RUN, RunInfo)

    def read_nodes(self) -> dict[NodeId, NodeStatus] | None:
        return self._read(NODES, dict[NodeId, NodeStatus])

    def read_report(self) -> Report | None:
        return self._read(REPORT, Report)

    def read_events(self) -> tuple[RunEvent, ...]:
        """All, oldest first; a line that is being written is left out."""
        return tuple(RunFiles(self.out).new_events())

    def new_events(self) -> Iterator[RunEvent]:
        """What came since this was read the last time, oldest first; whole lines only."""
        try:
            file = (self.out / EVENTS).open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._told)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                event = _parse(EVENTS, RunEvent, line)
                self._told += len(line)
                yield event

    def latest_events(self) -> Iterator[RunEvent]:
        """Newest first, read from the end as far as they are asked for."""
        try:
            file = (self.out / EVENTS).open("rb")
        except FileNotFoundError:
            return
        with file:
            at, tail = file.seek(0, os.SEEK_END), b""
            is_torn = True  # what follows the last end of a line is nothing, or a line that is being written
            while at:
                size = min(at, _BLOCK_BYTES)
                at = file.seek(at - size)
                tail, *lines = (file.read(size) + tail).split(b"\n")
                for line in reversed(lines):
                    if not is_torn:
                        yield _parse(EVENTS, RunEvent, line)
                    is_torn = False
            if not is_torn:
                yield _parse(EVENTS, RunEvent, tail)

    def _write(self, name: str, text: str) -> None:
        """Readers see the old file or the new one, whole."""
        draft = self.out / f".{name}.{os.getpid()}"
        draft.write_text(text, encoding="utf-8")
        draft.replace(self.out / name)

    def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            text = (self.out / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return _parse(name, kind, text)


def event_json(event: RunEvent) -> str:
    """One line of events.jsonl, without its end."""
    return json.dumps(_finite(dataclasses.asdict(event)), allow_nan=False)


def _parse(name: str, kind: type[T], text: str | bytes) -> T:
    try:
        return cast(T, _adapter(cast(Any, kind)).validate_json(text))
    except ValidationError as error:
        raise ProtocolError(f"{name} is not as Holdfast writes it: {error.errors(include_url=False)[0]}") from error


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    """Making one takes as long as reading a hundred lines."""
    return TypeAdapter(kind)


def _dump(value: object) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON knows no nan: null stands for it, as in the report."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
