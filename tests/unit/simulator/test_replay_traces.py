"""Traces in files: each format is recognised, read as it says, and refused with line, value and remedy."""

from pathlib import Path

import pytest

from holdfast.errors import UserError
from holdfast.model.ids import NodeId
from holdfast.simulator.replay.formats import dump_trace, load_trace, parse_trace
from holdfast.simulator.replay.generating import Pattern, generate
from holdfast.simulator.replay.trace import Change, Trace

TRACES = Path(__file__).resolve().parents[3] / "benchmarks" / "traces"


def test_the_p3_trace_is_what_its_authors_say() -> None:
    trace = load_trace(TRACES / "aws-p3.csv")

    assert (trace.joins, trace.losses, trace.most_nodes) == (177, 167, 32)
    assert trace.mean_nodes == pytest.approx(24.0, abs=0.01)
    assert trace.duration_s / 3600 == pytest.approx(11.4, abs=0.05)


def test_counts_out_of_order_are_put_in_order_and_the_last_of_a_moment_counts() -> None:
    text = "2021-12-10, 10:00:00, 4\n2021-12-10, 10:02:00, 4\n2021-12-10, 10:01:00, 3\n2021-12-10, 10:02:00, 2\n"

    stretches = [(stretch.start_s, stretch.nodes) for stretch in parse_trace(text, "counts").stretches()]

    assert stretches == [(0.0, 4), (60.0, 3), (120.0, 2)]


def test_invented_nodes_are_the_same_at_each_reading() -> None:
    one, other = (load_trace(TRACES / "gcp-v100.txt") for _ in range(2))

    assert one == other
    assert one.most_nodes == 80
    assert one.mean_nodes == pytest.approx(76.3, abs=0.1)
    assert one.duration_s / 3600 == pytest.approx(24.2, abs=0.05)


@pytest.mark.parametrize(("name", "mean"), [("hl", 29.6), ("lh", 16.8)])
def test_parcae_segments_are_an_hour_each(name: str, mean: float) -> None:
    trace = load_trace(TRACES / f"parcae-gpt-1.5b-{name}.txt")

    assert trace.duration_s == 3600
    assert trace.mean_nodes == pytest.approx(mean, abs=0.05)


@pytest.mark.parametrize("file", ["aws-p3.csv", "gcp-v100.txt", "parcae-gpt-1.5b-lh.txt"])
def test_our_format_holds_all_that_the_others_tell(file: str) -> None:
    trace = load_trace(TRACES / file)

    assert parse_trace(dump_trace(trace), "again") == trace


def test_our_format_keeps_kinds_and_notice() -> None:
    changes = (
        Change(at_s=0.0, joined=(NodeId("a"), NodeId("b"))),
        Change(at_s=5.0, joined=(NodeId("c"),), left=(NodeId("b"),), notice_s=30.0),
    )
    trace = Trace(name="mixed", changes=changes, duration_s=9.5, kinds={NodeId("a"): "on-demand"})

    again = parse_trace(dump_trace(trace), "x")

    assert again.kinds == trace.kinds
    assert {change.at_s: (set(change.joined), change.left, change.notice_s) for change in again.changes} == {
        0.0: ({"a", "b"}, (), 0.0),
        5.0: ({"c"}, ("b",), 30.0),
    }


HEAD = '{"format": "holdfast-trace", "version": 1}\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("hello\n", ["line 1", "hello"]),
        ("0,add,a\n5,gone,b\n", ["line 2", "5,gone,b", "add|remove"]),
        ("0,remove,a\n", ["a leaves and is not there", "join before"]),
        ("0,add,a\n60000,add,a\n", ["60 s", "a joins and is there already"]),
        ("2021-12-10, 10:00:00, 4\n2021-12-10, 25:00:00, 4\n", ["line 2", "25:00:00"]),
        ('[0, "add", {"nodes": ["a"], "duration": 60000}]\n[0, "jump", {"nodes": [], "duration": 1}]\n', ["jump"]),
        ('[0, "add", {"nodes": ["a"]}]\n', ["line 1", "duration"]),
        ('{"format": "holdfast-trace", "version": 2}\n', ["line 1", '"version": 1']),
        (HEAD + '{"at_s": -1}\n', ["line 2", "-1", "at_s"]),
        (HEAD + '{"at_s": 1, "joins": ["a"]}\n', ["line 2", "joins", "join"]),
        (HEAD + '{"at_s": 1, "join": "a"}\n', ["line 2", "a list of names"]),
        (HEAD + '{"at_s": 1, "join": ["a"], "leave": ["a"]}\n', ["joins and leaves at once"]),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line_and_what_is_right(text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_trace(text, "bad")

    for word in words:
        assert word in str(caught.value)


def test_a_seed_is_one_trace() -> None:
    pattern = Pattern(nodes=40, hours=12, grid_s=60.0)

    assert generate(pattern, 3) == generate(pattern, 3)
    assert generate(pattern, 3) != generate(pattern, 4)


def test_a_generated_market_loses_as_many_as_was_asked_for() -> None:
    alone = generate(Pattern(nodes=200, hours=100, loss_per_h=0.05, bursts_per_h=0.0, return_s=60.0), 1)
    bursts = generate(Pattern(nodes=200, hours=100, loss_per_h=0.0, bursts_per_h=1.0, burst_share=0.1), 1)

    assert alone.losses / 100 == pytest.approx(200 * 0.05, rel=0.1)
    assert bursts.losses / 100 == pytest.approx(20, rel=0.3)
    assert (
        sum(len(change.left) > 5 for change in bursts.changes)
        > 30
        > sum(len(change.left) > 5 for change in alone.changes)
    )


def _large(trace: Trace) -> int:
    return sum(len(change.left) > 5 for change in trace.changes)


def test_it_is_harder_at_noon_than_at_midnight() -> None:
    trace = generate(Pattern(nodes=100, hours=24 * 20, loss_per_h=0.05, bursts_per_h=0.0, diurnal=1.0), 2)
    hours = [change.at_s / 3600 % 24 for change in trace.changes for _ in change.left]

    assert sum(9 <= hour < 15 for hour in hours) > 5 * sum(hour < 3 or hour >= 21 for hour in hours)


def test_a_part_of_a_trace_begins_with_those_who_are_there() -> None:
    trace = load_trace(TRACES / "aws-p3.csv")
    part = trace.part(3600.0, 7200.0)
    whole = [s for s in trace.stretches() if s.start_s <= 3600.0 < s.stop_s]

    assert part.duration_s == 3600.0
    assert len(part.changes[0].joined) == whole[0].nodes
