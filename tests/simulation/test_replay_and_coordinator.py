"""The fast replay and the real coordinator on a virtual clock: the same generations and layouts on the same trace."""

import pytest

from holdfast.control.job import Job
from holdfast.model.ids import NodeId
from holdfast.model.records import StartRecord
from holdfast.planner.estimating import uniform_profile
from holdfast.planner.foresight import Job as PlannedJob
from holdfast.planner.profile import LayerProfile, Link, Profile
from holdfast.simulator.fleet import Fleet
from holdfast.simulator.replay.baselines import Ideal
from holdfast.simulator.replay.generating import Pattern, generate
from holdfast.simulator.replay.planned import Planned
from holdfast.simulator.replay.replaying import replay
from holdfast.simulator.replay.trace import Trace
from holdfast.simulator.replay.yields import Layout

LAYERS, BLOCKS = 12, 32


class Recording(Fleet):
    """A fleet that follows a trace, and keeps the layout of each start."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, 1)
        self.layouts: list[str] = []

    def _start(self, start: StartRecord) -> None:
        assert start.plan is not None
        self.layouts.append(start.plan.describe())
        super()._start(start)

    def follow(self, trace: Trace) -> None:
        for change in trace.changes:
            for node in change.left:
                self.kill(NodeId(f"node-{int(node.removeprefix('node-')):05d}"))
            self.appear(int(node.removeprefix("node-")) for node in change.joined)
            self.measure()


def job(nodes: int) -> Job:
    names = tuple(f"layer-{layer}" for layer in range(LAYERS))
    return Job(
        steps=1_000_000,
        nodes_min=1,
        nodes_max=None,
        nodes_desired=nodes,
        layer_names=names,
        layer_bytes=(1000,) * LAYERS,
        blocks=BLOCKS,
        block_size=1,
        depth=None,
        memory_per_slot_bytes=None,
        profile=uniform_profile(names, (1000,) * LAYERS),
        start_s=60.0,
        join_settle_s=0.2,
        start_settle_s=5.0,
        abort_s=5.0,
        probe_s=0.5,
        worker_deaths_per_step=3,
        node_losses=1000,
    )


class AtOnce(Planned):
    """All nodes are used after every change, as the coordinator does."""

    def best(self, nodes: int) -> Layout:
        return self.chosen(nodes)


def planned() -> Planned:
    """What the coordinator's relative costs are in a profile: no links, and gradients as its prior has them."""
    layers = tuple(
        LayerProfile(
            name=f"layer-{layer}",
            forward_s=1 / 3,
            backward_s=2 / 3,
            param_bytes=1000,
            state_bytes=1000,
            activation_bytes=0,
            output_bytes=0,
        )
        for layer in range(LAYERS)
    )
    # The prior: all gradients once cost a tenth of a microbatch's forward and backward, halved.
    link = Link(bytes_per_s=LAYERS * 1000 / (0.1 * LAYERS / 2))
    profile = Profile(fingerprint="relative", layers=layers, between_nodes=link, within_node=link)
    return AtOnce(PlannedJob(slots=(), blocks=BLOCKS, block_size=1), profile, BLOCKS)


@pytest.mark.parametrize("seed", range(6))
def test_the_coordinator_forms_the_generations_that_the_replay_foretells(seed: int) -> None:
    # One change at a time, and none that only swaps nodes: a loss and a join of one moment are two generations.
    pattern = Pattern(nodes=9, hours=3, loss_per_h=1.0, bursts_per_h=0.0, return_s=400.0, grid_s=0.001)
    trace = generate(pattern, seed)
    fleet = Recording(job(pattern.nodes))
    fleet.follow(trace)
    layouts = planned()
    foretold = replay(trace, Ideal(layouts), layouts)

    assert len(fleet.layouts) == foretold.generations == len(trace.changes) > 10
    assert fleet.layouts == [happening.layout for happening in foretold.happenings]
