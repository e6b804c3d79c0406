"""Whom a node reaches: asked when contact was lost, told when it changes."""

from collections.abc import Iterable

from holdfast.control.member_commands import DropReach, MemberCommand, ProbePeers, PutReach
from holdfast.control.outlook import Outlook
from holdfast.model.ids import NodeId

MEMBERS = tuple(map(NodeId, "abc"))


def awake(outlook: Outlook, seconds: float = 60.0, *, silent: Iterable[str] = ()) -> list[MemberCommand]:
    """Time passes, peers are asked whenever it wants, and these do not answer. All that it says."""
    said: list[MemberCommand] = []
    while outlook.wake_at_s is not None and outlook.wake_at_s <= seconds:
        now_s = outlook.wake_at_s
        for command in outlook.time_passed(now_s):
            said.append(command)
            assert isinstance(command, ProbePeers)
            said += outlook.probed([NodeId(n) for n in silent if n in command.nodes], "one", now_s)
    return said


def test_nobody_is_asked_while_contact_is_not_lost() -> None:
    assert Outlook(NodeId("a")).wake_at_s is None


def test_all_other_members_are_asked_a_few_times_and_nothing_is_said_where_all_answer() -> None:
    """A cut may begin while they are asked."""
    outlook = Outlook(NodeId("a"))
    outlook.lost(MEMBERS)

    assert awake(outlook) == [ProbePeers((NodeId("b"), NodeId("c")))] * 3
    assert outlook.wake_at_s is None


def test_who_does_not_answer_is_told_of_once_and_asked_until_it_does() -> None:
    outlook = Outlook(NodeId("a"))
    outlook.lost(MEMBERS)
    said = awake(outlook, 10.0, silent="c")

    (reach,) = [command.record for command in said if isinstance(command, PutReach)]
    assert (reach.node, reach.incarnation, reach.unreachable) == ("a", "one", ("c",))
    assert len(said) > 5
    assert [c for c in awake(outlook, 20.0) if not isinstance(c, ProbePeers)] == [DropReach(NodeId("a"))]


def test_a_loss_that_is_dealt_with_in_a_moment_makes_nobody_ask() -> None:
    outlook = Outlook(NodeId("a"))
    outlook.lost(MEMBERS)
    assert not list(outlook.time_passed(5.0))  # from here on it knows what time it is
    assert outlook.wake_at_s is not None
    outlook.superseded()

    assert outlook.wake_at_s is None


def test_who_is_out_of_reach_is_asked_on_whatever_generation_begins() -> None:
    outlook = Outlook(NodeId("a"))
    outlook.lost(MEMBERS)
    awake(outlook, 2.0, silent="c")
    outlook.superseded()

    assert ProbePeers((NodeId("c"),)) in awake(outlook, 10.0, silent="c")


def test_where_there_are_very_many_the_next_generation_is_given_more_time() -> None:
    waits = []
    for count in (3, 10_000):
        outlook = Outlook(NodeId("n0"))
        outlook.lost([NodeId(f"n{n}") for n in range(count)])
        assert not list(outlook.time_passed(0.0))
        waits.append(outlook.wake_at_s or 0.0)

    assert waits[0] < 0.3
    assert waits[1] > 10.0


def test_after_a_few_looks_only_those_that_are_not_reached_are_asked() -> None:
    """All ask all: that must not go on for as long as a cut does."""
    outlook = Outlook(NodeId("a"))
    outlook.lost(MEMBERS)
    asked = [c.nodes for c in awake(outlook, 30.0, silent="c") if isinstance(c, ProbePeers)]

    assert asked[:3] == [("b", "c")] * 3
    assert len(asked) > 10
    assert set(asked[3:]) == {("c",)}
