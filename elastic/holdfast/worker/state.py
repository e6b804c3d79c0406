"""What a worker holds between generations: layers, their version, and a vote whose result it missed."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from holdfast.model.facts import ProgramFacts
from holdfast.model.ids import SlotId, WorkerId
from holdfast.model.records import Commit, SlotInventory, Version
from holdfast.program import Program
from holdfast.spec import JobSpec
from holdfast.worker.commit import apply_step
from holdfast.worker.final import FinalWriter
from holdfast.worker.layers import HeldLayer
from holdfast.worker.pace import Pace
from holdfast.worker.pulse import Pulse

_COMMITS_KEPT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What does not change while a worker lives."""

    slot: SlotId
    worker: WorkerId
    program: Program
    facts: ProgramFacts
    spec: JobSpec
    device: torch.device
    host: str
    final: FinalWriter
    pulse: Pulse


@dataclass(slots=True)
class Holdings:
    """All held layers are at `version`. Invariant: `pending`, where set, is one step beyond it, and the
    gradients of that step are complete and in place."""

    layers: dict[int, HeldLayer] = field(default_factory=dict)
    version: Version | None = None
    pending: Version | None = None
    in_flight: bool = False
    commits: deque[Commit] = field(default_factory=lambda: deque(maxlen=_COMMITS_KEPT))
    pace: Pace = field(default_factory=Pace)  # of the last generation that this slot had a part in
    pace_told: dict[int, float] = field(default_factory=dict)  # of it, what the last inventory told

    def inventory(self, slot: SlotId, worker: WorkerId) -> SlotInventory:
        self.pace_told = self.pace.known(time.monotonic())
        return SlotInventory(
            slot=slot,
            worker=worker,
            layers=tuple(sorted(self.layers)),
            version=self.version if self.layers else None,
            pending=self.pending,
            in_flight=self.in_flight,
            commits=tuple(self.commits),
            layer_cost_s=tuple(self.pace_told.items()),
        )

    def settle(self, program: Program, version: Version, roll_forward: Commit | None) -> None:
        """Come to `version`, which the coordinator chose: apply the pending step, or drop what is of another one."""
        if roll_forward is not None and self.pending == version:
            self.commit(program, roll_forward, version)
        self.pending = None
        self.in_flight = False
        if self.version != version:
            self.layers.clear()
            self.commits.clear()  # they led to what was just dropped
        self.version = version

    def commit(self, program: Program, commit: Commit, version: Version) -> None:
        """Every rank has voted: apply the step to all held layers."""
        apply_step(program, self.layers, commit)
        self.version = version
        self.pending = None
        self.in_flight = False
        self.commits.append(commit)

    def adopt(self, layers: Mapping[int, HeldLayer]) -> None:
        """Layers that arrived whole, at `version`."""
        self.layers.update(layers)
