"""What the status is made of, beside the status before it: found out by `reconcile`, told by this room."""

from dataclasses import dataclass
from typing import Literal

from holdfast.telemetry.run_state import RunState

Stage = Literal["Active", "Suspending", "Suspended", "Over"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How the job ended."""

    succeeded: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something that keeps the job from what its spec wants. `reason` is a word for programs."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Of one look at the job."""

    now_s: float
    generation: int  # of the object
    stage: Stage
    verdict: Verdict | None  # of a job that has just ended
    state: RunState | None  # as the rendezvous shows it; None: nothing was submitted yet
    store_trouble: str
    has_trained: bool
    step: int  # committed
    saved_step: int | None  # of the newest checkpoint
    nodes_min: int
    wanted: int
    ready: int
    troubles: tuple[Trouble, ...]  # the gravest first
    holding: tuple[str, ...] = ()  # why the runtime waits
