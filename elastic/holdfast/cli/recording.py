"""Between the launcher and what people and tools see of a run: the recorder, the files in DIR, the screen."""

import os
import time
from pathlib import Path

from holdfast.chaos.injector import FaultReport
from holdfast.cli.folder import remove_secret, write_secret
from holdfast.cli.launcher import Ending
from holdfast.cli.preparing import Prepared
from holdfast.cli.screen import Line, Screen
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.telemetry.files import RunFiles, RunInfo
from holdfast.telemetry.live import RunView
from holdfast.telemetry.recorder import Recorder
from holdfast.telemetry.report import Report
from holdfast.telemetry.run_event import EventKind, RunEvent


class Recording:
    """The launcher's listener."""

    def __init__(self, prepared: Prepared, spec: Path, out: Path) -> None:
        self._job, self._spec, self._out = prepared.spec.name, spec, out
        job = prepared.job_record(out)
        self._recorder = Recorder(job, name=self._job, global_batch=prepared.global_batch)
        self._files = RunFiles(out)
        keys, every = Keys(job=self._job), NodeId("")
        self._of_nodes = (keys.node(every), keys.drain(every))
        self._screen: Screen | None = None

    def show_on(self, screen: Screen) -> None:
        self._screen = screen

    def view(self) -> RunView:
        return self._recorder.view()

    def opened(self, host: str, port: int, secret: str) -> None:
        info = RunInfo(job=self._job, store=f"{host}:{port}", launcher_pid=os.getpid(), spec=str(self._spec.absolute()))
        self._files.begin(info)
        write_secret(self._out, secret)

    def changed(self, key: str, value: bytes | None) -> None:
        self._tell(self._recorder.apply(key, value, time.time()))
        if key.startswith(self._of_nodes):
            self._files.write_nodes(self._recorder.nodes())

    def fault(self, report: FaultReport) -> None:
        missed = report.missed is not None
        fields = {
            "fault": report.fault.sentence,
            "step": report.step,
            "node": report.node,
            **({"missed": report.missed} if missed else {}),
        }
        kind = EventKind.FAULT_MISSED if missed else EventKind.FAULT_FIRED
        self._tell((RunEvent(time_s=time.time(), kind=kind, text=str(report), fields=fields),))

    def node_started(self, node: NodeId, pid: int) -> None:
        self._recorder.launched(node, pid)
        self._files.write_nodes(self._recorder.nodes())

    def node_ended(self, node: NodeId, status: int) -> None:
        self._recorder.exited(node, cleanly=status == 0)
        self._files.write_nodes(self._recorder.nodes())

    def stopping(self, reason: str) -> None:
        text = f"{reason}: stopping at the next step boundary; Ctrl-C again kills the run"
        if self._screen is not None:
            self._screen.show((Line(time_s=time.time(), text=text),))

    def finish(self, ending: Ending, hashes: tuple[str, str] | None) -> Report:
        """Write the report; the run is over."""
        weights, optimizer = hashes or (None, None)
        report = self._recorder.report(weights_sha256=weights, optimizer_sha256=optimizer, ended=ending.outcome)
        self._files.write_nodes(self._recorder.nodes())
        self._files.write_report(report)
        return report

    def close(self) -> None:
        self._files.close()
        remove_secret(self._out)

    def _tell(self, events: tuple[RunEvent, ...]) -> None:
        self._files.append_events(events)
        if self._screen is not None and events:
            is_commit = EventKind.STEP_COMMITTED
            self._screen.show(tuple(Line(time_s=e.time_s, text=e.text, is_commit=e.kind is is_commit) for e in events))
