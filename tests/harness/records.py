"""One record of every kind that stands in the store, by its key: what fuzzing starts from."""

from holdfast.model.claim import ClaimRecord
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.keys import Keys
from holdfast.model.measured import PaceRecord, SlotPace
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.model.records import (
    AckPhase,
    Action,
    AgentRef,
    Cause,
    CheckpointRef,
    CheckpointsRecord,
    Commit,
    DrainRecord,
    FailureRecord,
    GenerationRecord,
    JobRecord,
    LeaderRecord,
    NodeAck,
    NodeRecord,
    OutcomeRecord,
    PardonRecord,
    ProgressRecord,
    ReachRecord,
    Result,
    SlotInventory,
    SlotStart,
    Standing,
    StartRecord,
    StopMode,
    StopRecord,
    SuspectRecord,
    Transfer,
    UploadedBlob,
    UploadRecord,
    Version,
    WorkerRef,
)

KEYS = Keys(job="toy")
NODE = NodeId("node-0")
OTHER = NodeId("node-1")
_SLOT = SlotId(NODE, 0)
_WORKER = WorkerRef(slot=_SLOT, worker=WorkerId("w"), address="127.0.0.1:1", pid=2)
_COMMIT = Commit(step=1, loss=0.5, grad_norm=None, time_s=1.0)
JOB = JobRecord(
    spec={"name": "toy", "program": {"entry": "toy.py:program"}, "steps": 5},
    base="/",
    out="/",
    layer_names=("a", "b"),
    layer_bytes=(8, 8),
    microbatches=4,
    steps=5,
)
RECORDS: dict[str, object] = {
    KEYS.one("spec"): JOB,
    KEYS.one("leader"): LeaderRecord(node=NODE, incarnation="i"),
    KEYS.claim(NODE): ClaimRecord(node=NODE, incarnation="i", host="127.0.0.1", port=1, pid=1),
    KEYS.node(NODE): NodeRecord(
        node=NODE, incarnation="i", host="127.0.0.1", port=1, domain="d", agent_pid=1, workers=(_WORKER,)
    ),
    KEYS.one("generation"): GenerationRecord(
        number=1,
        members=(_WORKER,),
        leavers=(OTHER,),
        stop=StopMode.ABORT,
        cause=Cause.LOSS,
        reason="r",
        lineage=((0, 0),),
        voters=(WorkerId("w"),),
        agents=(AgentRef(node=NODE, incarnation="i", host="127.0.0.1", port=1, domain="d"),),
        standings=(Standing(node=OTHER, losses=1, step=1, wait_steps=2),),
    ),
    KEYS.start(1): StartRecord(
        generation=1,
        action=Action.TRAIN,
        version=Version(1, 1),
        plan=Plan(pipelines=(Pipeline(stages=(Stage(_SLOT, Span(0, 2)),), blocks=Span(0, 4)),)),
        transfers=(Transfer(layer=1, source=SlotId(OTHER, 0), target=_SLOT),),
        roll_forward=_COMMIT,
        redone_steps=0,
        initialise=False,
    ),
    KEYS.drain(NODE): DrainRecord(node=NODE, grace_s=5.0, reason="r"),
    KEYS.pardon(NODE): PardonRecord(node=NODE, reason="r"),
    KEYS.reach(NODE): ReachRecord(node=NODE, incarnation="i", unreachable=(OTHER,)),
    KEYS.ack(1, NODE): NodeAck(
        generation=1,
        node=NODE,
        incarnation="i",
        phase=AckPhase.RUNNING,
        inventory=(
            SlotInventory(
                slot=_SLOT,
                worker=WorkerId("w"),
                layers=(0, 1),
                version=Version(1, 1),
                commits=(_COMMIT,),
                in_flight=True,
            ),
        ),
        starts=(SlotStart(slot=_SLOT, form_s=0.1, move_s=0.1, received=((_SLOT, 8),), initialised_layers=0),),
    ),
    KEYS.pace(1, NODE): PaceRecord(
        generation=1, node=NODE, slots=(SlotPace(slot=_SLOT, layer_s=((0, 0.1), (1, 0.2))),)
    ),
    KEYS.suspect(1, NODE): SuspectRecord(generation=1, node=NODE, detail="gone"),
    KEYS.one("progress"): ProgressRecord(generation=1, commits=(_COMMIT,)),
    KEYS.one("failure"): FailureRecord(slot=_SLOT, step=1, where="layer", traceback="text"),
    KEYS.upload(Version(4, 1), NODE): UploadRecord(
        node=NODE,
        version=Version(4, 1),
        loss=0.5,
        blobs=(UploadedBlob(layer=0, path="00000.safetensors", size=1, chunk_bytes=16, chunks=("0" * 32,)),),
    ),
    KEYS.one("checkpoints"): CheckpointsRecord(
        committed=(CheckpointRef(version=Version(2, 0), folder="0000000002-r-0"),)
    ),
    KEYS.one("stop"): StopRecord(reason="r"),
    KEYS.one("outcome"): OutcomeRecord(result=Result.COMPLETED, reason="r", step=5),
}
