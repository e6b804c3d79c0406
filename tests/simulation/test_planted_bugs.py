"""The checkers are worth what they find: bugs planted in the real control code come to light within a few schedules."""

from typing import Any

import pytest

from harness.clockwork.drawing import draw
from harness.clockwork.scenario import play
from harness.clockwork.wires import ViolationError
from holdfast.control import recovery
from holdfast.control.coordinator import Coordinator
from holdfast.control.member import Member
from holdfast.control.view import View

SEEDS_MAX = 400


def forgets_pending(version: Any, inventories: Any) -> Any:
    return {i.slot: frozenset(i.layers) for i in inventories if i.layers and version == i.version}


def oldest_commit(version: Any, inventories: Any, told: Any) -> Any:
    return next((commit for i in inventories if i.version == version for commit in i.commits), None)


def nobody_is_needed(view: View) -> Any:
    return ()


BUGS: dict[str, tuple[Any, str, object]] = {
    "who missed a vote's result is not rolled forward": (recovery, "_held_at", forgets_pending),
    "a step that only the dead committed is forgotten": (recovery, "_is_told", lambda version, told: False),
    "the first commit at hand is rolled forward": (recovery, "_commit_of", oldest_commit),
    "a draining node is let go whatever it holds": (Coordinator, "_is_spare", lambda self, node: True),
    "a lost member is not missed": (View, "needed", property(nobody_is_needed)),
    "a lease taken anew is not made use of": (Member, "rejoined", lambda self, incarnation: iter(())),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BUGS[name])

    assert any(is_found(seed) for seed in range(SEEDS_MAX))


def is_found(seed: int) -> bool:
    try:
        play(draw(seed), seed)
    except ViolationError:
        return True
    return False
