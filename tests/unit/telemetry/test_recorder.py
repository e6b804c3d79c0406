"""The recorder tells the whole truth about a run, in whatever order and however often it is told."""

import math

import pytest

from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.records import (
    AckPhase,
    Action,
    Cause,
    LeaderRecord,
    NodeAck,
    OutcomeRecord,
    Result,
    StopRecord,
    SuspectRecord,
    Transfer,
    Version,
)
from holdfast.telemetry.roster import NodeState
from holdfast.telemetry.run_event import EventKind
from holdfast.telemetry.run_state import RunState
from unit.telemetry.conftest import KEYS, Story, commit, plan, ready, slot, worker


def test_an_undisturbed_run_reports_every_step_once(story: Story) -> None:
    report = story.trained_to(5).at(20).ended(Result.COMPLETED, 5).recorder.report(weights_sha256="w")
    assert report.losses == (1.0, 1 / 2, 1 / 3, 1 / 4, 1 / 5)
    assert (report.steps_committed, report.samples_consumed) == (5, 80)
    assert (report.outcome, report.weights_sha256) == (Result.COMPLETED, "w")
    assert (report.median_step_s, report.samples_per_s, report.goodput) == (1.0, 16.0, 1.0)
    assert report.generations[0].downtime_s is None


def test_the_first_generation_tells_its_layout(story: Story) -> None:
    story.joined("a", "b").begun(1, "ab", Cause.START).stopped(1, "ab").started(1, plan("ab"))
    first = story.recorder.report().generations[0]
    assert (first.layout, first.members) == ("1x2", ("a/0", "b/0"))
    assert [(s.node, s.slot, s.layers) for s in first.pipelines[0].stages] == [("a", 0, (0, 2)), ("b", 0, (2, 4))]
    assert (first.pipelines[0].blocks, first.pipelines[0].microbatches) == ((0, 4), 8)


def test_downtime_is_what_passed_between_commits_less_one_step(story: Story) -> None:
    story.trained_to(5)  # the last one at 14
    story.at(14.25).vanished("b").at(14.5).begun(2, "a").at(14.75).stopped(2, "a", version=Version(5, 1))
    story.at(15).started(2, plan("a"), version=Version(5, 1), redone_steps=1).at(15.5).running(2, "a")
    after = story.steps(2, 6, 9, at_s=17.5, each_s=2.0).recorder.report().generations[1]
    assert after.median_step_s == 2.0
    assert after.downtime_s == 17.5 - 14 - 2.0
    assert after.redone_steps == 1
    parts = (after.detect_s, after.stop_s, after.plan_s, after.ready_s, after.first_step_s)
    assert parts == (0.5, 0.25, 0.25, 0.5, 2.0)
    assert after.decided_s == 0.5


def test_the_parts_of_a_downtime_add_up_also_where_the_step_in_flight_commits_first(story: Story) -> None:
    story.trained_to(5).at(13.5).begun(2, "ab", Cause.DRAIN, leavers=["b"])  # step 5 commits at 14
    story.at(14.25).stopped(2, "ab", version=Version(5, 1)).at(14.5).started(2, plan("a"), version=Version(5, 1))
    story.at(14.75).running(2, "ab").steps(2, 6, 8, at_s=15.5)
    after = story.recorder.report().generations[1]
    assert (after.detect_s, after.stop_s) == (0.0, 0.25)
    parts = [after.detect_s, after.stop_s, after.plan_s, after.ready_s, after.first_step_s]
    assert after.downtime_s is not None
    assert after.median_step_s is not None
    assert sum(p for p in parts if p is not None) == after.downtime_s + after.median_step_s
    assert after.decided_s == 1.0


def test_a_single_commit_is_measured_against_the_pace_before_it(story: Story) -> None:
    story.trained_to(5).begun(2, "a").started(2, plan("a"), version=Version(5, 1)).steps(2, 6, 6, at_s=17.0)
    after = story.recorder.report().generations[1]
    assert (after.downtime_s, after.median_step_s) == (2.0, None)


