"""What a run leaves in its folder can be read at any time, and reads as what was written."""

import json
import math
from pathlib import Path

import pytest

from harness.calls import calls_of
from holdfast.errors import ProtocolError
from holdfast.model.ids import NodeId
from holdfast.telemetry.files import RunFiles, RunInfo, event_json
from holdfast.telemetry.roster import NodeState, NodeStatus
from holdfast.telemetry.run_event import EventKind, RunEvent
from unit.telemetry.conftest import Story, commit

INFO = RunInfo(job="story", store="127.0.0.1:1", launcher_pid=7, spec="/spec.yaml")
NODES = {NodeId("a"): NodeStatus(state=NodeState.READY, agent_pid=1, worker_pids=(2, 3))}


def event(text: str) -> RunEvent:
    return RunEvent(time_s=1.5, kind=EventKind.NODE_LEFT, text=text, fields={"node": "a"})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    story = Story().trained_to(3)
    with RunFiles(tmp_path / "new" / "out") as files:
        files.begin(INFO)
        files.write_nodes(NODES)
        files.append_events([event("one"), event("two")])
        files.write_report(story.recorder.report())
    read = RunFiles(files.out)
    assert (read.read_run(), read.read_nodes()) == (INFO, NODES)
    assert read.read_events() == (event("one"), event("two"))
    assert list(read.latest_events()) == [event("two"), event("one")]
    assert read.read_report() == story.recorder.report()


def test_nodes_json_is_an_object_keyed_by_node(tmp_path: Path) -> None:
    RunFiles(tmp_path).write_nodes(NODES)
    nodes = json.loads((tmp_path / "nodes.json").read_text())
    assert nodes == {"a": {"state": "ready", "agent_pid": 1, "worker_pids": [2, 3]}}


def test_nodes_json_is_written_only_when_something_changed(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    files.write_nodes(NODES)
    (tmp_path / "nodes.json").unlink()
    files.write_nodes(dict(NODES))
    assert files.read_nodes() is None
    files.write_nodes({})
    assert files.read_nodes() == {}


def test_a_file_is_replaced_whole_and_no_draft_is_left(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    files.write_nodes(NODES)
    with (tmp_path / "nodes.json").open() as reader:
        files.write_nodes({})
        assert "ready" in reader.read()
    assert [path.name for path in tmp_path.iterdir()] == ["nodes.json"]


def test_an_event_can_be_read_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    with RunFiles(tmp_path) as files:
        files.append_events([event("one")])
        assert RunFiles(tmp_path).read_events() == (event("one"),)


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    with RunFiles(tmp_path) as files:
        files.append_events([event("one")])
    with (tmp_path / "events.jsonl").open("a") as torn:
        torn.write('{"time_s": 1')
    assert files.read_events() == (event("one"),)


def test_what_was_read_is_not_read_again(tmp_path: Path) -> None:
    reader, path = RunFiles(tmp_path), tmp_path / "events.jsonl"
    assert list(reader.new_events()) == []
    with RunFiles(tmp_path) as files:
        files.append_events([event("one"), event("two")])
        assert list(reader.new_events()) == [event("one"), event("two")]
        path.write_bytes(b"x" * (path.stat().st_size - 1) + b"\n")  # it would be refused
        files.append_events([event("three")])
        with path.open("a") as torn:
            torn.write(event_json(event("four")))
        assert list(reader.new_events()) == [event("three")]
        with path.open("a") as torn:
            torn.write("\n")
        assert list(reader.new_events()) == [event("four")]


@pytest.mark.parametrize("length", [1, 70_000, 200_000])
def test_the_latest_events_are_read_from_the_end_and_no_further_than_wanted(tmp_path: Path, length: int) -> None:
    told = [event(f"{number} " + "x" * length) for number in range(4)]
    path = tmp_path / "events.jsonl"
    with RunFiles(tmp_path) as files:
        files.append_events(told)
        assert list(RunFiles(tmp_path).latest_events()) == told[::-1]
        path.write_bytes(b"no event\n" + path.read_bytes() + b'{"time_s": 1' + b"0" * length)
        latest = RunFiles(tmp_path).latest_events()
        assert [next(latest) for _ in told] == told[::-1]
        with pytest.raises(ProtocolError):
            next(latest)


def test_a_day_of_events_is_read_in_a_few_calls_each(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(20_000 * (event_json(event("one")) + "\n"))
    found: list[int] = []
    made = calls_of(lambda: found.append(len(RunFiles(tmp_path).read_events())))
    assert found == [20_000]
    assert made / 20_000 < 20


def test_a_loss_that_is_no_number_leaves_valid_json(tmp_path: Path) -> None:
    story = Story().trained_to(1).commits(1, commit(2, 11.0, loss=math.nan))
    with RunFiles(tmp_path) as files:
        files.append_events(story.told)
    last = (tmp_path / "events.jsonl").read_text().splitlines()[-1]
    assert json.loads(last, parse_constant=pytest.fail)["fields"]["loss"] is None


def test_a_new_run_takes_away_what_the_last_one_left(tmp_path: Path) -> None:
    with RunFiles(tmp_path) as files:
        files.begin(INFO)
        files.append_events([event("old")])
        files.write_nodes(NODES)
        files.write_report(Story().recorder.report())
        files.begin(INFO)
        files.append_events([event("new")])
        assert (files.read_nodes(), files.read_report()) == (None, None)
        assert files.read_events() == (event("new"),)
        files.write_nodes(NODES)
        assert files.read_nodes() == NODES


def test_a_folder_without_a_run_reads_as_nothing(tmp_path: Path) -> None:
    files = RunFiles(tmp_path / "nowhere")
    assert (files.read_run(), files.read_nodes(), files.read_report()) == (None, None, None)
    assert files.read_events() == ()


def test_a_file_that_is_not_ours_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ProtocolError, match=r"run\.json is not as Holdfast writes it"):
        RunFiles(tmp_path).read_run()
