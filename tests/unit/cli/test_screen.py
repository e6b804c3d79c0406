"""What is shown: plain lines are few and complete, the live view fits what it is given."""

import io

import pytest
from rich.console import Console

from holdfast.cli.live import draw
from holdfast.cli.screen import Line, PlainScreen
from holdfast.model.ids import NodeId
from holdfast.telemetry.live import RunView
from holdfast.telemetry.report import PipelineReport, StageReport
from holdfast.telemetry.roster import NodeState, NodeStatus
from holdfast.telemetry.run_state import RunState


def view(*, running: bool) -> RunView:
    status = NodeStatus(state=NodeState.READY, agent_pid=1, worker_pids=(2,))
    stages = tuple(StageReport(node=f"node-{i}", slot=0, layers=(i, i + 1)) for i in range(2))
    return RunView(
        name="job",
        state=RunState.TRAINING if running else RunState.STARTING,
        step=7 if running else 0,
        steps=40,
        loss=2.5 if running else None,
        samples_per_s=100.0 if running else None,
        generation=1 if running else None,
        layout="1x2" if running else None,
        pipelines=(PipelineReport(blocks=(0, 4), microbatches=4, stages=stages),) if running else (),
        layer_names=("embed", "head"),
        nodes={NodeId("node-0"): status, NodeId("node-1"): status} if running else {},
        coordinator=NodeId("node-0") if running else None,
        events=(),
        begun_s=0.0,
        outcome=None,
    )


def commit(step: int, at_s: float) -> Line:
    return Line(time_s=at_s, text=f"step {step}", is_commit=True)


def shown(*lines: Line) -> list[str]:
    """What follows the time, of each line printed."""
    output = io.StringIO()
    with PlainScreen(lambda: view(running=True), output) as screen:
        for line in lines:
            screen.show((line,))
    return [text.partition("s  ")[2] for text in output.getvalue().splitlines()]


def test_commits_are_shown_once_a_second_and_the_last_one_always() -> None:
    lines = [commit(1, 10.0), commit(2, 10.3), commit(3, 10.9), commit(4, 11.1), commit(5, 11.2)]

    assert shown(*lines) == [f"step {step}, 100 samples/s" for step in (1, 4, 5)]


def test_an_event_is_shown_at_once_and_after_the_commit_it_followed() -> None:
    lines = [commit(1, 10.0), commit(2, 10.1), Line(time_s=10.2, text="node-2 is lost"), commit(3, 10.3)]

    assert shown(*lines) == [
        "step 1, 100 samples/s",
        "step 2, 100 samples/s",
        "node-2 is lost",
        "step 3, 100 samples/s",
    ]


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("running", [False, True])
def test_the_live_view_can_be_drawn_at_any_width(width: int, running: bool) -> None:
    console = Console(width=width, file=io.StringIO(), record=True)

    console.print(draw(view(running=running), [Line(time_s=3.0, text="[odd] markup")], 0.0, 4.0))

    text = console.export_text()
    assert "job" in text
    assert "[odd] markup" in text
    assert max(map(len, text.splitlines())) <= width
    if running and width >= 80:
        assert "node-1/0 head" in text
        assert "7/40" in text