def test_a_commit_that_rank_0_did_not_live_to_report_is_found_in_an_inventory(story: Story) -> None:
    story.trained_to(3).vanished("a")
    story.begun(2, "b").stopped(2, "b", version=Version(5, 1), commits=[commit(s, 9.0 + s) for s in (3, 4, 5)])
    report = story.recorder.report()
    assert report.losses == (1.0, 1 / 2, 1 / 3, 1 / 4, 1 / 5)
    assert report.generations[0].committed_steps == 5
    assert story.texts(EventKind.STEP_COMMITTED)[-2:] == ["step 4/40: loss 0.2500", "step 5/40: loss 0.2000"]


def test_a_step_that_survivors_roll_forward_counts_for_the_generation_that_voted_for_it(story: Story) -> None:
    story.trained_to(3).begun(2, "b").stopped(2, "b", version=Version(3, 1))
    story.started(2, plan("b"), version=Version(4, 1), roll_forward=commit(4, 13.5))
    report = story.recorder.report()
    assert report.losses[3] == 1 / 4
    assert [g.committed_steps for g in report.generations] == [4, 0]


def test_steps_that_are_computed_again_are_counted_and_reported_once(story: Story) -> None:
    story.trained_to(5).begun(2, "a").stopped(2, "a", version=Version(3, 1))
    story.started(2, plan("a"), version=Version(3, 1), redone_steps=2)
    assert story.recorder.view().step == 3
    story.commits(2, commit(4, 20.0, loss=7.0)).commits(2, commit(5, 21.0, loss=8.0))
    report = story.recorder.report()
    assert report.losses == (1.0, 1 / 2, 1 / 3, 7.0, 8.0)
    assert [g.redone_steps for g in report.generations] == [0, 2]
    # 10..14 and 20..21; steps 4 and 5 count as they were computed the second time.
    assert report.goodput == (2 + 1 + 1) / 11


def test_what_an_undone_generation_says_late_changes_nothing_but_the_count(story: Story) -> None:
    story.trained_to(3).begun(2, "b").started(2, plan("b"), version=Version(3, 1)).commits(2, commit(4, 20.0, loss=7.0))
    story.commits(1, commit(4, 13.0, loss=6.0), commit(5, 14.0, loss=6.0))
    report = story.recorder.report()
    assert report.losses == (1.0, 1 / 2, 1 / 3, 7.0)
    assert [g.redone_steps for g in report.generations] == [0, 2]


def test_a_step_is_redone_once_by_each_generation_that_goes_back_before_it(story: Story) -> None:
    story.trained_to(5).begun(2, "a").started(2, plan("a"), version=Version(3, 1)).commits(2, commit(4, 20.0))
    story.begun(3, "a").started(3, plan("a"), version=Version(4, 2)).steps(3, 5, 6, at_s=21.0)
    assert [g.redone_steps for g in story.recorder.report().generations] == [0, 2, 0]


def test_a_worker_that_was_set_back_does_not_tell_of_what_was_undone(story: Story) -> None:
    story.trained_to(3).begun(2, "a").started(2, plan("a"), version=Version(3, 1)).begun(3, "a")
    undone = [commit(3, 12.0), commit(4, 13.0, loss=6.0), commit(4, 20.0, loss=7.0), commit(5, 21.0, loss=8.0)]
    story.stopped(3, "a", version=Version(4, 2), commits=undone)
    report = story.recorder.report()
    assert report.losses == (1.0, 1 / 2, 1 / 3, 7.0)
    assert [g.committed_steps for g in report.generations] == [3, 1, 0]


def test_a_generation_that_ends_before_it_runs_leaves_its_downtime_to_the_next(story: Story) -> None:
    story.trained_to(5).begun(2, "a").begun(3, "a").started(3, plan("a"), version=Version(5, 1))
    report = story.running(3, "a").steps(3, 6, 7, at_s=20.0).recorder.report()
    second, third = report.generations[1:]
    assert (second.action, second.start_step, second.pipelines, second.downtime_s) == (None, None, (), None)
    assert third.downtime_s == 20.0 - 14.0 - 1.0


