"""A generation in one worker: an abort waits for its own work and leaves behind only what waits for others; what comes
after it touches nothing that is held. And the worker is seen to live while it works."""

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.realrun.jobs import TOY
from holdfast.errors import AbortedError, CommunicationError
from holdfast.model.heartbeat import Phase
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.messages import Finished, FromWorker, Start, Stop, WorkerOrder
from holdfast.model.plan import Pipeline, Plan, Span, Stage
from holdfast.model.records import (
    Action,
    Cause,
    GenerationRecord,
    JobRecord,
    StartRecord,
    StopMode,
    Transfer,
    Version,
    WorkerRef,
)
from holdfast.program import Program, SampleSource, load_program
from holdfast.spec import JobSpec
from holdfast.worker.comm import WORLD, Comm, GroupSpec
from holdfast.worker.facts import inspect
from holdfast.worker.final import FinalWriter
from holdfast.worker.generation import GenerationRun
from holdfast.worker.layers import blank_layer, initial_layer
from holdfast.worker.main import Worker
from holdfast.worker.process_groups import GlooBackend, Message, ProcessGroup
from holdfast.worker.pulse import Pulse
from holdfast.worker.reduce import Reducer
from holdfast.worker.restoring import Restores
from holdfast.worker.snapshots import Snapshots
from holdfast.worker.state import Holdings, Setting
from holdfast.worker.supervised import Supervised
from holdfast.worker.transfer import TRANSFER, move_layers
from holdfast_checkpoint.snapshot import Snapshotter

PROGRAM = load_program(f"{TOY}:program", {}, TOY.parent)
CPU = torch.device("cpu")
SOURCE, TARGET = SlotId(NodeId("a"), 0), SlotId(NodeId("b"), 0)
TRANSFERS = (Transfer(layer=1, source=SOURCE, target=TARGET),)


@pytest.fixture
def store() -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))


def comm_of(store: dist.TCPStore, pulse: Pulse) -> Comm:
    return Comm(GlooBackend("127.0.0.1"), "127.0.0.1", store.port, 1, b"key", pulse)


def setting_of(program: Program, pulse: Pulse, slot: SlotId, out: str = "") -> Setting:
    return Setting(
        slot=slot,
        worker=WorkerId("worker"),
        program=program,
        facts=inspect(PROGRAM),
        spec=JobSpec.model_validate(
            {"name": "toy", "program": {"entry": f"{TOY}:program"}, "steps": 1, "snapshots": {"every": 0}}
        ),
        device=CPU,
        host="127.0.0.1",
        final=FinalWriter(out, "", 1.0),
        pulse=pulse,
    )


def start_of(store: dist.TCPStore, **fields: Any) -> Start:
    record: dict[str, Any] = {
        "generation": 1,
        "action": Action.HOLD,
        "version": Version(0, 0),
        "plan": None,
        "transfers": TRANSFERS,
        "roll_forward": None,
        "redone_steps": 0,
        "initialise": False,
    }
    member = WorkerRef(slot=SOURCE, worker=WorkerId("worker"), address=f"127.0.0.1:{store.port}", pid=1)
    generation = GenerationRecord(
        number=1, members=(member,), leavers=(), stop=StopMode.ABORT, cause=Cause.START, reason="a test"
    )
    return Start(generation=generation, start=StartRecord(**(record | fields)))


def run_of(
    setting: Setting, holdings: Holdings, message: Start, comm: Comm, send: Callable[[FromWorker], None]
) -> GenerationRun:
    """Nobody wants it to stop."""
    snapshots = Snapshots(setting.spec, send, counts_cpu=True, snapshotter=Snapshotter())
    return GenerationRun(setting, holdings, message, comm, send, lambda: False, snapshots, Restores())


def alone() -> Plan:
    return Plan((Pipeline((Stage(SOURCE, Span(0, len(PROGRAM.layers))),), Span(0, PROGRAM.microbatches)),))


