"""A slot that turns out slow is noticed while steps run, and gets less once that is worth it."""

from dataclasses import replace

from harness.coordination import ALL, JOB, Talk, kinds
from holdfast.control.coordinator import Coordinator
from holdfast.control.job import Job
from holdfast.model.commands import Command, WriteGeneration, WriteStart
from holdfast.model.events import AckReceived, PaceTold
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.measured import PaceRecord, SlotPace
from holdfast.model.records import AckPhase, Cause, NodeAck, SlotStart, StopMode
from holdfast.planner.estimating import uniform_profile

LONG = replace(JOB, steps=1_000_000, blocks=8)
NODES = ("a", "b", "c", "d")


def pace(talk: Talk, node: str, layer_s: float, layers: tuple[int, ...] = ALL) -> PaceTold:
    told = SlotPace(slot=SlotId(NodeId(node), 0), layer_s=tuple((layer, layer_s) for layer in layers))
    return PaceTold(PaceRecord(generation=talk.generation.number, node=NodeId(node), slots=(told,)))


def tell(talk: Talk, **layer_s: float) -> None:
    """What each node takes for each of the layers it holds."""
    plan = talk.start.plan
    assert plan is not None
    for node, seconds in layer_s.items():
        assert not talk.say(pace(talk, node, seconds, tuple(plan.layers_of(SlotId(NodeId(node), 0)))))


def training(job: Job = LONG, forming_s: float = 1.0) -> Talk:
    """Four nodes have committed a step, in a generation that took so long to form."""
    talk = Talk(replace(job, nodes_desired=4))
    talk.come(*NODES)
    talk.stopped(*NODES)
    talk.wait(forming_s)
    talk.running(*NODES)
    talk.progress(1)
    return talk


def begun(talk: Talk, seconds: float) -> WriteGeneration | None:
    """The generation that begins within so long, if one does."""
    until_s = talk.now_s + seconds
    while talk.now_s < until_s:
        wake_at_s = talk.coordinator.wake_at_s
        said = talk.wait(min(until_s, max(wake_at_s or until_s, talk.now_s + 1e-6)) - talk.now_s)
        if said:
            assert kinds(said) == [WriteGeneration]
            return said[0]  # type: ignore[return-value]
    return None


def microbatches(talk: Talk, node: str) -> int:
    """Of a step: what this node's pipeline computes."""
    plan = talk.start.plan
    assert plan is not None
    return sum(len(p.blocks) for p in plan.pipelines if any(stage.slot.node == node for stage in p.stages))


def test_a_slow_node_is_noticed_and_gets_less() -> None:
    talk = training()
    before = microbatches(talk, "b")
    tell(talk, a=0.1, b=0.3, c=0.1, d=0.1)
    written = begun(talk, 30)

    assert written is not None
    assert (written.record.cause, written.record.stop) == (Cause.BALANCE, StopMode.BOUNDARY)
    assert "b/0 computes at 0.33 of the usual speed" in written.record.reason
    assert dict(written.record.measured.speeds) == {SlotId(NodeId("b"), 0): 0.33}
    talk.stopped(*NODES, step=2)
    assert microbatches(talk, "b") < before
    assert any("b/0 computes at 0.33" in reason for reason in talk.start.reasons)


def test_it_stays_so_while_nothing_changes_and_is_taken_back_when_the_node_recovers() -> None:
    talk = training()
    tell(talk, a=0.1, b=0.3, c=0.1, d=0.1)
    assert begun(talk, 30) is not None
    talk.stopped(*NODES, step=2)
    talk.running(*NODES)
    talk.progress(3)

    tell(talk, **{str(node): 0.3 if node == "b" else 0.1 for node in talk.start.plan.nodes})  # type: ignore[union-attr]
    assert begun(talk, 600) is None

    assert microbatches(talk, "b"), "else nobody sees it recover"
    tell(talk, **{str(node): 0.1 for node in talk.start.plan.nodes})  # type: ignore[union-attr]
    written = begun(talk, 30)
    assert written is not None
    assert written.record.measured.speeds == ()


def test_a_slot_that_hardly_moves_is_as_slow_as_slots_are_told_to_be_and_the_next_leader_lives_with_it() -> None:
    talk = training()
    tell(talk, a=0.001, b=0.3, c=0.001, d=0.001)
    written = begun(talk, 30)

    assert written is not None
    assert dict(written.record.measured.speeds) == {SlotId(NodeId("b"), 0): 0.05}
    talk.coordinator = Coordinator(LONG, now_s=talk.now_s, generation=talk.generation)
    for node in NODES:
        talk.come(node)
    talk.stopped(*NODES, step=2)
    assert microbatches(talk, "a") > microbatches(talk, "b")


