"""Copies of snapshots at peers: who keeps which, for how long, and who hears of it."""

from harness.copies import (
    FIRST,
    HOST,
    SECOND,
    THIRD,
    Nodes,
)
from harness.waiting import until
from holdfast.agent.blob_serving import ServingLimits
from holdfast.agent.offers import Offer, Question, Version
from holdfast.model.ids import NodeId
from holdfast_checkpoint.sparing import Spare


async def test_a_snapshot_is_copied_as_soon_as_it_is_taken_and_its_owner_hears_of_it(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    keeper.known["owner"] = owner.address
    keeper.puller.follow({"owner": [0, 2]})
    taken = owner.take(FIRST, 0, 1, 2)

    await until(lambda: owner.copied, "the owner hears of its copies")
    assert owner.copied == [("keeper", FIRST, frozenset({0, 2}))]
    assert keeper.held(FIRST) == {layer: taken[layer] for layer in (0, 2)}
    assert owner.serving.holders(FIRST, 2) == {"keeper"}
    assert not owner.serving.holders(FIRST, 1)
    assert {copy.origin for copy in keeper.ram.find(0, *FIRST)} == {"peer:owner"}

    taken = owner.take(SECOND, 0, 2)
    await until(lambda: len(owner.copied) == 2, "and of those of the next one")
    assert keeper.held(SECOND) == taken


async def test_two_nodes_keep_copies_for_each_other_and_for_a_third(nodes: Nodes) -> None:
    started = [await nodes.start(name) for name in "abc"]
    taken = {node.name: node.take(FIRST, layer) for layer, node in enumerate(started)}
    for node in started:
        others = [other for other in started if other is not node]
        node.known.update({other.name: other.address for other in others})
        node.puller.follow({other.name: taken[other.name].keys() for other in others})
    everything = taken["a"] | taken["b"] | taken["c"]
    await until(lambda: all(node.held(FIRST) == everything for node in started), "everybody holds everything")


async def test_the_kept_version_stays_while_newer_ones_come_and_go(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    keeper.known["owner"] = owner.address
    keeper.puller.follow({"owner": [0]})
    kept = owner.take(FIRST, 0)
    await until(lambda: keeper.held(FIRST) == kept, "the first version")
    owner.serving.keep(FIRST)
    for version in (SECOND, THIRD):
        taken = owner.take(version, 0)
        await until(lambda: keeper.held(version) == taken, f"version {version}")  # noqa: B023
        assert keeper.held(FIRST) == kept
        assert len(keeper.ram.versions()) == 2, "no third copy of a layer"

    owner.serving.keep(THIRD)
    newest = owner.take(Version(6, 2), 0)
    await until(lambda: keeper.held(Version(6, 2)) == newest, "the newest version")
    assert list(keeper.ram.versions()) == [THIRD, Version(6, 2)]


async def test_a_source_that_went_back_to_an_older_version_hears_of_its_copies_too(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    keeper.known["owner"] = owner.address
    keeper.puller.follow({"owner": [0]})
    newer = owner.take(SECOND, 0)
    await until(lambda: keeper.held(SECOND) == newer, "the newer version")
    owner.ram.keep_only(lambda copy: False)
    older = owner.take(FIRST, 0)
    await until(lambda: owner.serving.holders(FIRST, 0), "the owner hears of it")
    assert keeper.held(FIRST) == older


async def test_what_the_agent_says_is_kept_stays_even_if_its_source_has_not_heard_of_it(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    keeper.known["owner"] = owner.address
    keeper.puller.follow({"owner": [0]})
    kept = owner.take(FIRST, 0)
    await until(lambda: keeper.held(FIRST) == kept, "the first version")
    keeper.puller.keep(FIRST)
    for version in (SECOND, THIRD):
        owner.take(version, 0)
        await until(lambda: keeper.held(version), f"version {version}")  # noqa: B023
    assert keeper.held(FIRST) == kept


async def test_copies_of_layers_that_others_keep_now_stay_until_a_newer_version_is_kept(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    keeper.known["owner"] = owner.address
    keeper.puller.follow({"owner": [0, 1]})
    taken = owner.take(FIRST, 0, 1)
    await until(lambda: keeper.held(FIRST) == taken, "the first version")

    keeper.puller.follow({"owner": [1]})
    keeper.puller.keep(FIRST)
    assert keeper.held(FIRST) == taken
    keeper.puller.keep(SECOND)
    assert list(keeper.held(FIRST)) == [1]


async def test_what_a_keepers_own_worker_has_is_no_copy_that_it_keeps(nodes: Nodes) -> None:
    """That worker gives it up without asking."""
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    keeper.known["owner"] = owner.address
    keeper.take(FIRST, 0, 1)
    taken = owner.take(FIRST, 0, 1)
    keeper.puller.follow({"owner": [0, 1]})

    await until(lambda: owner.serving.holders(FIRST, 0), "the owner hears of copies")
    keeper.ram.keep_only(lambda copy: copy.kind != "own")
    assert keeper.held(FIRST) == taken


async def test_the_spare_version_stays_until_the_generation_has_committed_a_step(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    keeper.known["owner"] = owner.address
    keeper.puller.follow({"owner": [0, 1]})
    spare = owner.take(FIRST, 0, 1)
    await until(lambda: keeper.held(FIRST) == spare, "the first version")
    keeper.puller.keep(FIRST)
    kept = owner.take(SECOND, 0, 1)
    await until(lambda: keeper.held(SECOND) == kept, "the second version")

    keeper.puller.follow({"owner": [1]})
    keeper.puller.keep(SECOND, Spare(version=FIRST, generation=3))
    assert keeper.held(FIRST) == spare, "also of layers that others keep by now"
    owner.take(Version(21, 1), 1)
    await until(lambda: keeper.held(Version(21, 1)), "what a generation before left")
    assert keeper.held(FIRST) == spare

    owner.take(Version(22, 3), 1)
    await until(lambda: keeper.held(Version(22, 3)), "the first version of the generation")
    assert list(keeper.held(FIRST)) == [0]


async def test_a_question_is_answered_in_time_even_if_there_is_nothing_new(nodes: Nodes) -> None:
    owner = await nodes.start("owner", limits=ServingLimits(poll_s=0.05))
    question = Question(node=NodeId("keeper"), incarnation="i", layers=frozenset({0}))
    offer = Offer.read(await owner.peers.poll(HOST, owner.port.port, question.target, 10))
    assert offer == Offer(version=None, kept=None)


async def test_a_node_that_is_gone_holds_no_copies_and_its_end_says_nothing_of_who_came_after_it(nodes: Nodes) -> None:
    owner, keeper = await nodes.start("owner"), await nodes.start("keeper")
    keeper.known["owner"] = owner.address
    keeper.puller.incarnation = "second"
    keeper.puller.follow({"owner": [0]})
    owner.take(FIRST, 0)
    await until(lambda: owner.serving.holders(FIRST, 0), "the copy")
    owner.serving.forget([(NodeId("keeper"), "first")])
    assert owner.serving.holders(FIRST, 0) == {"keeper"}, "that was another one"
    owner.serving.forget([(NodeId("keeper"), "second")])
    assert not owner.serving.holders(FIRST, 0)