def test_bytes_are_told_by_source_and_by_target(story: Story) -> None:
    moves = [Transfer(layer=n, source=slot("a"), target=slot("c")) for n in (0, 1)]
    story.trained_to(2).begun(2, "abc", Cause.JOIN).started(2, plan("ac", "b"), version=Version(2, 1), transfers=moves)
    story.running(2, "ab").running(2, "c", [ready("c", [("a", 300), ("b", 50)], move_s=0.5)])
    joined = story.recorder.report().generations[1]
    assert (joined.bytes_by_source, joined.bytes_by_target) == ({"a/0": 300, "b/0": 50}, {"c/0": 350})
    assert (joined.form_s, joined.move_s, joined.layers_moved) == (0.25, 0.5, 2)
    assert "generation 2: train 1x2+1x1 from step 2, 2 layers to move" in story.texts(EventKind.GENERATION_STARTED)


def test_a_loss_that_is_no_number_is_null_and_counted(story: Story) -> None:
    story.trained_to(1).commits(1, commit(2, 11.0, loss=math.nan), commit(3, 12.0, loss=math.inf))
    report = story.recorder.report()
    assert report.losses == (1.0, None, None)
    assert (report.losses_not_finite, report.losses_unreported) == (2, 0)


def test_a_loss_that_nobody_told_is_null_and_counted(story: Story) -> None:
    story.begun(7, "a").started(7, plan("a"), version=Version(3, 6)).commits(7, commit(4, 11.0))
    report = story.recorder.report()
    assert report.losses == (None, None, None, 1 / 4)
    assert (report.losses_not_finite, report.losses_unreported) == (0, 3)


def test_a_drained_node_leaves_and_a_vanished_one_is_lost(story: Story) -> None:
    story.trained_to(2).drain("a")
    assert story.recorder.nodes()[NodeId("a")].state is NodeState.DRAINING
    story.drain("a", released=True).vanished("a").vanished("b")
    states = {name: status.state for name, status in story.recorder.nodes().items()}
    assert states == {"a": NodeState.LEFT, "b": NodeState.LOST}
    assert story.texts(EventKind.NODE_DRAINING) == ["a is draining: notice"]
    assert (story.texts(EventKind.NODE_LEFT), story.texts(EventKind.NODE_LOST)) == (["a left"], ["b is lost"])


def test_a_node_that_vanishes_before_its_drain_is_released_is_lost(story: Story) -> None:
    story.trained_to(2).drain("a").vanished("a")
    assert story.recorder.nodes()[NodeId("a")].state is NodeState.LOST


def test_nodes_that_go_when_the_job_is_over_have_left(story: Story) -> None:
    story.trained_to(2).ended(Result.COMPLETED, 2).vanished("a").vanished("b")
    assert {status.state for status in story.recorder.nodes().values()} == {NodeState.LEFT}


def test_a_node_is_starting_until_the_store_shows_it(story: Story) -> None:
    node = NodeId("a")
    story.recorder.launched(node, 7)
    assert story.recorder.nodes()[node].state is NodeState.STARTING
    assert story.recorder.nodes()[node].agent_pid == 7
    story.joined("a")
    status = story.recorder.nodes()[node]
    assert (status.state, status.agent_pid, status.worker_pids) == (NodeState.READY, ord("a"), (1097,))


def test_a_node_that_ends_before_the_store_shows_it_does_not_stay_starting(story: Story) -> None:
    for name, cleanly in (("a", True), ("b", False)):
        story.recorder.launched(NodeId(name), 7)
        story.recorder.exited(NodeId(name), cleanly=cleanly)
    assert [status.state for status in story.recorder.nodes().values()] == [NodeState.LEFT, NodeState.LOST]


def test_what_a_launcher_knows_does_not_overrule_the_store(story: Story) -> None:
    story.joined("a").recorder.launched(NodeId("a"), 7)
    story.recorder.exited(NodeId("a"), cleanly=False)
    assert story.recorder.nodes()[NodeId("a")].state is NodeState.READY