def test_one_that_turns_slow_after_a_loss_is_noticed_beside_what_the_others_told_before() -> None:
    talk = training()
    talk.go("d")
    stay = NODES[:3]
    talk.stopped(*stay, step=1, layer_s=0.1)
    talk.running(*stay)
    talk.progress(2)
    tell(talk, b=0.3)
    written = begun(talk, 60)

    assert written is not None
    assert written.record.cause is Cause.BALANCE
    assert dict(written.record.measured.speeds) == {SlotId(NodeId("b"), 0): 0.33}


def test_a_little_oddity_does_not_hurry_a_greater_one() -> None:
    talk = training(forming_s=4.0)
    tell(talk, a=0.1, b=0.12, c=0.1, d=0.1)
    assert begun(talk, 3600) is None
    tell(talk, b=0.3)

    assert begun(talk, 3.0) is None
    assert begun(talk, 60.0) is not None


def test_noise_and_what_is_slow_for_all_change_nothing() -> None:
    talk = training()
    tell(talk, a=0.1, b=0.108, c=0.1, d=0.095)
    assert begun(talk, 600) is None
    tell(talk, a=0.4, b=0.4, c=0.41, d=0.38)
    assert begun(talk, 600) is None


def test_nobody_reshapes_shortly_before_the_end() -> None:
    few, many = (training(replace(LONG, steps=steps), forming_s=5.0) for steps in (12, 100))
    for talk in (few, many):
        tell(talk, a=0.1, b=0.3, c=0.1, d=0.1)
        talk.wait(LONG.pace_settle_s)
        talk.progress(10)

    assert begun(few, 600) is None
    assert begun(many, 600) is not None


def test_a_layout_goes_on_until_it_lost_as_much_time_as_a_transition_takes() -> None:
    talk = training()
    told_s = talk.now_s
    tell(talk, a=0.1, b=0.3, c=0.1, d=0.1)
    assert begun(talk, 30) is not None

    # A second to form, and at most all of a step to gain: never sooner than the transition takes.
    assert talk.now_s > told_s + LONG.pace_settle_s + 1.0


def test_a_slowness_that_is_over_by_then_costs_nothing() -> None:
    talk = training()
    tell(talk, a=0.1, b=0.3, c=0.1, d=0.1)
    assert begun(talk, LONG.pace_settle_s + 0.5) is None
    tell(talk, b=0.1)

    assert begun(talk, 600) is None


def test_the_next_leader_finds_it_in_the_store() -> None:
    talk = training()
    tell(talk, a=0.1, b=0.3, c=0.1, d=0.1)
    talk.coordinator = Coordinator(LONG, now_s=talk.now_s, generation=talk.generation, start=talk.start)
    for node in NODES:
        talk.come(node)
        talk.ack(node, AckPhase.RUNNING)
    talk.progress(2)
    tell(talk, a=0.1, b=0.3, c=0.1, d=0.1)

    written = begun(talk, 30)
    assert written is not None
    assert written.record.cause is Cause.BALANCE


def test_what_was_learned_outlives_a_loss_and_its_leader() -> None:
    talk = training()
    tell(talk, a=0.1, b=0.3, c=0.1, d=0.1)
    talk.go("d")
    assert dict(talk.generation.measured.speeds) == {SlotId(NodeId("b"), 0): 0.33}
    assert talk.generation.measured.layer_s == (0.1,) * 3

    talk.coordinator = Coordinator(LONG, now_s=5.0, generation=talk.generation)
    for node in ("a", "b", "c"):
        talk.come(node)
    said = talk.stopped("a", "b", "c", step=1)
    assert kinds(said) == [WriteStart]
    assert any("b/0 computes at 0.33" in reason for reason in talk.start.reasons)


def test_a_node_that_is_gone_is_forgotten() -> None:
    talk = training()
    tell(talk, a=0.1, b=0.3, c=0.1, d=0.1)
    talk.go("b")

    assert talk.generation.measured.speeds == ()


def test_losses_are_counted_from_one_leader_to_the_next() -> None:
    talk = training()
    talk.go("d")
    one = talk.generation.struck
    assert one is not None
    talk.coordinator = Coordinator(LONG, now_s=0.0, generation=talk.generation)
    for node in ("a", "b", "c"):
        talk.come(node)
    talk.stopped("a", "b", "c", step=1)
    talk.running("a", "b", "c")
    talk.progress(2)
    talk.now_s = 50.0
    talk.go("c")
    two = talk.generation.struck
    assert two is not None

    assert (two.events - one.events, two.lost - one.lost) == (1, 1)
    assert two.seconds - one.seconds == 50.0


def joining(steps: int) -> list[Command]:
    """A fifth node is warm, so many steps before the end, when it is known what layers take."""
    talk = training(replace(LONG, steps=100, blocks=20), forming_s=5.0)
    tell(talk, a=0.1, b=0.1, c=0.1, d=0.1)
    talk.wait(10.0)
    talk.progress(100 - steps)
    talk.come("e")
    return talk.wait(10.0)


def test_a_newcomer_is_taken_in_where_it_is_worth_the_transition_and_not_shortly_before_the_end() -> None:
    assert kinds(joining(90)) == [WriteGeneration]
    assert joining(3) == []


