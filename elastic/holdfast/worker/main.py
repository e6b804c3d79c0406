"""The worker process: gets warm, then does what its agent says, one generation after another.

Three threads: this one waits for orders, a generation's own one trains, the channel's reader sets flags and aborts
communication. Only one of the first two touches holdings at a time, so what is held is always whole.
"""

import logging
import os
import socket
import threading
import traceback
import uuid
from collections.abc import Callable
from datetime import timedelta
from itertools import zip_longest
from pathlib import Path

import torch
import torch.distributed as dist

from holdfast.errors import CommunicationError, HoldfastError, ProgramError
from holdfast.model.facts import ProgramFacts
from holdfast.model.heartbeat import Phase
from holdfast.model.ids import WorkerId
from holdfast.model.messages import (
    Broken,
    Copied,
    Exit,
    Failed,
    Parked,
    Ready,
    Restored,
    Spoilt,
    Start,
    Stop,
    Uploaded,
    WorkerOrder,
)
from holdfast.model.records import JobRecord
from holdfast.program import load_program, with_batch
from holdfast.spec import JobSpec
from holdfast.worker.channel import Channel
from holdfast.worker.comm import Comm
from holdfast.worker.device import choose_device
from holdfast.worker.facts import inspect
from holdfast.worker.final import FinalWriter
from holdfast.worker.generation import GenerationRun
from holdfast.worker.process_groups import Backend, make_backend
from holdfast.worker.pulse import Pulse
from holdfast.worker.restoring import Restores
from holdfast.worker.snapshots import Snapshots
from holdfast.worker.state import Holdings, Setting
from holdfast.worker.supervised import Supervised
from holdfast_checkpoint.snapshot import Snapshotter

log = logging.getLogger(__name__)


