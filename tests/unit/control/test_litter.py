"""Keys of generations that are over are found, whoever wrote them, and deleted a bounded number at a time."""

from harness.coordination import training
from holdfast.control.litter import BATCH_MAX, Litter
from holdfast.model.commands import WriteGeneration
from holdfast.model.events import PardonChanged
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys

KEYS = Keys(job="j")


def littered(*generations: int, nodes: int = 2) -> Litter:
    litter = Litter(KEYS)
    for number in generations:
        litter.seen(KEYS.start(number), deleted=False)
        for node in range(nodes):
            litter.seen(KEYS.ack(number, NodeId(f"n{node:04d}")), deleted=False)
            litter.seen(KEYS.suspect(number, NodeId(f"n{node:04d}")), deleted=False)
    return litter


def sweep(litter: Litter, current: int) -> list[tuple[str, ...]]:
    """In batches, each of which is seen to be deleted."""
    batches = []
    while due := litter.due(current):
        batches.append(due)
        for key in due:
            litter.seen(key, deleted=True)
    return batches


def test_all_that_a_generation_left_goes_once_two_more_have_begun() -> None:
    litter = littered(1, 2, 3)
    assert not sweep(litter, 2)

    (batch,) = sweep(litter, 3)
    assert sorted(batch) == sorted(
        [KEYS.start(1), *(key(1, NodeId(n)) for key in (KEYS.ack, KEYS.suspect) for n in ("n0000", "n0001"))]
    )
    assert not litter.due(3)


def test_a_new_leader_sweeps_what_several_older_ones_left() -> None:
    litter = littered(4, 7, 9, 12)

    swept = [key for batch in sweep(litter, 12) for key in batch]
    assert {key.removeprefix(KEYS.prefix).split("/")[1] for key in swept} == {"4", "7", "9"}


def test_a_transaction_never_gets_more_than_a_store_takes() -> None:
    batches = sweep(littered(1, nodes=1000), 3)

    assert sum(map(len, batches)) == 2001
    assert max(map(len, batches)) == BATCH_MAX


def test_what_is_written_late_for_an_old_generation_goes_with_the_next_sweep() -> None:
    litter = littered(1)
    sweep(litter, 3)
    litter.seen(KEYS.ack(1, NodeId("late")), deleted=False)

    assert sweep(litter, 4) == [(KEYS.ack(1, NodeId("late")),)]


def test_nothing_else_is_ever_deleted() -> None:
    litter = Litter(KEYS)
    node = NodeId("n")
    for key in (KEYS.node(node), KEYS.drain(node), KEYS.claim(node), KEYS.reach(node), KEYS.pardon(node)):
        litter.seen(key, deleted=False)
    for name in ("spec", "leader", "generation", "progress", "failure", "stop", "outcome"):
        litter.seen(KEYS.one(name), deleted=False)
    litter.seen(f"{KEYS.prefix}acks/not-a-number/n", deleted=False)

    assert not litter.due(10**9)


def test_pardons_beyond_what_one_transaction_takes_stand_until_the_next_generation() -> None:
    talk = training("a", "b", "c")
    for number in range(BATCH_MAX + 20):
        talk.say(PardonChanged(NodeId(f"n{number:03}"), True))
    given: list[str] = []
    for node in "cb":
        talk.go(node)
        (command,) = [c for c in talk.commands[-2:] if isinstance(c, WriteGeneration)]
        assert len(command.pardons) <= BATCH_MAX
        given += command.pardons

    assert given == [f"n{number:03}" for number in range(BATCH_MAX + 20)]
