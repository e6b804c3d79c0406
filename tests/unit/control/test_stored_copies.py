"""What the coordinator does with copies in RAM and with checkpoints."""

from dataclasses import replace

from harness.coordination import ALL, JOB, Talk, kinds, outcome, training
from holdfast.model.commands import Command, CommitCheckpoint, ReleaseDrain, WriteOutcome, WriteStart
from holdfast.model.events import AckReceived, CheckpointFailed, CheckpointsChanged, ContactLost, UploadReported
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.records import (
    AckPhase,
    Action,
    CheckpointRef,
    CheckpointsRecord,
    Commit,
    NodeAck,
    Restore,
    Result,
    SlotInventory,
    SnapshotInventory,
    SuspectRecord,
    UploadedBlob,
    UploadRecord,
    Version,
)

# Each slot holds two of the three layers, so two nodes are needed, and each is alone with a layer.
TIGHT = replace(JOB, memory_per_slot_bytes=200, has_checkpoints=True)


def slot(node: str) -> SlotId:
    return SlotId(NodeId(node), 0)


def stop(
    talk: Talk,
    node: str,
    layers: tuple[int, ...],
    version: Version | None,
    *snapshots: tuple[Version, tuple[int, ...]],
    unsound: tuple[str, ...] = (),
    commits: tuple[Commit, ...] = (),
) -> list[Command]:
    """The node's agent says what its worker holds, and what it has in RAM."""
    inventory = SlotInventory(
        slot=slot(node), worker=talk.ref(node).worker, layers=layers, version=version, commits=commits
    )
    ack = NodeAck(
        generation=talk.generation.number,
        node=NodeId(node),
        incarnation="one",
        phase=AckPhase.STOPPED,
        inventory=(inventory,),
        snapshots=tuple(SnapshotInventory(version=version, layers=layers) for version, layers in snapshots),
        unsound=unsound,
    )
    return talk.say(AckReceived(ack))


def written(*layers: int, node: str = "a", version: Version) -> UploadReported:
    blobs = tuple(UploadedBlob(layer=n, path=f"{n}.safetensors", size=1, chunk_bytes=1, chunks=("c",)) for n in layers)
    return UploadReported(UploadRecord(node=NodeId(node), version=version, loss=0.5, blobs=blobs))


def committed(*refs: tuple[Version, str]) -> CheckpointsChanged:
    return CheckpointsChanged(
        CheckpointsRecord(committed=tuple(CheckpointRef(version=version, folder=folder) for version, folder in refs))
    )


def test_a_lost_node_s_layers_come_from_ram_its_own_first() -> None:
    talk = training("a", "b", "c", job=TIGHT)
    talk.go("c")
    version = Version(1, 1)
    stop(talk, "a", (0,), version, (version, (0, 2)))
    stop(talk, "b", (1,), version, (version, (1, 2)))

    (restore,) = talk.start.restores
    assert talk.start.version == version
    assert restore.layer == 2
    assert restore.sources[0] == restore.target.node, "from the RAM beside it, not over the network"
    assert set(restore.sources) == {"a", "b"}
    assert talk.start.kept == version


def test_a_worker_that_died_starts_from_its_node_s_ram_though_another_node_has_it_live() -> None:
    talk = training("a", "b")
    talk.worker_dies("b")
    version = Version(1, 1)
    stop(talk, "a", ALL, version, (version, ALL))
    stop(talk, "b", (), None, (version, ALL))

    assert not talk.start.transfers
    assert talk.start.restores == tuple(
        Restore(layer=layer, target=slot("b"), sources=(NodeId("b"), NodeId("a"))) for layer in ALL
    )


def test_copies_of_another_step_are_no_reason_to_leave_a_live_one() -> None:
    talk = training("a", "b")
    talk.worker_dies("b")
    version = Version(1, 1)
    stop(talk, "a", ALL, version, (Version(0, 0), ALL))
    stop(talk, "b", (), None, (Version(0, 0), ALL))

    assert talk.start.version == version
    assert {move.source for move in talk.start.transfers} == {slot("a")}
    assert not talk.start.restores


def test_with_no_copy_left_it_goes_back_to_the_checkpoint_and_says_so() -> None:
    talk = training("a", "b", "c", job=TIGHT)
    talk.progress(9)
    talk.say(committed((Version(4, 1), "four"), (Version(8, 1), "eight")))
    talk.go("b")
    stop(talk, "a", (0,), Version(9, 1))
    stop(talk, "c", (), None)

    assert (talk.start.version, talk.start.checkpoint) == (Version(8, 1), "eight")
    assert {restore.layer for restore in talk.start.restores} == set(ALL)
    assert talk.start.redone_steps == 1