class Worker:
    """Runs in the worker process; `serve` returns when the process should end."""

    def __init__(self, order: WorkerOrder) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(order.socket_path)
        self._order = order
        self._id = WorkerId(uuid.uuid4().hex[:12])
        self._lock = threading.Lock()  # over the fields below, shared with the reader
        self._comm: Comm | None = None
        self._supervised: Supervised | None = None
        self._newest_stop = 0
        self._channel = Channel(connection, self._on_urgent, self._on_stored)
        self._holdings = Holdings()
        self._restores = Restores()
        self._snapshots: Snapshots | None = None  # once warm

    def serve(self) -> None:
        self._channel.start()
        try:
            setting, store = self._warm_up()
        except Exception as error:  # user code runs here; the job ends with its traceback
            self._report_failure(error, step=0, where="start-up")
            return
        backend = make_backend(setting.device, setting.host)
        counts_cpu = setting.device.type == "cpu"
        snapshotter = Snapshotter(folder=Path(self._order.ram) if self._order.ram else None)
        self._snapshots = Snapshots(setting.spec, self._channel.send, counts_cpu=counts_cpu, snapshotter=snapshotter)
        address = f"{setting.host}:{store.port}"
        self._channel.send(Ready(slot=setting.slot, worker=self._id, pid=os.getpid(), address=address))
        while True:
            setting.pulse.beat(Phase.IDLE)
            message = self._channel.inbox.get()
            match message:
                case Exit():
                    return
                case Stop():
                    self._snapshots.settle(lambda: setting.pulse.beat(Phase.COMPUTE), with_copies=False)
                    inventory = self._holdings.inventory(setting.slot, self._id)
                    self._channel.send(Parked(generation=message.generation, inventory=inventory))
                case Start():
                    if not self._run(setting, backend, message):
                        return

    def _run(self, setting: Setting, backend: Backend, message: Start) -> bool:
        """One generation; False if the worker must not go on."""
        number = message.start.generation
        host, port = _store_address(message)
        comm = Comm(backend, host, port, number, bytes.fromhex(self._order.key), setting.pulse)
        failed, snapshots = False, self._snapshots
        assert snapshots is not None

        def work() -> None:
            nonlocal failed
            failed = not self._train(setting, message, comm, snapshots, lambda: run.left_behind)

        run = Supervised(work, comm, setting.pulse)
        with self._lock:
            if self._newest_stop > number:
                return True  # over before it began; the Stop is next in the inbox
            self._comm, self._supervised = comm, run
        try:
            run.run()
        finally:
            with self._lock:
                self._comm = self._supervised = None
        return self._wait_for_exit() if failed else True

    def _train(
        self,
        setting: Setting,
        message: Start,
        comm: Comm,
        snapshots: Snapshots,
        left_behind: Callable[[], bool],
    ) -> bool:
        """On the generation's thread; False if the job cannot go on."""
        if setting.device.type == "cuda":
            torch.cuda.set_device(setting.device)  # is each thread's own
        number = message.start.generation
        run = GenerationRun(
            setting,
            self._holdings,
            message,
            comm,
            self._channel.send,
            lambda: self._newest_stop > number,
            snapshots,
            self._restores,
        )
        try:
            run.run()
        except Exception as error:  # communication; or the user's code, or ours, when the job cannot go on
            if left_behind():  # the worker is at another generation: whatever this is comes of the abort
                log.info("generation.left_thread_ended", extra={"generation": number, "detail": repr(error)})
                return True
            if isinstance(error, CommunicationError):
                log.info("generation.broken", extra={"generation": number, "detail": str(error)})
                self._channel.send(Broken(generation=number, detail=f"{type(error).__name__}: {error}"))
                return True
            step = self._holdings.version.step if self._holdings.version else 0
            self._report_failure(error, step=step, where="training")
            return False
        return True

    def _wait_for_exit(self) -> bool:
        """After a failure: keep connections to the agent, answer nothing, until told to go."""
        while not isinstance(self._channel.inbox.get(), Exit):
            pass
        return False

    def _on_stored(self, message: Restored | Copied | Spoilt | Uploaded) -> None:
        """On the reader's thread."""
        if isinstance(message, Restored):
            self._restores.put(message)
        elif self._snapshots is not None:
            self._snapshots.heard(message)

    def _on_urgent(self, message: Stop | Exit) -> None:
        """On the reader's thread."""
        if isinstance(message, Exit):
            log.info("worker.exit", extra={"reason": message.reason})
            os._exit(0)
        with self._lock:
            self._newest_stop = max(self._newest_stop, message.generation)
            comm, run = self._comm, self._supervised
        if message.abort and comm is not None and run is not None:
            comm.abort()
            run.aborted()

    def _warm_up(self) -> tuple[Setting, dist.TCPStore]:
        order = self._order
        spec = JobSpec.model_validate(order.job.spec)
        device = choose_device(spec.device, order.slot.index, repeatable=spec.reduction == "canonical")
        program = load_program(spec.program.entry, dict(spec.program.params), Path(order.job.base))
        program = with_batch(program, spec.batch.size, spec.batch.microbatch)
        facts = inspect(program)
        check_same_program(order.job, facts)
        torch.zeros(1, device=device)  # a device that does not work shows it now, not in a generation
        store = serve_store(order.host, spec.timeouts.start_s)
        setting = Setting(
            slot=order.slot,
            worker=self._id,
            program=program,
            facts=facts,
            spec=spec,
            device=device,
            host=order.host,
            final=FinalWriter(order.job.out, order.job.id, spec.checkpoints.away_s),
            pulse=Pulse(Path(order.pulse_path)),
        )
        return setting, store

    def _report_failure(self, error: Exception, *, step: int, where: str) -> None:
        text = "".join(traceback.format_exception(error))
        log.error("worker.failed", extra={"step": step, "where": where, "traceback": text})
        where = str(error).splitlines()[0] if isinstance(error, HoldfastError) else where
        self._channel.send(Failed(step=step, where=where, traceback=text))


def serve_store(host: str, timeout_s: float) -> dist.TCPStore:
    """A c10d store on a free port of `host` alone; by itself, torch listens at every address of the machine."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.bind(address)
        listener.listen(socket.SOMAXCONN)
        port = listener.getsockname()[1]
        return dist.TCPStore(
            host,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=timeout_s),
            master_listen_fd=listener.fileno(),
        )
    finally:
        listener.detach()  # the store's from now on


def check_same_program(job: JobRecord, facts: ProgramFacts) -> None:
    """Raises: ProgramError: what was loaded here is not what the job was submitted with."""
    here = [(layer.name, layer.state_bytes) for layer in facts.layers]
    there = list(zip(job.layer_names, job.layer_bytes, strict=True))
    if here == there and facts.microbatches == job.microbatches:
        return
    differing = next((pair for pair in zip_longest(here, there) if pair[0] != pair[1]), None)
    if differing is not None:
        what = f"layer {differing[0]} where the job has {differing[1]} (name, bytes)"
    else:
        what = f"{facts.microbatches} microbatches where the job has {job.microbatches}"
    raise ProgramError(
        f"program.entry: the Program on this machine is not the one the job was submitted with: it has {what}; "
        "bring the code on all machines to the same version"
    )


def _store_address(message: Start) -> tuple[str, int]:
    """The c10d store of a generation is served by its first rank, or by the first sender where nobody trains."""
    plan, transfers = message.start.plan, message.start.transfers
    slot = plan.slots[0] if plan is not None else transfers[0].source if transfers else None
    address = next((m.address for m in message.generation.members if m.slot == slot), "none:0")
    host, _, port = address.rpartition(":")
    return host, int(port)
