"""What the coordinator takes note of, and what it makes of it."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from holdfast.control.view import View
from holdfast.model.events import (
    AckReceived,
    ContactLost,
    DrainChanged,
    Event,
    NodeChanged,
    NodeRefused,
    ProbeAnswered,
    ProgressMade,
    StopRequested,
    UserCodeFailed,
)
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.model.records import (
    AckPhase,
    Action,
    Cause,
    Commit,
    DrainRecord,
    FailureRecord,
    GenerationRecord,
    NodeAck,
    NodeRecord,
    ProgressRecord,
    SlotInventory,
    StartRecord,
    StopMode,
    SuspectRecord,
    Version,
    WorkerRef,
)


def ref(node: str, index: int = 0, life: int = 1) -> WorkerRef:
    slot = SlotId(NodeId(node), index)
    return WorkerRef(slot=slot, worker=WorkerId(f"{slot}#{life}"), address="host:1", pid=1)


def node(name: str, *workers: WorkerRef, incarnation: str = "one", died: Sequence[str] = ()) -> NodeChanged:
    record = NodeRecord(
        node=NodeId(name),
        incarnation=incarnation,
        host="host",
        port=1,
        domain=name,
        agent_pid=1,
        workers=workers or (ref(name),),
        died=tuple(WorkerId(worker) for worker in died),
    )
    return NodeChanged(record.node, record)


def unlisted(name: str) -> NodeChanged:
    """Its key is gone."""
    return NodeChanged(NodeId(name), None)


def dead(name: str) -> NodeRefused:
    return NodeRefused(NodeId(name), "one")


def drain(name: str, *, released: bool = False, grace_s: float = 30.0) -> DrainChanged:
    record = DrainRecord(node=NodeId(name), grace_s=grace_s, reason="test", released=released)
    return DrainChanged(record.node, record)


def generation(number: int, *names: str) -> GenerationRecord:
    return GenerationRecord(
        number=number,
        members=tuple(ref(name) for name in names),
        leavers=(),
        stop=StopMode.BOUNDARY,
        cause=Cause.START,
        reason="test",
    )


def start(number: int, *names: str, step: int = 0) -> StartRecord:
    """All of the model on each of these nodes; nobody trains where none is named."""
    pipelines = tuple(
        Pipeline((Stage(SlotId(NodeId(name), 0), Span(0, 2)),), Span(block, block + 1))
        for block, name in enumerate(names)
    )
    return StartRecord(
        generation=number,
        action=Action.TRAIN if names else Action.HOLD,
        version=Version(step, 0),
        plan=Plan(pipelines) if pipelines else None,
        transfers=(),
        roll_forward=None,
        redone_steps=0,
        initialise=True,
    )


def ack(number: int, name: str, phase: AckPhase, *, incarnation: str = "one", worker: str | None = None) -> AckReceived:
    inventory = SlotInventory(
        slot=SlotId(NodeId(name), 0), worker=WorkerId(worker or f"{name}/0#1"), layers=(), version=None
    )
    return AckReceived(
        NodeAck(generation=number, node=NodeId(name), incarnation=incarnation, phase=phase, inventory=(inventory,))
    )


def progress(number: int, *steps: int) -> ProgressMade:
    commits = tuple(Commit(step=step, loss=step / 10, grad_norm=None, time_s=0.0) for step in steps)
    return ProgressMade(ProgressRecord(generation=number, commits=commits))


def seen(*events: object, members: str = "ab", of: int = 3) -> View:
    """A view of generation `of`, after these events."""
    view = View()
    for name in members:
        view.absorb(node(name), 0.0)
    view.enter(generation(of, *members), 0.0)
    for event in events:
        view.absorb(event, 1.0)  # type: ignore[arg-type]
    return view


def test_a_generation_is_stopped_when_every_member_has_answered() -> None:
    assert not seen(ack(3, "a", AckPhase.STOPPED)).is_stopped
    assert seen(ack(3, "a", AckPhase.STOPPED), ack(3, "b", AckPhase.STOPPED)).is_stopped


def test_a_later_phase_says_what_the_earlier_ones_said() -> None:
    """A store shows only the last of quick writes to one key."""
    view = seen(ack(3, "a", AckPhase.FINISHED), ack(3, "b", AckPhase.RUNNING))
    view.begin(start(3, "a"), 1.0)

    assert view.is_stopped
    assert view.is_running
    assert view.is_finished


def test_answers_of_other_generations_and_other_lives_say_nothing() -> None:
    view = seen(
        ack(2, "a", AckPhase.STOPPED),
        ack(4, "a", AckPhase.STOPPED),
        ack(3, "a", AckPhase.STOPPED, incarnation="another"),
        ack(3, "stranger", AckPhase.STOPPED),
    )

    assert not view.stopped


def test_inventories_of_workers_that_are_no_members_are_left_out() -> None:
    view = seen(ack(3, "a", AckPhase.STOPPED, worker="a/0#2"), ack(3, "b", AckPhase.STOPPED))

    assert [inventory.worker for inventory in view.inventories] == ["b/0#1"]


def test_a_member_is_lost_when_its_node_is_dead_or_its_worker_is_another() -> None:
    assert [r.slot.node for r in seen(dead("a")).lost] == ["a"]
    assert [r.slot.node for r in seen(node("a", ref("a", life=2), died=["a/0#1"])).lost] == ["a"]
    assert not seen(node("a", incarnation="two")).lost


def test_a_member_whose_key_is_gone_counts_as_there_until_it_does_not_answer() -> None:
    view = seen(unlisted("a"))
    assert not view.lost
    assert list(view.roster.absent) == ["a"]

    view.absorb(ProbeAnswered(NodeId("a"), "one", (WorkerId("a/0#1"),)), 2.0)
    assert not view.lost
    for now_s in (3.0, 3.0):
        view.absorb(ProbeAnswered(NodeId("a"), "one", None), now_s)
    assert not view.lost, "an answer may get lost, or its loss be told of twice"
    view.absorb(ProbeAnswered(NodeId("a"), "one", (WorkerId("a/0#1"),)), 3.5)
    view.absorb(ProbeAnswered(NodeId("a"), "one", None), 4.0)
    assert not view.lost
    view.absorb(ProbeAnswered(NodeId("a"), "one", None), 5.0)
    assert [r.slot.node for r in view.lost] == ["a"]
    assert not view.roster.absent


def test_a_node_whose_key_is_gone_is_gone_if_it_is_no_member_or_is_to_leave() -> None:
    assert "c" not in seen(node("c"), unlisted("c")).nodes
    assert "b" not in seen(drain("b"), unlisted("b")).nodes


def test_once_a_generation_runs_only_those_in_its_plan_can_be_lost() -> None:
    running = (ack(3, "a", AckPhase.RUNNING), ack(3, "b", AckPhase.RUNNING))
    forming, view = seen(), seen(*running)
    for each in (forming, view):
        each.begin(start(3, "a"), 1.0)
        each.absorb(dead("b"), 2.0)

    assert [r.slot.node for r in forming.lost] == ["b"]
    assert not view.lost
    view.absorb(dead("a"), 3.0)
    assert [r.slot.node for r in view.lost] == ["a"]


def test_all_members_count_while_a_job_is_held() -> None:
    view = seen(ack(3, "a", AckPhase.RUNNING), ack(3, "b", AckPhase.RUNNING))
    view.begin(start(3), 1.0)
    view.absorb(dead("b"), 2.0)

    assert view.is_holding
    assert [r.slot.node for r in view.lost] == ["b"]


def test_a_released_node_is_neither_lost_nor_live() -> None:
    view = seen(drain("b", released=True), unlisted("b"))

    assert not view.lost
    assert [r.slot.node for r in seen(drain("b", released=True)).live] == ["a"]


def test_a_new_leader_sees_a_generation_run_whose_released_node_has_left() -> None:
    """Found by the simulation: it waited for the word of one that was gone, and aborted a job that trained."""
    view = View()
    view.enter(generation(3, "a", "b"), 0.0)
    view.begin(start(3, "a"), 0.0)
    for event in (node("a"), drain("b", released=True), ack(3, "a", AckPhase.RUNNING), ack(3, "b", AckPhase.RUNNING)):
        view.absorb(event, 0.0)

    assert view.is_running
    assert not view.lost


def test_a_generation_does_not_run_while_one_of_its_plan_is_silent() -> None:
    view = seen(ack(3, "a", AckPhase.RUNNING))
    view.begin(start(3, "a", "b"), 1.0)
    view.absorb(dead("b"), 1.0)

    assert not view.is_running


def test_nodes_drain_until_they_are_released_or_gone() -> None:
    assert seen(drain("b"), drain("a")).draining == ("a", "b")
    assert seen(drain("b"), drain("stranger")).draining == ("b",)
    assert seen(drain("b"), unlisted("b")).draining == ()
    assert seen(drain("b"), drain("b", released=True)).draining == ()
    assert seen(drain("b"), DrainChanged(NodeId("b"), None)).draining == ()


def test_a_drain_keeps_the_time_it_was_first_seen() -> None:
    view = seen(drain("b"))
    view.absorb(drain("b", grace_s=5.0), 9.0)

    assert view.drains[NodeId("b")].seen_s == 1.0
    assert view.drains[NodeId("b")].record.grace_s == 5.0


def test_the_committed_step_is_the_newest_that_anyone_told_of() -> None:
    view = seen(progress(2, 4, 5), progress(3, 3))
    assert view.committed_step == 5
    view.begin(start(3, "a", step=8), 1.0)
    assert view.committed_step == 8
    assert view.told[2].step == 5
    assert view.told[3].step == 3


def test_what_an_inventory_committed_is_told_only_if_it_led_to_what_it_holds() -> None:
    def holding(version: Version) -> AckReceived:
        inventory = SlotInventory(
            slot=SlotId(NodeId("a"), 0),
            worker=WorkerId("a/0#1"),
            layers=(0,),
            version=version,
            commits=(Commit(step=6, loss=0.5, grad_norm=None, time_s=0.0),),
        )
        record = NodeAck(
            generation=3, node=NodeId("a"), incarnation="one", phase=AckPhase.STOPPED, inventory=(inventory,)
        )
        return AckReceived(record)

    assert seen(holding(Version(6, 2))).told[2].step == 6
    assert not seen(holding(Version(7, 2))).told


def test_only_progress_of_this_generation_shows_that_it_progressed() -> None:
    assert not seen(progress(2, 5)).progressed
    assert seen(progress(3, 6)).progressed


def test_a_suspicion_keeps_its_first_time_and_is_forgotten_with_its_generation() -> None:
    suspect = SuspectRecord(generation=3, node=NodeId("a"), detail="reset")
    view = seen(ContactLost(suspect), ContactLost(SuspectRecord(generation=2, node=NodeId("b"), detail="old")))
    view.absorb(ContactLost(suspect), 5.0)

    assert view.suspected_s == 1.0
    view.enter(generation(4, "a"), 6.0)
    assert view.suspected_s is None
    view.absorb(ContactLost(suspect), 7.0)
    assert view.suspected_s is None


def test_a_probe_that_misses_a_worker_makes_it_lost_and_died() -> None:
    gone = ProbeAnswered(NodeId("a"), "one", (), asked=(WorkerId("a/0#1"),))
    view = seen(gone, ProbeAnswered(NodeId("b"), "one", (WorkerId("b/0#1"),)))

    assert [r.slot.node for r in view.lost] == ["a"]
    assert set(view.roster.died) == {"a/0#1"}
    assert view.answered == {"a", "b"}


def test_a_probe_without_answer_or_of_another_life_says_nothing() -> None:
    view = seen(ProbeAnswered(NodeId("a"), "one", None), ProbeAnswered(NodeId("b"), "two", ()))

    assert not view.lost
    assert not view.answered


def test_the_first_reason_to_stop_and_the_first_failure_stay() -> None:
    slot = SlotId(NodeId("a"), 0)
    failures = [FailureRecord(slot=slot, step=step, where="x", traceback="") for step in (1, 2)]
    view = seen(StopRequested("first"), StopRequested("second"), *map(UserCodeFailed, failures))

    assert view.stop_reason == "first"
    assert view.failure == failures[0]


def test_what_is_asked_after_every_event_is_right_after_any_events() -> None:
    """It is kept in step or remembered, not worked out: compared with what it means."""
    rng = Random(7)
    for _ in range(60):
        view = seen(members="abc")
        for number in range(3, 7):
            for _ in range(12):
                view.absorb(_draw(rng, number), 1.0)
                _compare(view)
            view.begin(start(number, *rng.choice(("", "a", "bc"))), 1.0)
            _compare(view)
            for _ in range(12):
                view.absorb(_draw(rng, number), 1.0)
                _compare(view)
            view.enter(generation(number + 1, *rng.choice(("a", "abc", "bcd"))), 1.0)
            _compare(view)


def _draw(rng: Random, number: int) -> Event:
    name = rng.choice("abcd")
    worker = ref(name, life=rng.choice((1, 1, 2)))
    events: list[Event] = [
        ack(number, name, rng.choice(list(AckPhase))),
        node(name, worker, died=rng.choice(((), (f"{name}/0#1",)))),
        drain(name, released=rng.choice((True, False))),
        DrainChanged(NodeId(name), None),
        dead(name),
        unlisted(name),
        ProbeAnswered(NodeId(name), "one", rng.choice((None, (), (worker.worker,))), (worker.worker,)),
    ]
    return rng.choice(events)


def _compare(view: View) -> None:
    refs = [r for record in view.nodes.values() for r in record.workers if not view.is_released(r.slot.node)]
    known = {r.worker for r in view.members}
    alive = {r.worker for record in view.nodes.values() for r in record.workers}
    assert view.live == tuple(sorted(refs, key=lambda r: r.slot))
    assert sorted(view.strangers, key=str) == sorted((r for r in refs if r.worker not in known), key=str)
    assert view.lost == tuple(r for r in view.needed if r.worker not in alive)
    assert view.is_stopped == (view.member_nodes <= view.stopped.keys())
    assert set(view.silent) == view.member_nodes - view.stopped.keys()
    if view.start is not None:
        plan = view.start.plan
        gone = {n for n in view.member_nodes - view.nodes.keys() if plan is None or n not in plan.nodes}
        assert view.is_running == (view.member_nodes - gone <= view.running)


def test_what_became_of_workers_and_steps_long_ago_is_forgotten() -> None:
    view = seen(node("a", ref("a", life=2), died=["a/0#1"]), dead("b"))
    for number in range(4, 40):
        view.absorb(progress(number - 1, number), 1.0)
        view.enter(replace(generation(number, "a"), voters=(WorkerId("b/0#1"),)), 1.0)
    assert set(view.roster.died) == {"a/0#1"}, "its node still tells of it"
    assert view.roster.dead == {"b/0#1"}, "asked for"

    view.absorb(node("a", ref("a", life=2)), 1.0)
    view.enter(generation(40, "c"), 1.0)
    assert not view.roster.died
    assert not view.roster.dead
    assert len(view.told) == 16
    assert max(view.told) == 38
