"""A scenario: a job, its nodes and what happens to them. Runs to the end under one chooser, checkers watching."""

from dataclasses import dataclass, field, replace

from holdfast.control.job import Job
from holdfast.model.records import OutcomeRecord, Result

from clockwork.choosing import Chooser, Seeded
from clockwork.faults import Fault
from clockwork.wires import ViolationError
from clockwork.world import Dials, World

_REPLACEMENTS_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    nodes: str = "ab"  # a letter each
    slots: int = 1
    layers: int = 4
    steps: int = 3
    blocks: int = 4
    depth: int | None = None
    nodes_min: int = 1
    nodes_max: int | None = None
    desired: int | None = None  # all that are there at first, if None
    deaths_per_step: int = 3
    dials: Dials = field(default_factory=Dials)
    faults: tuple[Fault, ...] = ()

    def but(self, *faults: Fault) -> "Scenario":
        """The same with more faults."""
        return replace(self, faults=(*self.faults, *faults))

    @property
    def job(self) -> Job:
        return Job(
            steps=self.steps,
            nodes_min=self.nodes_min,
            nodes_max=self.nodes_max,
            nodes_desired=self.desired or len(self.nodes),
            layer_names=tuple(f"layer-{layer}" for layer in range(self.layers)),
            layer_costs=(1.0,) * self.layers,
            layer_bytes=(100,) * self.layers,
            blocks=self.blocks,
            block_size=1,
            depth=self.depth,
            memory_per_slot_bytes=None,
            start_s=60.0,
            join_settle_s=0.2,
            start_settle_s=5.0,
            abort_s=5.0,
            probe_s=0.5,
            worker_deaths_per_step=self.deaths_per_step,
        )

    def __str__(self) -> str:
        faults = "; ".join(fault.sentence for fault in self.faults) or "nothing happens"
        return f"nodes {self.nodes} x {self.slots} slots, {self.steps} steps: {faults}"


@dataclass(slots=True)
class Run:
    """A scenario on its way."""

    scenario: Scenario
    world: World
    waiting: list[Fault]
    replacements: int = 0

    def finish(self) -> OutcomeRecord:
        """Raises: ViolationError, with scenario and transcript."""
        try:
            while not self.world.is_over:
                self._strike()
                if not self.world.step() and not self._replace():
                    raise ViolationError("nothing can happen any more, and the job has not ended")
                if len(self.world.transcript) > 30_000:
                    raise ViolationError("the job has not ended after 30000 actions")
        except Exception as error:
            story = self.world.tell().splitlines()[-400:]
            raise ViolationError("\n".join([str(error), str(self.scenario), *story, str(error)])) from error
        assert self.world.outcome is not None
        return self.world.outcome

    def _strike(self) -> None:
        for fault in [fault for fault in self.waiting if fault.due(self.world)]:
            self.waiting.remove(fault)
            self.world.transcript.append((self.world.now_s, "fault", fault.sentence))
            fault.strike(self.world)

    def _replace(self) -> bool:
        """A fresh node where too few are left to train on, and the job so rightly waits."""
        world = self.world
        able = [agent for agent in world.agents.values() if agent.active and agent.member.drain is None]
        if len(able) >= self.scenario.nodes_min or self.replacements >= _REPLACEMENTS_MAX:
            return False
        self.replacements += 1
        name = f"r{self.replacements}"
        world.transcript.append((world.now_s, "world", f"{name} comes in"))
        world.add_agent(name, self.scenario.slots)
        return True


def begin(scenario: Scenario, chooser: Chooser) -> Run:
    world = World(scenario.job, chooser, scenario.dials)
    for node in scenario.nodes:
        world.add_agent(node, scenario.slots)
    return Run(scenario, world, list(scenario.faults))


def play(scenario: Scenario, seed: int = 0) -> World:
    """To the end; it must be completed, stopped where that was asked for, or failed for want of a copy."""
    run = begin(scenario, Seeded(seed))
    outcome = run.finish()
    allowed = {Result.COMPLETED}
    if any(fault.sentence.startswith("stop") for fault in scenario.faults):
        allowed.add(Result.STOPPED)
    if outcome.result not in allowed and "last copy" not in outcome.reason:
        story = "\n".join(run.world.tell().splitlines()[-400:])
        raise ViolationError(f"seed {seed}, {scenario}\n{story}\nended with {outcome}")
    return run.world
