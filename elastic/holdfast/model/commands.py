"""What the coordinator wants done, in this order. The shell fences every write by the leader's lease."""

from dataclasses import dataclass

from holdfast.model.records import DrainRecord, GenerationRecord, NodeRecord, OutcomeRecord, StartRecord


@dataclass(frozen=True, slots=True)
class WriteGeneration:
    record: GenerationRecord


@dataclass(frozen=True, slots=True)
class WriteStart:
    record: StartRecord


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    record: OutcomeRecord


@dataclass(frozen=True, slots=True)
class ReleaseDrain:
    """Nothing hangs on this node any more: it may go."""

    record: DrainRecord


@dataclass(frozen=True, slots=True)
class ProbeNode:
    """Ask the node's agent whether it lives. Refused: it is dead, evict it; the answer comes as ProbeAnswered."""

    record: NodeRecord


@dataclass(frozen=True, slots=True)
class EvictNode:
    """Revoke the node's lease; its record goes, and NodeChanged follows."""

    record: NodeRecord
    reason: str


Command = WriteGeneration | WriteStart | WriteOutcome | ReleaseDrain | ProbeNode | EvictNode
