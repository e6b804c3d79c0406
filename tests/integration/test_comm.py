"""Real gloo groups: they carry messages, and what blocks in them ends at once when it is told to."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from harness.realrun.jobs import TOY
from holdfast.errors import AbortedError, CommunicationError
from holdfast.model.heartbeat import Phase
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.model.records import Transfer
from holdfast.program import load_program
from holdfast.worker.comm import WORLD, Comm, GroupSpec
from holdfast.worker.layers import HeldLayer, blank_layer, initial_layer
from holdfast.worker.process_groups import GlooBackend
from holdfast.worker.pulse import Pulse
from holdfast.worker.reduce import Reducer
from holdfast.worker.supervised import Supervised
from holdfast.worker.transfer import TRANSFER, move_layers, transfer_ranks

PROGRAM = load_program(f"{TOY}:program", {}, TOY.parent)
CPU = torch.device("cpu")


@pytest.fixture
def store() -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))


def together(store: dist.TCPStore, size: int, group: str, act: Callable[[Comm, int], Any]) -> list[Any]:
    """`act(comm, rank)` on `size` threads that share a group."""

    def one(rank: int) -> Any:
        comm = Comm(GlooBackend("127.0.0.1"), "127.0.0.1", store.port, 1, b"key", Pulse(None))
        comm.form([GroupSpec(name=group, rank=rank, size=size)])
        return act(comm, rank)

    with ThreadPoolExecutor(size) as pool:
        return [future.result(timeout=30) for future in [pool.submit(one, rank) for rank in range(size)]]


def test_messages_arrive_in_order_between_any_two_ranks(store: dist.TCPStore) -> None:
    def act(comm: Comm, rank: int) -> list[float]:
        peers = [peer for peer in range(3) if peer != rank]
        sends = [(peer, torch.full((1000 + i,), 10.0 * rank + i)) for peer in peers for i in range(3)]
        receives = [(peer, torch.empty(1000 + i)) for peer in peers for i in range(3)]
        comm.exchange(WORLD, sends, receives)
        return [float(tensor[-1]) for _, tensor in receives]

    results = together(store, 3, WORLD, act)
    assert results[0] == [10, 11, 12, 20, 21, 22]
    assert results[2] == [0, 1, 2, 10, 11, 12]


def plan_of(*pipelines: tuple[int, list[int]]) -> Plan:
    """Pipelines as (blocks, stage cuts); each stage on a node of its own."""
    made, block, node = [], 0, 0
    for blocks, cuts in pipelines:
        stages = []
        for start, stop in zip([0, *cuts], [*cuts, len(PROGRAM.layers)], strict=True):
            stages.append(Stage(SlotId(NodeId(f"n{node}"), 0), Span(start, stop)))
            node += 1
        made.append(Pipeline(tuple(stages), Span(block, block + blocks)))
        block += blocks
    return Plan(tuple(made))


def reduced(store: dist.TCPStore, plan: Plan) -> dict[str, torch.Tensor]:
    """Canonical sums of made-up block gradients under `plan`, as every holder has them."""

    def act(comm: Comm, rank: int) -> dict[str, torch.Tensor]:
        stage = plan.stages[rank]
        layers = [initial_layer(PROGRAM, layer, CPU) for layer in stage.layers]
        reducer = Reducer(comm, PROGRAM, plan, rank, layers, canonical=True)
        reducer.begin()
        for block in plan.pipelines[plan.locate(rank)[0]].blocks:
            for layer in layers:
                for name, parameter in layer.trained.items():
                    generator = torch.Generator().manual_seed(1000 * block + hash((layer.name, name)) % 997)
                    (parameter * torch.randn(parameter.shape, generator=generator)).sum().backward()
            reducer.microbatch_done(block)
        reducer.reduce()
        return {
            f"{layer.name}.{n}": p.grad.clone()
            for layer in layers
            for n, p in layer.trained.items()
            if p.grad is not None
        }

    merged: dict[str, torch.Tensor] = {}
    for result in together(store, len(plan.slots), WORLD, act):
        for name, gradient in result.items():
            assert torch.equal(merged.setdefault(name, gradient), gradient), f"holders of {name} disagree"
    return merged


@pytest.mark.parametrize(
    "pipelines",
    [
        pytest.param(((4, []), (4, [])), id="2x1"),
        pytest.param(((5, []), (3, [2])), id="1x1+1x2, shares that are no subtrees"),
        pytest.param(((3, [2, 4]), (3, [3]), (2, [1])), id="1x3+2x2, cuts that differ"),
    ],
)
def test_the_canonical_sum_has_the_same_bits_in_every_layout(
    store: dist.TCPStore, pipelines: tuple[tuple[int, list[int]], ...]
) -> None:
    alone = reduced(store, plan_of((8, [])))
    other = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    layout = reduced(other, plan_of(*pipelines))
    assert alone.keys() == layout.keys()
    assert all(torch.equal(alone[name], layout[name]) for name in alone)


def test_a_layer_moves_with_its_optimizer_state(store: dist.TCPStore) -> None:
    source, target = SlotId(NodeId("a"), 0), SlotId(NodeId("b"), 0)
    trained = initial_layer(PROGRAM, 1, CPU)
    for parameter in trained.trained.values():
        parameter.grad = torch.ones_like(parameter)
    trained.apply(1.0)
    transfers = [Transfer(layer=1, source=source, target=target)]

    def act(comm: Comm, rank: int) -> dict[int, HeldLayer]:
        me = transfer_ranks(transfers)[rank]
        held = {1: trained} if me == source else {}
        return move_layers(comm, me, transfers, held, lambda layer: blank_layer(PROGRAM, layer, CPU), CPU).layers

    arrived = together(store, 2, TRANSFER, act)[1][1]
    assert arrived.tensors().keys() == trained.tensors().keys()
    assert any(name.startswith("optim.exp_avg.") for name in arrived.tensors())
    assert all(torch.equal(tensor, arrived.tensors()[name]) for name, tensor in trained.tensors().items())


def test_an_abort_ends_a_blocked_exchange(store: dist.TCPStore) -> None:
    over = threading.Event()

    def act(comm: Comm, rank: int) -> bool:
        if rank == 1:
            return over.wait(20)  # alive, and sends nothing

        # Fires when the exchange below blocks; a busy machine that fires it earlier only makes the test easier.
        threading.Timer(0.2, comm.abort).start()
        with pytest.raises(AbortedError):
            comm.exchange(WORLD, [], [(1, torch.empty(10))])
        over.set()
        return True

    assert all(together(store, 2, WORLD, act)), "while the other was still there"


def test_an_abort_ends_a_generation_that_is_forming(store: dist.TCPStore) -> None:
    comm = Comm(GlooBackend("127.0.0.1"), "127.0.0.1", store.port, 1, b"key", Pulse(None))
    pulse = Pulse(None)

    def form() -> None:
        pulse.beat(Phase.COMMUNICATE)
        with suppress(CommunicationError):
            comm.form([GroupSpec(name=WORLD, rank=0, size=2)])  # rank 1 never comes

    run = Supervised(form, comm, pulse)

    def abort() -> None:
        comm.abort()
        run.aborted()

    threading.Timer(0.2, abort).start()
    begun = time.monotonic()
    run.run()
    assert time.monotonic() - begun < 20, "before the store gives up waiting"


def test_an_abort_waits_for_compute_which_changes_what_is_held(store: dist.TCPStore) -> None:
    comm = Comm(GlooBackend("127.0.0.1"), "127.0.0.1", store.port, 1, b"key", Pulse(None))
    pulse = Pulse(None)
    done: list[str] = []

    def compute() -> None:
        pulse.beat(Phase.COMPUTE)
        time.sleep(0.5)  # stands for an optimizer step
        done.append("applied")

    run = Supervised(compute, comm, pulse)
    comm.abort()
    run.aborted()
    run.run()
    assert done == ["applied"]
