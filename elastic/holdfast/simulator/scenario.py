"""A scenario: a job, its nodes and what happens to them. Runs to the end under one chooser, checkers watching."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from holdfast.control.job import Job
from holdfast.model.records import OutcomeRecord, Result
from holdfast.planner.estimating import uniform_profile
from holdfast.simulator.buffers import Storing
from holdfast.simulator.choosing import Chooser, Seeded
from holdfast.simulator.faults import Fault
from holdfast.simulator.network import Weather
from holdfast.simulator.patience import at_rest, is_stuck
from holdfast.simulator.wires import ViolationError
from holdfast.simulator.world import Dials, World

_REPLACEMENTS_MAX = 8
_ACTIONS_MAX = 30_000
_LINES_TOLD = 400
_FAILED = frozenset({Result.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    nodes: str = "ab"  # a letter each
    slots: int = 1
    layers: int = 4
    steps: int = 3
    adaptive: bool = False  # its layout changes for slow slots, too, and newcomers may have to wait
    blocks: int = 4
    depth: int | None = None
    memory: int | None = None  # bytes a slot; a layer has 100
    nodes_min: int = 1
    nodes_max: int | None = None
    desired: int | None = None  # all that are there at first, if None
    deaths_per_step: int = 3
    orphan_s: float = 60.0
    node_losses: int = 5
    storing: Storing = field(default_factory=Storing)
    copies: int = 1  # in RAM, beside the first
    dials: Dials = field(default_factory=Dials)
    weather: Weather = field(default_factory=Weather)
    faults: tuple[Fault, ...] = ()
    fails: bool = False  # rightly, and not for want of a copy

    def but(self, *faults: Fault) -> "Scenario":
        """The same with more faults."""
        return replace(self, faults=(*self.faults, *faults))

    @property
    def ends(self) -> frozenset[Result]:
        """How it may end."""
        stops = any(fault.sentence.startswith("stop") for fault in self.faults)
        return frozenset({Result.COMPLETED} | ({Result.STOPPED} if stops else set())) if not self.fails else _FAILED

    @property
    def job(self) -> Job:
        names = tuple(f"layer-{layer}" for layer in range(self.layers))
        return Job(
            steps=self.steps,
            nodes_min=self.nodes_min,
            nodes_max=self.nodes_max,
            nodes_desired=self.desired or len(self.nodes),
            layer_names=names,
            layer_bytes=(100,) * self.layers,
            blocks=self.blocks,
            block_size=1,
            depth=self.depth,
            memory_per_slot_bytes=self.memory,
            profile=uniform_profile(names, (100,) * self.layers),
            start_s=60.0,
            join_settle_s=0.2,
            pace_settle_s=0.005,
            is_adaptive=self.adaptive,
            start_settle_s=5.0,
            abort_s=5.0,
            probe_s=0.5,
            worker_deaths_per_step=self.deaths_per_step,
            orphan_s=self.orphan_s,
            node_losses=self.node_losses,
            has_snapshots=self.storing.has_snapshots,
            has_checkpoints=self.storing.checkpoints > 0,
            copies=self.copies,
        )

    def __str__(self) -> str:
        faults = "; ".join(fault.sentence for fault in self.faults) or "nothing happens"
        outside = f", {self.weather}" if self.weather != Weather() else ""
        stored = f", {self.storing}" if self.storing.is_on else ""
        return f"nodes {self.nodes} x {self.slots} slots, {self.steps} steps{stored}{outside}: {faults}"


@dataclass(slots=True)
class Run:
    """A scenario on its way."""

    scenario: Scenario
    world: World
    waiting: list[Fault]
    replacements: int = 0

    def finish(self) -> OutcomeRecord:
        """To the end. Raises: ViolationError: a checker objects, or there is no end."""
        world = self.world
        while not world.is_over:
            self._strike()
            if not world.act():
                at_rest(world)
                if not self.waiting and is_stuck(world, self._lacks_nodes()):
                    raise ViolationError("nothing has gone on for too long, though nothing is wrong any more")
                if not world.skip() and not self._replace():
                    raise ViolationError("nothing can happen any more, and the job has not ended")
            if len(world.transcript) > _ACTIONS_MAX:
                raise ViolationError(f"the job has not ended after {_ACTIONS_MAX} actions")
        assert world.outcome is not None
        return world.outcome

    def _strike(self) -> None:
        for fault in [fault for fault in self.waiting if fault.due(self.world)]:
            self.waiting.remove(fault)
            self._now(fault.sentence, fault.strike)

    def _now(self, sentence: str, strike: Callable[[World], object]) -> None:
        self.world.disturb(sentence, lambda: strike(self.world))

    def _lacks_nodes(self) -> bool:
        """Too few are left to train on, and the job rightly waits."""
        world = self.world
        able = [agent for agent in world.agents.values() if agent.active and agent.member.drain is None]
        terms = [agent.term for agent in world.agents.values() if agent.term is not None and not agent.dead]
        holding = any(term.coordinator is not None and term.coordinator.view.is_holding for term in terms)
        return len(able) < self.scenario.nodes_min or (holding and self.scenario.memory is not None)

    def _replace(self) -> bool:
        """A fresh node, where that is what is missing."""
        if not self._lacks_nodes() or self.replacements >= _REPLACEMENTS_MAX:
            return False
        self.replacements += 1
        name = f"r{self.replacements}"
        self._now(f"{name} comes in", lambda world: world.add_agent(name, self.scenario.slots))
        return True


def begin(scenario: Scenario, chooser: Chooser, seed: int = 0) -> Run:
    """`seed`: of the weather."""
    world = World(scenario.job, chooser, scenario.dials, scenario.weather, seed, scenario.storing)
    for node in scenario.nodes:
        world.add_agent(node, scenario.slots)
    return Run(scenario, world, list(scenario.faults))


def play(scenario: Scenario, seed: int = 0, chooser: Chooser | None = None) -> World:
    """To the end, in the order that `seed` draws, unless a `chooser` is given.

    Raises:
        ViolationError: with seed, scenario and the end of the transcript; also for an end that is neither completed,
            nor what the scenario expects, nor failed for want of a copy (the checkers see that this is true).
    """
    run = begin(scenario, chooser or Seeded(seed), seed)
    try:
        outcome = run.finish()
        wanted = outcome.result in scenario.ends or "last copy" in outcome.reason
        if not wanted:
            raise ViolationError(f"ended with {outcome}")
    except Exception as error:  # whatever it is, the transcript is what explains it
        story = "\n".join(run.world.tell().splitlines()[-_LINES_TOLD:])
        raise ViolationError(f"seed {seed}, {scenario}\n{story}\n{type(error).__name__}: {error}") from error
    return run.world
