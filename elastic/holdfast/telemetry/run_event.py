"""What is worth telling of a run, one line each: a line of events.jsonl, of the live view, of plain output."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class EventKind(StrEnum):
    """`<what>.<happened>`."""

    NODE_JOINED = "node.joined"
    NODE_DRAINING = "node.draining"
    NODE_RELEASED = "node.released"
    NODE_LEFT = "node.left"
    NODE_LOST = "node.lost"
    WORKER_DIED = "worker.died"
    WORKER_RETURNED = "worker.returned"
    LEADER_CHANGED = "leader.changed"
    CONTACT_LOST = "contact.lost"
    GENERATION_BEGUN = "generation.begun"
    GENERATION_STARTED = "generation.started"
    RESTORE_WAITS = "restore.waits"
    GENERATION_RUNNING = "generation.running"
    GENERATION_RECOVERED = "generation.recovered"
    STEP_COMMITTED = "step.committed"
    CHECKPOINT_COMMITTED = "checkpoint.committed"
    STOP_REQUESTED = "job.stop_requested"
    FAILURE = "job.failure"
    OUTCOME = "job.outcome"
    FAULT_FIRED = "fault.fired"  # told by who injects faults; the recorder sees only what comes of them
    FAULT_MISSED = "fault.missed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """`text` is for people; `fields` hold the same as JSON values."""

    time_s: float  # wall clock of whoever watches the store; of a commit, that of the rank that reports it
    kind: EventKind
    text: str
    fields: Mapping[str, object] = field(default_factory=dict)
