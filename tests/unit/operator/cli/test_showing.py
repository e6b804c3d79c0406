"""What people are shown is what was written, whatever that is."""

import io
from typing import Any

import pytest
from rich.console import Console

from holdfast_operator.cli import showing

_ODD = "see [/tmp/x] and [red] and :skull:"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text, usual = io.StringIO(), showing._console

    def console() -> Console:
        one = usual()
        one.file, one.width = text, 400
        return one

    monkeypatch.setattr(showing, "_console", console)
    return text


def job() -> dict[str, Any]:
    time = "2026-01-01T00:00:00Z"
    condition = {"type": "Failed", "status": "True", "reason": "R", "lastTransitionTime": time, "message": _ODD}
    checkpoint = {"step": 4, "time": time, "url": f"s3://bucket/{_ODD}"}
    status = {"phase": _ODD, "conditions": [condition], "checkpoint": checkpoint, "layout": _ODD}
    return {"metadata": {"name": "a", "creationTimestamp": time}, "status": status}


def test_square_brackets_of_a_message_are_shown_and_obeyed_by_nobody(shown: io.StringIO) -> None:
    console = showing._console()
    for line in showing._headline(job()):
        console.print(line)
    showing._print_conditions(console, job())
    node = {"node": "a-0", "host": "h", "leaving": False, "ready": False, "phase": "Failed", "restarts": 0}
    showing._print_nodes(console, [node | {"created": "2026-01-01T00:00:00Z", "why": _ODD}])
    showing._print_jobs("ns", [job()], as_json=False)
    assert shown.getvalue().count(_ODD) == 3 + 1 + 1 + 2
