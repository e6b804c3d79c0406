"""`holdfast plan`: layout, step and losses, from a profile that was measured elsewhere."""

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.planner.profile import LayerProfile, Link, Profile
from holdfast.planner.profile_json import profile_to_json

Holdfast = Callable[..., tuple[int, str, str]]


def layer(name: str) -> LayerProfile:
    return LayerProfile(
        name=name,
        forward_s=0.01,
        backward_s=0.02,
        param_bytes=1000,
        state_bytes=3000,
        activation_bytes=500,
        output_bytes=100,
        update_s=0.001,
    )


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    link = Link(bytes_per_s=1e9, latency_s=1e-4)
    made = Profile(fingerprint="", layers=(layer("first"), layer("last")), between_nodes=link, within_node=link)
    path = tmp_path / "profile.json"
    path.write_text(profile_to_json(made))
    return path


def test_it_shows_layout_step_timeline_and_losses_in_plain_lines(holdfast: Holdfast, spec: Path, profile: Path) -> None:
    code, output, _ = holdfast("plan", spec, "--nodes", 2, "--profile", profile, "--set", "layout.depth=1")

    assert code == 0
    for part in (
        "small on 2 nodes: 2x1",
        "first to last (2)",
        "a step takes 122 ms (65 samples/s)",
        "2 copies of each layer",
        "measured elsewhere",
        "node-1/0 FFFF",
        "if a node is lost",
        "242 ms",
    ):
        assert part in output
    assert "\x1b" not in output


def test_as_json(holdfast: Holdfast, spec: Path, profile: Path) -> None:
    code, output, _ = holdfast("plan", spec, "--nodes", 4, "--profile", profile, "--json", "--set", "layout.depth=2")

    told: dict[str, Any] = json.loads(output)
    assert code == 0
    assert (told["layout"], told["copies"], told["idle"]) == ("2x2", 2, [])
    assert told["step_s"] > max(told["pipeline_s"])
    assert 0 < told["bubble"] < 1
    stages = [stage for pipeline in told["pipelines"] for stage in pipeline["stages"]]
    assert [stage["slot"] for stage in stages] == [f"node-{n}/0" for n in range(4)]
    assert all(stage["memory_bytes"] > 3000 for stage in stages)
    assert [loss["copies_left"] for loss in told["losses"]] == [1, 1, 1, 1]


def test_slots_that_share_cores_are_slower(holdfast: Holdfast, spec: Path, profile: Path) -> None:
    steps = []
    for more in ((), ("--cores", 1)):
        _, output, _ = holdfast("plan", spec, "--nodes", 2, "--profile", profile, "--json", *more)
        steps.append(json.loads(output)["step_s"])

    assert steps[1] > 1.8 * steps[0]


def test_a_timeline_is_drawn(holdfast: Holdfast, spec: Path, profile: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    code, _, _ = holdfast("plan", spec, "--nodes", 2, "--profile", profile, "--png", tmp_path / "step.png")

    assert code == 0
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_remedy_is_named(
    holdfast: Holdfast, spec: Path, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return really(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    code, _, errors = holdfast("plan", spec, "--nodes", 2, "--profile", profile, "--png", tmp_path / "step.png")

    assert code == 2
    assert "holdfast[plots]" in errors


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tree: tree["layers"].pop(), "has 1 layers (the spec's has 2 layers)"),
        (lambda tree: tree["layers"][1].update(name="other"), "layer 'other' where it has 'last'"),
        (lambda tree: tree.update(schema=9), "schema: 9 given"),
        (lambda tree: tree["layers"][0].update(forward_s=-1), "forward_s of layer 'first' is -1.0"),
    ],
)
def test_a_wrong_profile_is_refused(
    holdfast: Holdfast, spec: Path, profile: Path, change: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    tree = json.loads(profile.read_text())
    change(tree)
    profile.write_text(json.dumps(tree))

    code, _, errors = holdfast("plan", spec, "--nodes", 2, "--profile", profile)
    assert code == 2
    assert complaint in errors


def test_a_profile_that_is_not_there_and_a_model_that_does_not_fit_are_refused(
    holdfast: Holdfast, spec: Path, profile: Path, tmp_path: Path
) -> None:
    code, _, errors = holdfast("plan", spec, "--profile", tmp_path / "none.json")
    assert (code, "give a file of `holdfast profile`" in errors) == (2, True)

    code, _, errors = holdfast("plan", spec, "--profile", profile, "--set", "layout.memory_per_slot_bytes=4000")
    assert (code, "the model does not fit on 1 slots" in errors) == (2, True)