def test_a_worker_that_dies_and_its_successor_are_told(story: Story) -> None:
    old, new = worker("a"), worker("a", life=2)
    story.joined("a").node("a", workers=(), died=(old,))
    assert story.recorder.nodes()[NodeId("a")].state is NodeState.STARTING
    story.node("a", workers=(new,), died=(old,))
    assert story.texts(EventKind.WORKER_DIED) == ["the worker of a/0 died"]
    assert story.texts(EventKind.WORKER_RETURNED) == ["a/0 has a new worker"]
    assert story.recorder.nodes()[NodeId("a")].worker_pids == (new.pid,)


def test_a_node_that_was_lost_and_shows_again_came_back(story: Story) -> None:
    story.joined("a").vanished("a").joined("a", incarnation="i2")
    assert story.texts(EventKind.NODE_JOINED) == ["a joined with 1 slot", "a came back with 1 slot"]
    assert story.recorder.nodes()[NodeId("a")].state is NodeState.READY


def test_a_hold_costs_the_generation_that_resumes_not_the_one_that_holds(story: Story) -> None:
    story.trained_to(5).begun(2, "a").started(2, None, version=Version(5, 1), action=Action.HOLD)
    assert story.recorder.view().state is RunState.RESHAPING
    story.running(2, "a")
    assert story.recorder.view().state is RunState.HOLDING
    story.begun(3, "ab", Cause.RESUME).started(3, plan("a", "b"), version=Version(5, 1)).running(3, "ab")
    report = story.steps(3, 6, 8, at_s=115.0).recorder.report()
    held, resumed = report.generations[1:]
    assert (held.action, held.layout, held.downtime_s) == (Action.HOLD, None, None)
    assert resumed.downtime_s == 100.0


def test_the_view_follows_the_state_of_the_run(story: Story) -> None:
    recorder = story.recorder
    assert recorder.view().state is RunState.STARTING
    story.joined("a", "b").begun(1, "ab", Cause.START).started(1, plan("a", "b"))
    assert recorder.view().state is RunState.STARTING
    story.running(1, "ab")
    assert recorder.view().state is RunState.TRAINING
    story.steps(1, 1, 20, at_s=10.0, each_s=0.5).begun(2, "ab", Cause.STOP)
    assert recorder.view().state is RunState.RESHAPING
    view = recorder.view()
    assert (view.step, view.steps, view.loss, view.samples_per_s) == (20, 40, 1 / 20, 32.0)
    assert (view.layout, len(view.pipelines), view.generation) == ("2x1", 2, 2)
    story.started(2, plan("a", "b"), version=Version(20, 1), action=Action.FINISH).running(2, "ab")
    assert recorder.view().state is RunState.FINISHED


def test_the_rate_is_of_the_last_steps_only(story: Story) -> None:
    story.trained_to(5).steps(1, 6, 20, at_s=14.25, each_s=0.25)
    assert story.recorder.view().samples_per_s == 16 / 0.25


def test_an_exception_in_the_users_code_is_in_the_report(story: Story) -> None:
    report = story.trained_to(2).failed(2).recorder.report()
    assert report.outcome is Result.FAILED
    assert report.failure is not None
    assert report.failure.model_dump() == {
        "where": "layer two",
        "step": 2,
        "slot": "a/0",
        "traceback": "Traceback: boom",
    }


def test_a_job_without_an_outcome_is_reported_as_failed_unless_the_caller_knows_better(story: Story) -> None:
    recorder = story.trained_to(2).recorder
    assert recorder.report().outcome is Result.FAILED
    ended = OutcomeRecord(result=Result.STOPPED, reason="interrupted twice", step=2)
    assert recorder.report(ended=ended).reason == "interrupted twice"


def test_being_told_everything_twice_tells_nothing_new(story: Story) -> None:
    story.trained_to(3).drain("b").begun(2, "ab", Cause.DRAIN).stopped(2, "ab", version=Version(3, 1))
    told, report = len(story.told), story.recorder.report()
    nodes = story.recorder.nodes()
    story.joined("a", "b").drain("b").begun(1, "ab").started(1, plan("a", "b")).running(1, "ab")
    story.commits(1, *(commit(s, 9.0 + s) for s in (1, 2, 3))).begun(2, "ab", Cause.DRAIN)
    assert len(story.told) == told
    assert story.recorder.report() == report
    assert story.recorder.nodes() == nodes


