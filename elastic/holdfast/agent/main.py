"""An agent process from its start to its end: the store, the job, this machine, then the agent itself."""

import asyncio
import logging
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from holdfast.agent.agent import Agent
from holdfast.agent.family import check_family
from holdfast.agent.following import surely
from holdfast.agent.fork_server import RunningServer
from holdfast.agent.health import Health, Vital
from holdfast.agent.http import Listening
from holdfast.agent.program_source import check_machine, check_out
from holdfast.agent.self_submission import SelfSubmission
from holdfast.agent.settings import AgentSettings
from holdfast.agent.submission import read_job
from holdfast.agent.tls import TlsFiles
from holdfast.errors import HoldfastError, UserError
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import JobRecord, OutcomeRecord
from holdfast.ports.store import Store
from holdfast.spec import JobSpec
from holdfast.stores.address import StoreAccess, StoreAddress, open_store

log = logging.getLogger(__name__)
# sun_path, less the name of a slot's socket.
_SCRATCH_BYTES_MAX = 107 - len("/slot-1023.sock")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """What the command line says; None: as the job says."""

    job: str
    address: StoreAddress
    access: StoreAccess
    node: NodeId
    host: str
    listening: Listening
    domain: str
    secret: bytes = field(repr=False)
    slots: int | None = None
    tls: TlsFiles | None = None
    base: Path | None = None  # where the Program lies on this machine
    out: str | None = None  # where the job's folder is mounted on this machine
    ram: Path | None = None  # where copies in RAM outlive this agent
    submission: SelfSubmission | None = None  # of a job that is not there
    health: tuple[str, int] | None = None  # where anybody may ask how it is
    zygote: RunningServer | None = None  # forked together with this agent, by a run that takes signals itself


def run_agent(options: AgentOptions) -> OutcomeRecord | None:
    """Returns when the node has left, or was told to go before it took part; what the job came to, if this node saw it.

    Raises:
        UserError: this machine does not fit the job.
        NodeRefusedError: another agent stands in the way, or workers do not get warm here.
        StoreError: the store refuses this agent.
        VersionError: the job was submitted by another version of Holdfast or PyTorch.
        HoldfastError: the agent failed.
    """
    allow_many_files()
    scratch = Path(tempfile.mkdtemp(prefix="holdfast-"))
    try:
        if len(os.fsencode(scratch)) > _SCRATCH_BYTES_MAX:
            raise UserError(f"TMPDIR: {scratch} is too long a path for a socket; choose a shorter one")
        return asyncio.run(_serve(options, scratch))
    except asyncio.CancelledError:
        log.info("agent.stopped")
        return None
    except ExceptionGroup as group:  # of the agent's tasks
        raise explain(group) from group
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def allow_many_files() -> None:
    """Each copy of a layer in RAM is an open file, of the agent and of a worker, which inherits the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(options: AgentOptions, scratch: Path) -> OutcomeRecord | None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)  # the agent puts its own in its place
    if options.zygote is None:
        loop.add_signal_handler(signal.SIGINT, os.kill, os.getpid(), signal.SIGTERM)
    agents: list[Agent] = []
    async with _health(options, lambda: agents[0].vitals if agents else None):
        store = open_store(options.address, options.access)
        try:
            agents.append(await _begin(options, store, scratch))
            await agents[0].run()
            return agents[0].outcome
        finally:
            await store.close()


async def _begin(options: AgentOptions, store: Store, scratch: Path) -> Agent:
    """All that comes before the node takes part."""
    if options.submission is not None:
        await options.submission.ensure(store, options.job, scratch)
    record = _on_this_machine(await read_job(store, options.job), options)
    await asyncio.to_thread(check_machine, record)
    if record.id and record.out:
        await check_out(record)
    await surely(lambda: check_family(store, Keys(job=options.job), options.host), "nodes", patient=False)
    settings = AgentSettings(
        job=options.job,
        node=options.node,
        host=options.host,
        listening=options.listening,
        domain=options.domain,
        slots=options.slots or JobSpec.model_validate(record.spec).slots_per_node,
        scratch=scratch,
        secret=options.secret,
        tls=options.tls,
        ram=options.ram,
        zygote=options.zygote,
    )
    return Agent(settings, store, record)


@asynccontextmanager
async def _health(options: AgentOptions, vitals: Callable[[], Vital | None]) -> AsyncIterator[None]:
    if options.health is None:
        yield
        return
    health = Health()
    health.open(*options.health)
    beating = asyncio.create_task(health.beat(vitals), name="health")
    try:
        yield
    finally:
        beating.cancel()
        health.close()


def _on_this_machine(record: JobRecord, options: AgentOptions) -> JobRecord:
    if options.base is not None:
        record = replace(record, base=str(options.base.absolute()))
    if options.out is not None:
        record = replace(record, out=options.out)
    return record


def explain(group: ExceptionGroup[Exception]) -> HoldfastError:
    """One error in place of many: the first, or, of one that is a bug, where to read of it."""
    first: Exception = group
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, HoldfastError):
        return first
    log.error("agent.failed", exc_info=group)
    return HoldfastError(f"the agent failed: {first!r}; its log tells where")