def test_an_abort_waits_for_layers_that_are_being_built_and_none_of_them_is_held(store: dist.TCPStore) -> None:
    """Their state has arrived, so nothing of it is communication any more."""
    building, go = threading.Event(), threading.Event()

    def build() -> nn.Module:
        building.set()
        assert go.wait(20)
        return PROGRAM.layers[1].build()

    layers = list(PROGRAM.layers)
    layers[1] = replace(layers[1], build=build)
    pulse, holdings, sent, ended = Pulse(None), Holdings(), list[FromWorker](), list[str]()
    setting = setting_of(replace(PROGRAM, layers=tuple(layers)), pulse, TARGET)
    comm = comm_of(store, pulse)
    generation = run_of(setting, holdings, start_of(store), comm, sent.append)

    def work() -> None:
        try:
            generation.run()
        except CommunicationError as error:
            ended.append(type(error).__name__)

    run = Supervised(work, comm, pulse)

    def send() -> None:
        peer = comm_of(store, Pulse(None))
        peer.form([GroupSpec(name=TRANSFER, rank=0, size=2)])
        held = {1: initial_layer(PROGRAM, 1, CPU)}
        move_layers(peer, SOURCE, TRANSFERS, held, lambda layer: blank_layer(PROGRAM, layer, CPU), CPU)

    def abort() -> None:
        assert building.wait(20)
        comm.abort()
        run.aborted()
        threading.Timer(0.5, go.set).start()  # longer than a thread that waits for others is waited for

    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(send), pool.submit(abort)]
        run.run()
        at_the_end = list(ended)  # of the run, when what is held is told and may change again
        for other in others:
            other.result(20)
    assert at_the_end == ["AbortedError"]
    assert not run.left_behind
    assert not holdings.layers
    assert not sent


def test_after_an_abort_a_comm_does_nothing_and_shows_no_life(store: dist.TCPStore) -> None:
    pulse = Pulse(None)
    comm = comm_of(store, pulse)
    comm.form([GroupSpec(name=WORLD, rank=0, size=1)])
    assert pulse.last.phase is Phase.COMPUTE, "what follows communication is the rank's own work"
    comm.abort()
    before = pulse.last
    acts: Sequence[Callable[[], None]] = (
        lambda: comm.enter(Phase.COMPUTE),
        lambda: comm.all_reduce(WORLD, torch.ones(1)),
        lambda: comm.exchange(WORLD, [], []),
        lambda: comm.register_default(WORLD),
    )
    for act in acts:
        with pytest.raises(AbortedError):
            act()
    comm.close()
    for act in acts:
        with pytest.raises(AbortedError):
            act()
    assert pulse.last == before


def test_after_an_abort_no_gradient_is_touched(store: dist.TCPStore) -> None:
    """They may belong to the next generation's step already."""
    comm = comm_of(store, Pulse(None))
    comm.form([GroupSpec(name=WORLD, rank=0, size=1)])
    layers = [initial_layer(PROGRAM, layer, CPU) for layer in range(len(PROGRAM.layers))]
    parameters = [parameter for layer in layers for parameter in layer.trained.values()]
    reducer = Reducer(comm, PROGRAM, alone(), 0, layers, canonical=True)
    reducer.begin()
    for block in range(PROGRAM.microbatches):
        sum(parameter.sum() for parameter in parameters).backward()  # type: ignore[union-attr]  # never the int 0
        reducer.microbatch_done(block)
    comm.abort()
    nexts = [torch.ones_like(parameter) for parameter in parameters]
    for parameter, gradient in zip(parameters, nexts, strict=True):
        parameter.grad = gradient
    with pytest.raises(AbortedError):
        reducer.microbatch_done(PROGRAM.microbatches - 1)
    with pytest.raises(AbortedError):
        reducer.reduce()
    assert all(parameter.grad is gradient for parameter, gradient in zip(parameters, nexts, strict=True))
    assert all(torch.equal(gradient, torch.ones_like(gradient)) for gradient in nexts)
    comm.close()


