"""Layers on the move: what lies on a GPU arrives on a GPU, and what lies on the CPU beside it on the CPU."""

import queue
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from harness.realrun.jobs import TOY
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.records import Transfer
from holdfast.program import load_program
from holdfast.worker.comm import Comm, GroupSpec
from holdfast.worker.layers import HeldLayer, blank_layer, initial_layer
from holdfast.worker.process_groups import Message, ProcessGroup
from holdfast.worker.pulse import Pulse
from holdfast.worker.transfer import TRANSFER, move_layers

PROGRAM = load_program(f"{TOY}:program", {}, TOY.parent)
SOURCE, TARGET = SlotId(NodeId("a"), 0), SlotId(NodeId("b"), 0)
TRANSFERS = [Transfer(layer=1, source=SOURCE, target=TARGET)]
DEVICES = [
    pytest.param(torch.device("cpu"), id="cpu"),
    pytest.param(
        torch.device("cuda", 0),
        id="cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
    ),
]


class OneDevice:
    """Between threads of this process. As NCCL does, it refuses what does not lie on its device."""

    takes_strangers = False

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._boxes: dict[tuple[int, int], queue.SimpleQueue[Tensor]] = defaultdict(queue.SimpleQueue)
        self.carried: list[torch.device] = []

    def create(self, store: dist.Store, rank: int, size: int, timeout: timedelta) -> ProcessGroup:
        return rank

    def exchange(self, group: ProcessGroup, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        for _, tensor in [*sends, *receives]:
            if tensor.device != self._device:
                raise ValueError(f"no backend for device {tensor.device}")
            self.carried.append(tensor.device)
        for peer, tensor in sends:
            self._boxes[group, peer].put(tensor.clone())
        for peer, tensor in receives:
            tensor.copy_(self._boxes[peer, group].get(timeout=20))

    def all_reduce(self, group: ProcessGroup, tensors: Sequence[Tensor]) -> None:
        raise AssertionError("layers move by messages")

    def abort(self, groups: Sequence[ProcessGroup], sockets: frozenset[int]) -> None:
        return


@pytest.fixture
def store() -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))


def trained_layer(device: torch.device) -> HeldLayer:
    layer = initial_layer(PROGRAM, 1, device)
    for parameter in layer.trained.values():
        parameter.grad = torch.ones_like(parameter)
    layer.apply(1.0)
    return layer


@pytest.mark.parametrize("device", DEVICES)
def test_every_tensor_arrives_on_the_kind_of_device_it_left(store: dist.TCPStore, device: torch.device) -> None:
    layer = trained_layer(device)
    steps = [name for name in layer.tensors() if name.startswith("optim.step.")]
    assert steps
    assert all(layer.tensors()[name].device.type == "cpu" for name in steps), "Adam counts on the CPU"
    backend = OneDevice(device)

    def act(rank: int) -> dict[int, HeldLayer]:
        comm = Comm(backend, "127.0.0.1", store.port, 1, b"key", Pulse(None))
        comm.form([GroupSpec(name=TRANSFER, rank=rank, size=2)])
        held = {} if rank else {1: layer}
        me = (SOURCE, TARGET)[rank]
        return move_layers(comm, me, TRANSFERS, held, lambda n: blank_layer(PROGRAM, n, device), device).layers

    with ThreadPoolExecutor(2) as pool:
        arrived = [done.result(30) for done in [pool.submit(act, rank) for rank in range(2)]][1][1]
    assert {name: t.device for name, t in arrived.tensors().items()} == {
        name: t.device for name, t in layer.tensors().items()
    }
    assert all(torch.equal(tensor, arrived.tensors()[name]) for name, tensor in layer.tensors().items())
    for each in (layer, arrived):
        for parameter in each.trained.values():
            parameter.grad = torch.ones_like(parameter)
        each.apply(1.0)
    assert all(torch.equal(tensor, arrived.tensors()[name]) for name, tensor in layer.tensors().items())


def test_what_lies_elsewhere_travels_by_way_of_the_backends_device(store: dist.TCPStore) -> None:
    """The sender's side, with torch's device without storage in place of a GPU: all that is sent lies there."""
    meta = torch.device("meta")
    backend = OneDevice(meta)
    comm = Comm(backend, "127.0.0.1", store.port, 1, b"key", Pulse(None))
    comm.form([GroupSpec(name=TRANSFER, rank=0, size=2)])
    layer = trained_layer(torch.device("cpu"))
    move_layers(comm, SOURCE, TRANSFERS, {1: layer}, lambda n: blank_layer(PROGRAM, n, meta), meta)
    assert len(backend.carried) == 2 + len(layer.tensors()), "two of the header, then each tensor"
