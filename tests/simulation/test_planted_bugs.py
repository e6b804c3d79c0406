"""The checkers are worth what they find: bugs planted in the real control code are found within 1,000 seeds."""

from typing import Any

import pytest

from holdfast.control import coordinator, departing, recovery
from holdfast.control.member import Member
from holdfast.control.view import View
from holdfast.simulator.drawing import draw
from holdfast.simulator.scenario import play
from holdfast.simulator.wires import ViolationError

SEEDS_MAX = 1000


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
    "a draining node is let go whatever it holds": (departing, "_is_spare", lambda job, view, node: True),
    "a lost member is not missed": (View, "needed", property(nobody_is_needed)),
    "a generation starts though the one before may still vote": (coordinator, "is_over", lambda view: True),
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
