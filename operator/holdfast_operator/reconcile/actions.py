"""What may be done about a job. Each is safe to do again, and in any order but the one given nothing depends on it."""

from dataclasses import dataclass, field
from typing import Any, Literal

from holdfast.model.ids import NodeId
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSecret:
    """Made with a new random secret unless it is there: never overwritten."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyConfig:
    """The ConfigMap with the runtime's job spec, by server-side apply."""

    name: str
    spec: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePod:
    """Fails quietly if a pod of that name is there: the next snapshot shows it."""

    name: str
    manifest: dict[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletePod:
    """Of this uid only. `grace_s` None: as its spec says; 0: by force, nothing is waited for."""

    name: str
    uid: str
    grace_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainNode:
    """Ask a node of the rendezvous to leave; a drain that stands already stays if it ends sooner or is released."""

    node: NodeId
    grace_s: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelDrain:
    """Take the record of a drain away that was never acted upon, or whose node is gone for good."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteStatus:
    """Only where it differs from what is there, and only if the job is still of the version that was decided upon
    (`metadata.resource_version`): otherwise the pass ends. What is counted is counted once because of this."""

    status: ElasticJobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class TellEvent:
    """A Kubernetes event about the job; one that is told again is counted up, not repeated."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteJob:
    """Of this uid only; what belongs to it is collected by the control plane."""

    uid: str


Action = (
    CreateSecret | ApplyConfig | CreatePod | DeletePod | DrainNode | CancelDrain | WriteStatus | TellEvent | DeleteJob
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """To be done in this order; the first that fails ends the pass, and the job is looked at again after a pause."""

    actions: tuple[Action, ...]
    look_again_s: float | None  # from now, although nothing may have changed; None: only when something does
