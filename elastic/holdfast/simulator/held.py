"""What a fake worker holds between generations: mirror of holdfast.worker.state.Holdings."""

from collections import deque
from dataclasses import dataclass, field

from holdfast.model.records import Commit, Version
from holdfast.simulator.weights import State, applied, loss_of
from holdfast.simulator.wires import ViolationError

_COMMITS_KEPT = 16


@dataclass(slots=True)
class Held:
    """All layers are at `version`; `pending`, where set, is one step beyond it."""

    layers: dict[int, State] = field(default_factory=dict)
    version: Version | None = None
    pending: Version | None = None
    digest: int = 0  # of the pending step
    in_flight: bool = False
    commits: deque[Commit] = field(default_factory=lambda: deque(maxlen=_COMMITS_KEPT))

    def settle(self, version: Version, roll_forward: Commit | None) -> bool:
        """Whether a step was rolled forward."""
        rolled = roll_forward is not None and self.pending == version
        if roll_forward is not None and rolled:
            if roll_forward.loss != loss_of(self.digest) or roll_forward.step != version.step:
                raise ViolationError(f"a pending step is rolled forward with another step's commit: {roll_forward}")
            self.commit(roll_forward, version)
        self.pending = None
        self.in_flight = False
        if self.version != version:
            self.layers.clear()
            self.commits.clear()
        self.version = version
        return rolled

    def commit(self, commit: Commit, version: Version) -> None:
        self.layers = {layer: applied(state, layer, self.digest) for layer, state in self.layers.items()}
        self.version = version
        self.pending = None
        self.in_flight = False
        self.commits.append(commit)


def show(version: Version | None) -> str:
    return "nothing" if version is None else f"{version.step}@{version.generation}"
