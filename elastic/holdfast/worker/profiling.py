"""The processes that `holdfast profile` starts: python -m holdfast.worker.profiling FOLDER RANK.

FOLDER holds order.json. Rank 0 measures alone while the others wait, then all compute at once, then two of them send.
It leaves profile.json there; a rank that fails leaves error.json.
"""

import json
import os
import sys
import time
import traceback
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from statistics import median, quantiles

import torch
import torch.distributed as dist

from holdfast.errors import UserCodeError
from holdfast.model.facts import ProgramFacts
from holdfast.model.ids import WorkerId
from holdfast.planner.profile import LayerProfile, Link, Profile
from holdfast.planner.profile_json import profile_to_json
from holdfast.program import Program, load_program, with_batch
from holdfast.spec import JobSpec
from holdfast.worker.device import choose_device
from holdfast.worker.facts import inspect
from holdfast.worker.final import FinalWriter
from holdfast.worker.forking import die_with_parent
from holdfast.worker.measuring import Effort, LayerTrial, load_seconds, measure_layers, pass_through, repeat, trials
from holdfast.worker.measuring_step import SLOT, Beside, measure_beside
from holdfast.worker.process_groups import Backend, ProcessGroup, make_backend
from holdfast.worker.pulse import Pulse
from holdfast.worker.state import Setting

_HOST = "127.0.0.1"
_TIMEOUT = timedelta(minutes=30)
_PING_BYTES, _MESSAGE_BYTES = 8, 8 << 20
_PINGS, _MESSAGES = 60, 12
_CROWD_REPEATS, _CROWD_S = 9, 0.5
_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """order.json. `processes`: at least two, since two of them send."""

    spec: dict[str, object]
    base: str
    fingerprint: str
    processes: int
    effort: Effort = field(default_factory=Effort)

    @classmethod
    def read(cls, folder: Path) -> "Order":
        return cls(**json.loads((folder / "order.json").read_text()))


class Measurement:
    """What one of the processes does; all go through the same phases, and wait for each other between them."""

    def __init__(self, order: Order, folder: Path, rank: int) -> None:
        self._order, self._folder, self._rank = order, folder, rank
        self._spec = JobSpec.model_validate(order.spec)
        entry, params = self._spec.program.entry, dict(self._spec.program.params)
        program, batch = load_program(entry, params, Path(order.base)), self._spec.batch
        self._program: Program = with_batch(program, batch.size, batch.microbatch)
        self._facts: ProgramFacts = inspect(self._program)
        self._device = choose_device(self._spec.device, rank, repeatable=self._spec.reduction == "canonical")
        # NCCL joins no two processes on one device; what it cannot send goes through the CPU.
        sends_on_device = self._device.type == "cuda" and torch.cuda.device_count() >= order.processes
        self._message_device = self._device if sends_on_device else torch.device("cpu")
        self._backend: Backend = make_backend(self._message_device, _HOST)
        store = dist.FileStore(str(folder / "rendezvous"), order.processes)
        self._group: ProcessGroup = self._backend.create(store, rank, order.processes, _TIMEOUT)

    def run(self) -> None:
        """Raises: UserCodeError: the user's code raised."""
        layers: tuple[LayerProfile, ...] = ()
        load_s, beside = 0.0, Beside()
        if self._rank == 0:
            layers = tuple(measure_layers(self._program, self._spec, self._facts, self._device, self._order.effort))
            load_s = load_seconds(self._program, self._order.effort)
            beside = self._beside(layers, load_s)
        self._meet()
        crowded_speed = self._crowded_speed()
        link = self._link()
        if self._rank == 0:
            profile = Profile(
                fingerprint=self._order.fingerprint,
                layers=layers,
                between_nodes=link,
                within_node=link,
                fixed_s=beside.fixed_s,
                load_s=load_s,
                stage_s=beside.stage_s,
                crowded_speed=crowded_speed,
            )
            (self._folder / "profile.json").write_text(profile_to_json(profile))

    def _beside(self, layers: tuple[LayerProfile, ...], load_s: float) -> Beside:
        setting = Setting(
            slot=SLOT,
            worker=WorkerId("profile"),
            program=self._program,
            facts=self._facts,
            spec=self._spec,
            device=self._device,
            host=_HOST,
            final=FinalWriter("", "", 0.0),  # nothing ends
            pulse=Pulse(None),
        )
        return measure_beside(setting, layers, load_s, _STEPS)

    def _crowded_speed(self) -> float:
        """Of one process while as many as there are cores compute, beside one that is alone. On GPUs nobody shares."""
        if self._device.type != "cpu":
            return 1.0
        trial = self._costliest()
        alone = self._once(trial) if self._rank == 0 else 0.0
        self._meet()
        together = self._once(trial)
        self._meet()
        return min(1.0, alone / together) if self._rank == 0 else 1.0

    def _costliest(self) -> LayerTrial:
        costs = [layer.cost for layer in self._facts.layers]
        return next(islice(trials(self._program, self._spec, self._facts, self._device), costs.index(max(costs)), None))

    def _once(self, trial: LayerTrial) -> float:
        effort = replace(self._order.effort, repeats=_CROWD_REPEATS, seconds=_CROWD_S)
        seen: list[float] = []
        repeat(effort, lambda: seen.append(sum(pass_through([trial], self._device)[0])))
        return median(seen[effort.warm_up :])

    def _link(self) -> Link:
        """Between the first two processes, a message at a time; the others wait."""
        latency_s = message_s = 0.0
        if self._rank < 2:
            pings = [self._round_trip(_PING_BYTES) for _ in range(_PINGS)]
            messages = [self._round_trip(_MESSAGE_BYTES) for _ in range(_MESSAGES)]
            latency_s, message_s = _undisturbed(pings) / 2, _undisturbed(messages) / 2
        self._meet()
        if self._rank > 0:
            return Link(bytes_per_s=1.0)
        return Link(bytes_per_s=_MESSAGE_BYTES / max(message_s - latency_s, 1e-9), latency_s=latency_s)

    def _round_trip(self, size: int) -> float:
        """There and back, of so many bytes."""
        message = torch.zeros(size, dtype=torch.uint8, device=self._message_device)
        peer = 1 - self._rank
        begun = time.perf_counter()
        for sender in (0, 1):
            if sender == self._rank:
                self._backend.exchange(self._group, [(peer, message)], [])
            else:
                self._backend.exchange(self._group, [], [(peer, message)])
        return time.perf_counter() - begun

    def _meet(self) -> None:
        self._backend.all_reduce(self._group, [torch.zeros(1, device=self._message_device)])


def _undisturbed(seconds: list[float]) -> float:
    """The lower quartile: two processes that wait for each other suffer twice from other work on the machine."""
    return quantiles(seconds, n=4)[0]


def main() -> None:
    """Entry point; the exit code says whether it came to its end."""
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    die_with_parent()
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    try:
        Measurement(Order.read(folder), folder, rank).run()
    except Exception as error:  # the user's code may raise anything, and all of it is reported alike
        report = {"traceback": "".join(traceback.format_exception(error)), "is_users": isinstance(error, UserCodeError)}
        (folder / f"error-{rank}.json").write_text(json.dumps(report))
        sys.exit(1)


if __name__ == "__main__":
    main()