class Stuck:
    """A backend that an abort does not end, and that raises when it comes back at last."""

    takes_strangers = False

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.entered, self.go = threading.Event(), threading.Event()

    def create(self, store: dist.Store, rank: int, size: int, timeout: timedelta) -> ProcessGroup:
        self.entered.set()
        assert self.go.wait(20)
        raise self.error

    def exchange(self, group: ProcessGroup, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        raise AssertionError("no group was formed")

    def all_reduce(self, group: ProcessGroup, tensors: Sequence[Tensor]) -> None:
        raise AssertionError("no group was formed")

    def abort(self, groups: Sequence[ProcessGroup], sockets: frozenset[int]) -> None:
        return


@pytest.fixture
def worker() -> Iterator[tuple[Worker, socket.socket]]:
    """A worker whose messages are not read, and the agent's end of its socket."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        path = str(Path(folder) / "agent.sock")
        listener.bind(path)
        listener.listen(1)
        job = JobRecord(spec={}, base="", out="", layer_names=(), layer_bytes=(), microbatches=8, steps=1)
        order = WorkerOrder(slot=SOURCE, host="127.0.0.1", socket_path=path, pulse_path="", key="00", job=job)
        made = Worker(order)
        connection, _ = listener.accept()
        with connection, made._channel._connection:
            yield made, connection


@pytest.mark.parametrize("error", [RuntimeError("a connection broke"), KeyError("no group"), SystemError("anything")])
def test_what_a_thread_that_was_left_behind_raises_is_told_to_nobody(
    store: dist.TCPStore, worker: tuple[Worker, socket.socket], error: Exception
) -> None:
    made, agent = worker
    backend, pulse = Stuck(error), Pulse(None)
    spec = setting_of(PROGRAM, pulse, SOURCE).spec
    made._snapshots = Snapshots(spec, made._channel.send, counts_cpu=True, snapshotter=Snapshotter())
    threads = set(threading.enumerate())
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(made._run, setting_of(PROGRAM, pulse, SOURCE), backend, start_of(store))
        assert backend.entered.wait(20)
        left = [t for t in threading.enumerate() if t.name == "generation" and t not in threads]
        made._on_urgent(Stop(generation=2, abort=True))
        assert running.result(20), "the worker goes on"
    pulse.beat(Phase.IDLE)
    assert len(left) == 1
    assert left[0].is_alive()
    backend.go.set()
    left[0].join(20)
    assert not left[0].is_alive()
    assert pulse.last.phase is Phase.IDLE, "it does not speak for the worker any more"
    agent.setblocking(False)
    with suppress(BlockingIOError):
        assert agent.recv(1) == b"", "it said something"


class Counted:
    """Samples of another dataset; notes at which heartbeat each was read."""

    def __init__(self, samples: SampleSource, pulse: Pulse) -> None:
        self._samples, self._pulse = samples, pulse
        self.read_at: list[tuple[int, Phase]] = []

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        self.read_at.append((self._pulse.last.count, self._pulse.last.phase))
        return self._samples[index]


def test_a_worker_is_seen_to_live_while_it_reads_samples_and_writes_the_final_weights(
    store: dist.TCPStore, tmp_path: Path
) -> None:
    pulse, sent = Pulse(None), list[tuple[FromWorker, int, Phase]]()
    dataset = Counted(PROGRAM.dataset, pulse)
    setting = setting_of(replace(PROGRAM, dataset=dataset), pulse, SOURCE, str(tmp_path))
    message = start_of(store, action=Action.TRAIN, plan=alone(), transfers=(), initialise=True)
    comm = comm_of(store, pulse)

    def send(message: FromWorker) -> None:
        sent.append((message, pulse.last.count, pulse.last.phase))

    try:
        run_of(setting, Holdings(), message, comm, send).run()
    finally:
        comm.close()
    assert len(dataset.read_at) == PROGRAM.global_batch
    assert len(set(dataset.read_at)) == PROGRAM.microbatches, "a heartbeat each microbatch"
    assert {phase for _, phase in dataset.read_at} == {Phase.COMPUTE}
    (_, committed_at, _), (finished, finished_at, _) = sent[-2:]
    assert isinstance(finished, Finished)
    assert finished_at - committed_at >= len(PROGRAM.layers), "a heartbeat each layer"
    assert {phase for _, _, phase in sent} == {Phase.COMPUTE}
