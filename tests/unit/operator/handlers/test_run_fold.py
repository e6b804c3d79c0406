"""A job as its rendezvous shows it: from the records that agents write to what `reconcile` looks at."""

import dataclasses

from harness.records import JOB, KEYS, NODE, OTHER, RECORDS
from holdfast.model.ids import NodeId
from holdfast.model.records import (
    Cause,
    CheckpointRef,
    CheckpointsRecord,
    Commit,
    DrainRecord,
    GenerationRecord,
    NodeRecord,
    ProgressRecord,
    SuspectRecord,
    Version,
)
from holdfast.model.wire import encode
from holdfast.telemetry.run_state import RunState
from holdfast_operator.handlers.run_fold import RunFold
from holdfast_operator.reconcile.snapshot import RunCheckpoint, RunDrain, RunNode, RunSnapshot

_SPEC = (KEYS.one("spec"), encode(JOB))


def fold(recoveries: int = 0, generation: int = 0) -> RunFold:
    return RunFold(KEYS, recoveries=recoveries, generation=generation)


def seen(one: RunFold, *records: tuple[str, object], at_s: float = 1.0) -> RunSnapshot:
    one.see([(key, encode(record)) for key, record in records], at_s)
    run = one.snapshot()
    assert run is not None
    return run


def began(number: int, cause: Cause) -> tuple[str, object]:
    record = RECORDS[KEYS.one("generation")]
    assert isinstance(record, GenerationRecord)
    return KEYS.one("generation"), dataclasses.replace(record, number=number, cause=cause)


def test_before_it_is_submitted_there_is_no_run() -> None:
    one = fold()
    assert one.snapshot() is None
    assert one.see([_SPEC], 1.0)
    run = one.snapshot()
    assert run is not None
    assert (run.state, run.step, run.steps, run.generation) == (RunState.STARTING, 0, JOB.steps, None)
    one.see([(_SPEC[0], None)], 2.0)
    assert one.snapshot() is None


def test_nodes_and_drains_are_those_that_stand() -> None:
    one = fold()
    node = RECORDS[KEYS.node(NODE)]
    assert isinstance(node, NodeRecord)
    cold = dataclasses.replace(node, node=OTHER, workers=())
    drain = DrainRecord(node=NODE, grace_s=20.0, reason="a taint", released=True)
    run = seen(
        one, (KEYS.one("spec"), JOB), (KEYS.node(NODE), node), (KEYS.node(OTHER), cold), (KEYS.drain(NODE), drain)
    )
    assert run.nodes == {
        NODE: RunNode(node=NODE, incarnation=node.incarnation, is_warm=True),
        OTHER: RunNode(node=OTHER, incarnation=node.incarnation, is_warm=False),
    }
    assert run.drains == {NODE: RunDrain(node=NODE, grace_s=20.0, is_released=True, reason="a taint")}
    one.see([(KEYS.node(NODE), None), (KEYS.drain(NODE), None)], 2.0)
    run = seen(one)
    assert (set(run.nodes), dict(run.drains)) == ({OTHER}, {})


def test_only_what_a_loss_began_is_a_recovery_and_each_once() -> None:
    one = fold(recoveries=5, generation=3)
    run = seen(one, (KEYS.one("spec"), JOB), began(3, Cause.LOSS))
    assert run.recoveries == 5  # it was counted before
    run = seen(one, began(4, Cause.DRAIN), began(5, Cause.LOSS), began(5, Cause.LOSS), began(6, Cause.WORKER_DIED))
    assert run.recoveries == 7


def test_a_checkpoint_keeps_the_time_at_which_it_was_seen_first() -> None:
    spec = dataclasses.replace(JOB, spec={**JOB.spec, "checkpoints": {"url": "s3://bucket/job/"}})
    listed = CheckpointsRecord(committed=(CheckpointRef(version=Version(4, 1), folder="step-4"),))
    one = fold()
    seen(one, (KEYS.one("spec"), spec), (KEYS.one("checkpoints"), listed), at_s=10.0)
    run = seen(one, (KEYS.one("checkpoints"), listed), at_s=20.0)
    assert run.checkpoint == RunCheckpoint(step=4, url="s3://bucket/job/step-4", time_s=10.0)