def test_starts_may_be_told_in_any_order(story: Story) -> None:
    story.trained_to(5).begun(2, "a").begun(3, "a").started(3, plan("a"), version=Version(2, 1))
    story.started(2, plan("a"), version=Version(3, 1))
    assert story.recorder.view().step == 2
    assert story.recorder.report().losses == (1.0, 1 / 2)


def test_who_coordinates_who_lost_contact_and_who_stops_the_job_is_told_once(story: Story) -> None:
    for _ in range(2):
        story.put(KEYS.one("leader"), LeaderRecord(node=NodeId("a"), incarnation="i1"))
        story.put(KEYS.suspect(1, NodeId("b")), SuspectRecord(generation=1, node=NodeId("b"), detail="reset by a"))
        story.put(KEYS.one("stop"), StopRecord(reason="enough"))
    assert [e.text for e in story.told] == ["a coordinates", "b lost contact: reset by a", "the job is to stop: enough"]
    assert story.recorder.view().coordinator == "a"


def test_the_view_keeps_the_last_events_but_for_commits(story: Story) -> None:
    events = story.trained_to(5).recorder.view().events
    assert [e.kind for e in events][-2:] == [EventKind.GENERATION_STARTED, EventKind.GENERATION_RUNNING]


@pytest.mark.parametrize("key", ["", "x", "jobs/story/spec", "jobs/story/unheard/of", KEYS.one("generation")])
def test_what_is_not_understood_is_passed_over(story: Story, key: str, caplog: pytest.LogCaptureFixture) -> None:
    assert story.recorder.apply(key, b"not a record", 1.0) == ()
    assert story.recorder.apply(key, None, 1.0) == ()
    assert ("recorder.malformed" in caplog.text) == key.endswith("generation")


def test_a_death_of_an_unknown_worker_names_the_worker(story: Story) -> None:
    ghost = worker("a", life=9)
    story.joined("a").node("a", workers=(worker("a"),), died=(ghost,))
    assert ghost.worker == WorkerId("a#9")
    assert ghost.slot == SlotId(NodeId("a"), 0)
    assert story.texts(EventKind.WORKER_DIED) == ["the worker of a (a#9) died"]


def test_a_restore_that_waits_for_the_storage_is_told_once(story: Story) -> None:
    story.joined("a", "b").begun(1, "ab", Cause.START).stopped(1, "ab").started(1, plan("ab"))
    for waits in ("503", "503", "", "no answer"):
        ack = NodeAck(generation=1, node=NodeId("a"), incarnation="i1", phase=AckPhase.STOPPED, waits=waits)
        story.put(KEYS.ack(1, NodeId("a")), ack)
    assert story.texts(EventKind.RESTORE_WAITS) == [
        "a waits for the storage that it restores from: 503",
        "a waits for the storage that it restores from: no answer",
    ]


def test_what_is_forgotten_stays_forgotten_and_changes_nothing_of_what_is_shown(story: Story) -> None:
    story.trained_to(300)
    for number in (2, 3, 4):  # none of them gets to run
        story.begun(number, "a").started(number, plan("a"), version=Version(298 + number - 2, number - 1))
    story.begun(5, "a").started(5, plan("a"), version=Version(299, 4)).steps(5, 300, 301, at_s=320.0)
    story.begun(6, "ab")
    before = story.recorder.view()
    story.recorder.forget_before(0)
    assert story.recorder.view() == before
    assert [g.number for g in story.recorder._timeline.generations] == [1, 5, 6]
    story.begun(2, "b").started(2, plan("b"), version=Version(100, 1)).commits(3, commit(302, 400.0))
    after = story.recorder.view()
    assert (after.step, after.state, after.generation) == (301, RunState.RESHAPING, 6)
    assert [g.number for g in story.recorder._timeline.generations] == [1, 5, 6]
    story.recorder.forget_before(1000)
    assert [g.number for g in story.recorder._timeline.generations] == [6]
    assert (story.recorder.view().step, story.recorder.view().state) == (301, RunState.RESHAPING)
    story.commits(1, commit(150, 160.0, loss=9.0))
    assert story.recorder.view().loss is None
