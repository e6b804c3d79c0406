"""`holdfast simulate`: what it shows, what it writes, what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Holdfast = Callable[..., tuple[int, str, str]]
TRACES = Path(__file__).resolve().parents[3] / "benchmarks" / "traces"
TRACE = TRACES / "parcae-gpt-1.5b-lh.txt"
TABLE = ("--table", TRACES / "throughput-v100.json", "--model", "gpt-1.5b")


def test_policies_are_compared_and_advice_is_given(holdfast: Holdfast, spec: Path) -> None:
    code, output, _ = holdfast("simulate", spec, "--trace", TRACE, *TABLE)

    assert code == 0
    for word in (
        "checkpoint",
        "parcae-future",
        "holdfast-warm",
        "goodput",
        "nodes.desired",
        "nodes.min",
        "checkpoints.every",
    ):
        assert word in output


def test_as_json_with_money_and_a_picture(holdfast: Holdfast, spec: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    png = tmp_path / "replay.png"
    wanted = ("--policy", "ideal", "--policy", "holdfast", "--price-spot", 1, "--price-ondemand", 3, "--json")
    code, output, _ = holdfast("simulate", spec, "--trace", TRACE, *TABLE, *wanted, "--png", png)

    assert code == 0
    told = json.loads(output)
    assert [policy["policy"] for policy in told["policies"]] == ["ideal", "holdfast"]
    assert told["policies"][0]["goodput"] == 1.0
    assert told["policies"][1]["money"] == pytest.approx(told["trace"]["mean_nodes"], abs=0.01), "an hour at 1 a node"
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--policy", "luck"), ["luck", "holdfast-warm"]),
        (("--model", "gpt-9"), ["gpt-9", "gpt-1.5b"]),
        (("--price-spot", "1"), ["--price-ondemand"]),
        (("--profile", "x.json"), ["--profile and --table"]),
        (("--trace", "nowhere.csv"), ["nowhere.csv"]),
    ],
)
def test_wrong_input_is_named(arguments: tuple[str, ...], words: list[str], holdfast: Holdfast, spec: Path) -> None:
    code, _, errors = holdfast("simulate", spec, "--trace", TRACE, *TABLE, *arguments)

    assert code == 2
    for word in words:
        assert word in errors


def test_the_real_coordinator_is_asked_too_and_copies_are_advised(holdfast: Holdfast, spec: Path) -> None:
    code, output, _ = holdfast("simulate", spec, "--trace", TRACE, *TABLE, "--policy", "coordinator", "--json")

    assert code == 0
    told = json.loads(output)
    (policy,) = told["policies"]
    assert policy["policy"] == "coordinator"
    assert 0.9 < policy["goodput"] < 1.0
    assert any(sentence.startswith("snapshots.copies: 3; the coordinator reaches") for sentence in told["advice"])