def test_steps_alone_are_no_news() -> None:
    one = fold()
    seen(one, (KEYS.one("spec"), JOB), began(1, Cause.START))
    commit = Commit(step=1, loss=0.5, grad_norm=None, time_s=1.0)
    progress = encode(ProgressRecord(generation=1, commits=(commit,)))
    assert not one.see([(KEYS.one("progress"), progress)], 2.0)
    assert one.see([(KEYS.drain(NodeId("x")), None)], 2.0)
    run = one.snapshot()
    assert run is not None
    assert run.step == 1


def test_who_lives_is_known_although_his_record_cannot_be_read() -> None:
    one = fold()
    one.see([(KEYS.claim(NODE), b"?"), (KEYS.node(NODE), b"?")], 1.0)
    assert one.leased == {KEYS.claim(NODE), KEYS.node(NODE)}
    one.see([(KEYS.claim(NODE), None), (KEYS.node(NODE), None)], 2.0)
    assert not one.leased


def test_a_job_of_another_version_is_told_in_words() -> None:
    one = fold()
    one.see([(KEYS.one("spec"), b'{"v":9,"body":{}}')], 1.0)
    assert one.snapshot() is None
    assert "protocol version 9" in one.trouble
    one.see([_SPEC], 2.0)
    assert one.trouble == ""


def test_every_record_that_agents_write_is_taken() -> None:
    one = fold()
    one.see([(key, encode(record)) for key, record in RECORDS.items()], 1.0)
    one.see([(key, None) for key in RECORDS if key != KEYS.one("spec")], 2.0)
    assert one.snapshot() is not None


def test_a_run_of_many_steps_is_remembered_as_far_as_it_is_looked_at() -> None:
    one, last = fold(), 50_000
    seen(one, (KEYS.one("spec"), JOB), began(1, Cause.START))
    for first in range(1, last, 100):
        commits = tuple(
            Commit(step=step, loss=0.5, grad_norm=None, time_s=step * 2.0) for step in range(first, first + 100)
        )
        one.see([(KEYS.one("progress"), encode(ProgressRecord(generation=1, commits=commits)))], 1.0)
    run = one.snapshot()
    assert run is not None
    assert (run.step, run.goodput) == (last, 1.0)
    kept = len(one._recorder._timeline.generation(1).commits)  # type: ignore[union-attr]
    assert 4096 <= kept <= 3 * 4096


def test_an_agent_whose_record_cannot_be_read_is_there_and_told_of() -> None:
    one = fold()
    node = RECORDS[KEYS.node(NODE)]
    seen(one, (KEYS.one("spec"), JOB), (KEYS.node(NODE), node), (KEYS.node(OTHER), node))
    for odd in (b"?", b'{"v":9,"body":{}}'):
        one.see([(KEYS.node(NODE), odd)], 2.0)
        run = one.snapshot()
        assert run is not None
        assert run.nodes[NODE] == RunNode(node=NODE, incarnation="", is_warm=False)
        assert run.nodes.keys() == {NODE, OTHER}
        assert f"the record of node {NODE} cannot be read" in one.trouble
    one.see([(KEYS.node(NODE), encode(node))], 3.0)
    assert one.trouble == ""
    one.see([(KEYS.node(NODE), b"?"), (KEYS.node(NODE), None)], 4.0)
    assert one.trouble == ""
    run = one.snapshot()
    assert run is not None
    assert run.nodes.keys() == {OTHER}


def test_a_run_of_many_generations_is_remembered_as_far_as_it_is_looked_at() -> None:
    """Every twentieth commits a step, the others never run."""
    one, last = fold(), 4000
    seen(one, (KEYS.one("spec"), JOB), began(1, Cause.START))
    for number in range(2, last + 1):
        suspect = SuspectRecord(generation=number, node=NODE, detail="silence")
        records = [began(number, Cause.LOSS), (KEYS.suspect(number, NODE), suspect)]
        if number % 20 == 0:
            commit = Commit(step=number // 20, loss=0.5, grad_norm=None, time_s=number * 2.0)
            records.append((KEYS.one("progress"), ProgressRecord(generation=number, commits=(commit,))))
        one.see([(key, encode(record)) for key, record in records], 1.0)
    run = one.snapshot()
    assert run is not None
    assert (run.step, run.generation, run.recoveries) == (last // 20, last, last - 1)
    recorder = one._recorder
    assert recorder is not None
    assert len(recorder._timeline.generations) < 200 + 100
    assert len(recorder._suspects) < 100
