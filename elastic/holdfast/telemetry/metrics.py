"""What an agent tells Prometheus of its job, as it sees it in the store, and of its node. docs/metrics.md lists it.

Counters count from the agent's start on, and what stood in the store then.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from holdfast.errors import ProtocolError
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import (
    Cause,
    CheckpointsRecord,
    Commit,
    GenerationRecord,
    JobRecord,
    LeaderRecord,
    NodeAck,
    ProgressRecord,
)
from holdfast.model.wire import decode


class AgentMetrics:
    """A fold over the job's keys, in the order of their changes; seeing the same again counts nothing."""

    def __init__(self, job: JobRecord, keys: Keys, node: NodeId) -> None:
        self._keys, self._node = keys, node
        self._commit: tuple[int, Commit] | None = None  # the last one, and its generation
        self._step_s = 0.0  # between the last two commits of one generation
        self._generation = 0
        self._moved_in = 0  # the generation whose transfers were counted last
        self._nodes: set[str] = set()
        self._spawned: set[int] = set()
        self._registry = registry = CollectorRegistry()
        # All three register themselves: memory, processor time and descriptors of this process.
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"holdfast_{name}", what, registry=registry)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"holdfast_{name}", what, labels, registry=registry)

        self._steps = counter("steps_committed", "Steps committed, also those that were computed again")
        self._step = gauge("last_committed_step", "Steps that the job has committed")
        self._committed_s = gauge("last_commit_timestamp_seconds", "When the last step was committed")
        self._loss = gauge("loss", "Loss of the last committed step")
        self._number = gauge("generation", "Number of the newest generation; 0: none began")
        self._members = gauge("members", "Slots that take part in the newest generation")
        self._shown = gauge("nodes", "Nodes whose agents are registered")
        self._begun = counter("generations", "Generations that began, by what began them", "cause")
        self._downtime_s = counter("downtime_seconds", "Time without a step between generations, less one step each")
        self._moved = counter("bytes_moved", "Layer state this node received, by the node that sent it", "source")
        self._restored = counter("bytes_restored", "Layer state taken from RAM or a checkpoint", "source")
        self._corrupt = counter("corrupt_copies", "Copies that were not what was written, by where they were", "source")
        self._checkpoint = gauge("checkpoint_step", "Step of the newest checkpoint")
        self._leads = gauge("is_leader", "1 where this agent coordinates the job, else 0")
        self._restarts = counter("worker_restarts", "Workers started in place of one that ended")
        self._store_errors = counter("store_errors", "Calls of this agent that the store did not answer", "call")
        gauge("steps", "Steps that were asked for").set(job.steps)
        about = Gauge("holdfast_agent_info", "The job and the node", ("name", "node"), registry=registry)
        about.labels(name=keys.job, node=node).set(1)
        for cause in Cause:
            self._begun.labels(cause=cause.value)  # there, at zero, before the first one

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def see(self, key: str, value: bytes | None) -> None:
        """One key of the job; `value` is None where it was deleted. What cannot be read or counted is passed over."""
        kind, _, rest = key.removeprefix(self._keys.prefix).partition("/")
        try:
            self._fold(kind, rest, value)
        except (ProtocolError, ValueError, OverflowError):
            return  # whoever acts upon it has logged it; a count below zero or beyond all floats is none

    def worker_spawned(self, index: int) -> None:
        """A worker of this slot was started, for the first time or again."""
        if index in self._spawned:
            self._restarts.inc()
        self._spawned.add(index)

    def found_corrupt(self, source: str) -> None:
        """A copy there was not what was written."""
        self._corrupt.labels(source=source).inc()

    def store_failed(self, call: str) -> None:
        """`call` is the name of the store's method."""
        self._store_errors.labels(call=call).inc()

    def _fold(self, kind: str, rest: str, value: bytes | None) -> None:
        match kind:
            case "nodes":
                (self._nodes.discard if value is None else self._nodes.add)(rest)
                self._shown.set(len(self._nodes))
            case "leader":
                leader = decode(LeaderRecord, value).node if value is not None else None
                self._leads.set(leader == self._node)
            case _ if value is None:
                return  # old generations are swept up
            case "generation":
                self._began(decode(GenerationRecord, value))
            case "acks" if rest.endswith(f"/{self._node}"):
                self._acknowledged(decode(NodeAck, value))
            case "checkpoints":
                known = decode(CheckpointsRecord, value).committed
                self._checkpoint.set(known[-1].version.step if known else 0)
            case "progress":
                progress = decode(ProgressRecord, value)
                for commit in progress.commits:
                    self._committed(progress.generation, commit)

    def _began(self, record: GenerationRecord) -> None:
        if record.number <= self._generation:
            return
        self._generation = record.number
        self._number.set(record.number)
        self._members.set(len(record.members))
        self._begun.labels(cause=record.cause.value).inc()

    def _acknowledged(self, ack: NodeAck) -> None:
        if not ack.starts or ack.generation <= self._moved_in:
            return
        self._moved_in = ack.generation
        for start in ack.starts:
            for source, size in start.received:
                self._moved.labels(source=source.node).inc(size)
            for where, size in start.restored:
                self._restored.labels(source=where).inc(size)

    def _committed(self, generation: int, commit: Commit) -> None:
        last = self._commit
        if last is not None:
            before, since_s = last[1], commit.time_s - last[1].time_s
            if (generation, commit.step) <= (last[0], before.step):
                return
            if generation > last[0]:
                self._downtime_s.inc(max(0.0, since_s - self._step_s))
            elif commit.step == before.step + 1:
                self._step_s = max(0.0, since_s)
        self._commit = (generation, commit)
        self._steps.inc()
        self._step.set(commit.step)
        self._loss.set(commit.loss)
        self._committed_s.set(commit.time_s)