def test_a_checkpoint_that_turned_out_corrupt_is_not_started_from_again() -> None:
    talk = training("a", "b", job=TIGHT)
    talk.say(committed((Version(4, 1), "four"), (Version(8, 1), "eight")))
    talk.go("b")
    talk.come("c")
    stop(talk, "a", (), None)
    stop(talk, "c", (), None)
    assert talk.start.checkpoint == "eight"

    number = talk.generation.number
    talk.say(ContactLost(SuspectRecord(generation=number, node=NodeId("a"), detail="layer 1 cannot be restored")))
    talk.answer("a", "c")
    talk.wait(2.0)
    assert talk.generation.number == number + 1
    stop(talk, "a", (), None, unsound=("eight",))
    stop(talk, "c", (), None)
    assert talk.start.checkpoint == "four"


def test_a_checkpoint_that_this_leader_committed_is_not_waited_for_once_it_is_found_corrupt() -> None:
    """Nothing that is newer is sound then: it must not count as about to be committed."""
    talk = training("a", "b", job=TIGHT)
    talk.progress(8)
    talk.say(written(*ALL, version=Version(8, 1)))
    talk.say(committed((Version(8, 1), "eight")))
    talk.go("b")
    talk.come("c")
    stop(talk, "a", (), None)
    stop(talk, "c", (), None)
    assert talk.start.checkpoint == "eight"

    talk.say(ContactLost(SuspectRecord(generation=talk.generation.number, node=NodeId("a"), detail="layer 1 is lost")))
    talk.answer("a", "c")
    talk.wait(2.0)
    earlier = (Version(7, 1), ALL)
    stop(talk, "a", (), None, earlier, unsound=("eight",))
    stop(talk, "c", (), None)
    assert talk.start.version == Version(7, 1)


def test_a_checkpoint_is_committed_once_all_layers_are_written_and_only_once() -> None:
    talk = training("a", "b", job=replace(JOB, has_checkpoints=True))
    version = Version(1, 1)

    assert not talk.say(written(0, 1, version=version))
    (command,) = talk.say(written(2, node="b", version=version))
    assert isinstance(command, CommitCheckpoint)
    assert [blob.layer for blob in command.blobs] == [0, 1, 2]
    assert not talk.say(written(2, node="b", version=version))
    assert kinds(talk.say(CheckpointFailed(version))) == [CommitCheckpoint]
    assert not talk.say(committed((version, "one")))
    assert not talk.say(written(*ALL, version=Version(0, 0))), "older than what is there"


def test_a_job_does_not_end_before_its_last_checkpoint_is_committed_unless_that_fails() -> None:
    for answer, held_back in ((committed((Version(100, 1), "last")), True), (CheckpointFailed(Version(100, 1)), False)):
        talk = training("a", job=replace(JOB, has_checkpoints=True, nodes_min=1))
        talk.progress(100)
        talk.say(written(*ALL, version=Version(100, 1)))
        assert not talk.ack("a", AckPhase.FINISHED), "it is being committed"
        said = talk.say(answer)
        assert outcome(said).record.result is Result.COMPLETED
        assert (CommitCheckpoint in kinds(said)) is not held_back, "it is tried again all the same"


def test_a_pause_below_the_minimum_writes_what_is_held_at_once() -> None:
    talk = training("a", "b", job=replace(JOB, nodes_min=2, has_checkpoints=True))
    talk.go("b")
    stop(talk, "a", ALL, Version(1, 1))

    assert talk.start.action is Action.HOLD
    assert talk.start.urgent


def test_the_last_node_may_leave_once_what_it_holds_is_in_a_checkpoint() -> None:
    talk = training("a", job=replace(JOB, has_checkpoints=True))
    talk.drain("a")
    stop(talk, "a", ALL, Version(1, 1))
    talk.running("a")
    assert talk.start.urgent
    assert not any(isinstance(command, ReleaseDrain) for command in talk.commands)

    said = talk.say(written(*ALL, version=Version(1, 1))) + talk.say(committed((Version(1, 1), "one")))
    assert kinds(said) == [CommitCheckpoint, ReleaseDrain]


def test_a_silent_node_is_waited_for_no_longer_than_its_steps_take_again() -> None:
    talk = training("a", "b", "c", job=TIGHT)
    talk.progress(3)
    talk.miss("c")
    talk.silent("c")
    older, now = Version(2, 1), Version(3, 1)
    commits = tuple(Commit(step=step, loss=0.5, grad_norm=None, time_s=20.0 * step) for step in (2, 3))
    for node, layers in (("a", (0,)), ("b", (1,))):
        stop(talk, node, layers, now, (older, ALL), commits=commits)
    before = len(talk.commands)
    assert talk.generation.number == 2

    talk.wait(15.0)
    assert WriteStart not in kinds(talk.commands[before:]), "a step takes 20 s, and it may come back with step 3"
    talk.wait(6.0)
    assert talk.start.generation == 2
    assert talk.start.version == older