def test_a_newcomer_that_finds_no_work_interrupts_nobody_but_is_there_when_somebody_goes() -> None:
    talk = training(replace(LONG, blocks=4))
    tell(talk, a=0.1, b=0.1, c=0.1, d=0.1)
    talk.come("e")
    assert talk.wait(10.0) == []

    talk.go("d")
    assert "e" in {str(ref.slot.node) for ref in talk.generation.members}


def test_few_nodes_take_in_whoever_comes() -> None:
    talk = Talk(replace(LONG, steps=100, blocks=1, nodes_desired=1))
    talk.come("a")
    talk.stopped("a")
    talk.wait(5.0)
    talk.running("a")
    talk.progress(98)
    tell(talk, a=0.1)
    talk.come("b")

    assert kinds(talk.wait(10.0)) == [WriteGeneration]


def test_a_job_that_does_not_adapt_weighs_nothing() -> None:
    fixed = replace(LONG, is_adaptive=False)
    slow = training(fixed)
    tell(slow, a=0.1, b=0.3, c=0.1, d=0.1)
    assert begun(slow, 600) is None

    late = training(replace(fixed, steps=12), forming_s=5.0)
    tell(late, a=0.1, b=0.1, c=0.1, d=0.1)
    late.wait(10.0)
    late.progress(11)
    late.come("e")
    assert kinds(late.wait(10.0)) == [WriteGeneration]


def restarted(layer_bytes: int, steps: int = 1000) -> Talk:
    """One of four nodes is lost while one that is warm and holds nothing stands by."""
    sizes = (layer_bytes,) * 3
    talk = training(replace(LONG, steps=steps, layer_bytes=sizes, profile=uniform_profile(LONG.layer_names, sizes)))
    tell(talk, a=0.1, b=0.1, c=0.1, d=0.1)
    talk.come("e")
    talk.go("d")
    assert {str(ref.slot.node) for ref in talk.generation.members} == {"a", "b", "c", "e"}
    talk.stopped("a", "b", "c", step=1)
    talk.stopped("e")
    return talk


def test_after_a_loss_a_newcomer_gets_layers_only_where_that_is_worth_the_time_it_takes() -> None:
    light, heavy = restarted(100), restarted(10**12)

    assert light.start.plan is not None
    assert heavy.start.plan is not None
    assert light.start.plan.nodes == {"a", "b", "c", "e"}
    assert heavy.start.plan.nodes == {"a", "b", "c"}
    assert any("e/0" in reason and "not worth it" in reason for reason in heavy.start.reasons)


def test_who_was_left_out_after_a_loss_gets_layers_once_losses_are_rare_again() -> None:
    heavy = restarted(3 * 10**11, steps=10**7)
    assert heavy.start.plan is not None
    assert heavy.start.plan.nodes == {"a", "b", "c"}
    heavy.running("a", "b", "c", "e")
    heavy.progress(2)
    assert begun(heavy, 60) is None
    written = begun(heavy, 100 * 3600)

    assert written is not None
    assert (written.record.cause, "idle: e/0" in written.record.reason) == (Cause.BALANCE, True)
    heavy.stopped("a", "b", "c", step=2)
    heavy.stopped("e")
    assert heavy.start.plan.nodes == {"a", "b", "c", "e"}, "and the start agrees"


def test_a_newcomer_is_welcome_where_copies_in_ram_lack_a_failure_domain() -> None:
    for copies, is_welcome in ((1, False), (4, True)):
        talk = training(replace(LONG, blocks=4, has_snapshots=True, copies=copies))
        tell(talk, a=0.1, b=0.1, c=0.1, d=0.1)
        talk.come("e")
        assert bool(talk.wait(10.0)) == is_welcome


def test_how_fast_layers_came_is_remembered_where_enough_came_from_elsewhere() -> None:
    talk = training()
    own, other = SlotId(NodeId("a"), 0), SlotId(NodeId("b"), 0)

    def ran(received: tuple[tuple[SlotId, int], ...], move_s: float, restored: tuple[str, int] = ("b", 0)) -> None:
        start = SlotStart(
            slot=own, form_s=0.0, move_s=move_s, received=received, initialised_layers=0, restored=(restored,)
        )
        number = talk.generation.number
        ack = NodeAck(generation=number, node=own.node, incarnation="one", phase=AckPhase.RUNNING, starts=(start,))
        talk.say(AckReceived(ack))

    ran(((own, 10**9), (other, 10**6)), 0.001)
    ran(((other, 10**9),), 400.0, ("checkpoint", 10**9))
    talk.go("d")
    assert talk.generation.measured.link_bytes_per_s == 0
    ran(((other, 10**9),), 4.0)
    talk.go("c")
    assert talk.generation.measured.link_bytes_per_s == 2.5e8
    talk.go("b")
    assert talk.generation.measured.link_bytes_per_s == 2.5e8, "as long as nothing else is told"