def steps_of_20_s(*steps: int) -> tuple[Commit, ...]:
    return tuple(Commit(step=step, loss=0.5, grad_norm=None, time_s=20.0 * step) for step in steps)


def test_a_node_whose_worker_died_is_waited_for_as_long_as_its_ram_may_save_work() -> None:
    talk = training("a", "b", "c", job=TIGHT)
    talk.progress(3)
    talk.worker_stays_away("c")
    older, now = Version(2, 1), Version(3, 1)
    for node, layers in (("a", (0,)), ("b", (1,))):
        stop(talk, node, layers, now, (older, ALL), commits=steps_of_20_s(2, 3))
    number = talk.generation.number
    talk.wait(15.0)
    assert talk.start.generation < number, "its RAM may have step 3"

    talk.come("c")
    assert talk.generation.number == number + 1
    for node, layers in (("a", (0,)), ("b", (1,))):
        stop(talk, node, layers, now, (older, ALL), commits=steps_of_20_s(2, 3))
    stop(talk, "c", (), None, (now, (2,)))
    assert talk.start.version == now
    assert {restore.sources for restore in talk.start.restores if restore.layer == 2} == {(NodeId("c"),)}


def test_a_job_whose_last_copy_may_be_in_the_ram_of_a_node_whose_worker_starts_again_does_not_end() -> None:
    talk = training("a", "b", "c", job=TIGHT)
    talk.worker_stays_away("c")
    for node, layers in (("a", (0,)), ("b", (1,))):
        stop(talk, node, layers, Version(1, 1))
    number = talk.generation.number
    assert not [command for command in talk.wait(3600.0) if isinstance(command, WriteOutcome)]
    talk.come("c")
    assert talk.generation.number == number + 1


def test_a_silent_node_may_hold_more_in_ram_than_its_workers_trained_on() -> None:
    for has_snapshots in (True, False):
        talk = training("a", "b", "c", job=replace(TIGHT, has_snapshots=has_snapshots))
        talk.come("d")
        talk.miss("d")
        talk.silent("d")
        talk.go("c")
        for node, layers in (("a", (0,)), ("b", (1,))):
            stop(talk, node, layers, Version(1, 1))
        ended = [command for command in talk.wait(10.0) if isinstance(command, WriteOutcome)]
        assert bool(ended) is not has_snapshots, "d never trained, but a peer's copy may lie there"


def test_layers_that_are_lost_are_those_that_no_ram_has_either() -> None:
    talk = training("a", "b", "c", job=TIGHT)
    talk.go("c")
    stop(talk, "a", (0,), Version(1, 1), (Version(1, 1), (1,)))
    stop(talk, "b", (), None)
    reason = outcome(talk.wait(10.0)).record.reason
    assert "the last copy of layers head is gone" in reason


def test_a_job_that_fails_for_want_of_a_copy_names_the_checkpoints_that_were_found_corrupt() -> None:
    talk = training("a", "b", job=TIGHT)
    talk.say(committed((Version(8, 1), "eight")))
    talk.go("b")
    talk.come("c")
    stop(talk, "a", (), None)
    stop(talk, "c", (), None)
    number = talk.generation.number
    talk.say(ContactLost(SuspectRecord(generation=number, node=NodeId("a"), detail="layer 1 cannot be restored")))
    talk.answer("a", "c")
    talk.wait(2.0)
    stop(talk, "a", (), None, unsound=("eight",))
    stop(talk, "c", (), None, unsound=("eight",))
    assert "checkpoints found corrupt: eight;" in outcome(talk.wait(60.0)).record.reason


def test_what_only_the_ram_of_a_leaving_node_has_is_brought_to_safety_while_nobody_trains() -> None:
    talk = training("a", "b", "c", job=replace(TIGHT, nodes_min=3, has_checkpoints=False))
    talk.go("c")
    stop(talk, "a", (0,), Version(1, 1), (Version(1, 1), (2,)))
    stop(talk, "b", (1,), Version(1, 1))
    assert (talk.start.action, talk.start.restores) == (Action.HOLD, ())
    talk.running("a", "b")

    talk.drain("a")
    stop(talk, "a", (0,), Version(1, 1), (Version(1, 1), (2,)))
    stop(talk, "b", (1,), Version(1, 1))
    assert [(move.layer, move.target) for move in talk.start.transfers] == [(0, slot("b"))]
    assert talk.start.restores == (Restore(layer=2, target=slot("b"), sources=(NodeId("a"),)),)
    assert not any(isinstance(command, ReleaseDrain) for command in talk.commands)
    talk.running("a", "b")
    assert any(isinstance(command, ReleaseDrain) for command in talk.commands)
