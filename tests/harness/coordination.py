"""Speaks to one coordinator as the nodes of a job would."""

from collections.abc import Iterable
from dataclasses import replace

from holdfast.control.coordinator import Coordinator
from holdfast.control.job import Job
from holdfast.model.commands import (
    Command,
    ProbeNode,
    WriteGeneration,
    WriteOutcome,
    WriteStart,
)
from holdfast.model.events import (
    AckReceived,
    ContactLost,
    DrainChanged,
    Event,
    NodeChanged,
    NodeRefused,
    ProbeAnswered,
    ProgressMade,
    ReachChanged,
    TimePassed,
)
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.records import (
    AckPhase,
    Commit,
    DrainRecord,
    GenerationRecord,
    NodeAck,
    NodeRecord,
    ProgressRecord,
    ReachRecord,
    SlotInventory,
    StartRecord,
    SuspectRecord,
    Version,
    WorkerRef,
)
from holdfast.planner.estimating import uniform_profile

JOB = Job(
    steps=100,
    nodes_min=1,
    nodes_max=None,
    nodes_desired=2,
    layer_names=("embed", "middle", "head"),
    layer_bytes=(100, 100, 100),
    blocks=4,
    block_size=1,
    depth=None,
    memory_per_slot_bytes=None,
    profile=uniform_profile(("embed", "middle", "head"), (100, 100, 100)),
    start_s=60.0,
    join_settle_s=0.2,
    start_settle_s=5.0,
    abort_s=5.0,
    probe_s=0.5,
    worker_deaths_per_step=3,
)
ALL = (0, 1, 2)


class Talk:
    """Speaks to one coordinator as the nodes would. `commands`: all it ever said."""

    def __init__(self, job: Job = JOB) -> None:
        self.now_s = 0.0
        self.commands: list[Command] = []
        self._lives: dict[str, int] = {}
        self._died: dict[str, tuple[WorkerId, ...]] = {}
        self._job = job
        self.coordinator = Coordinator(job, now_s=0.0)

    def say(self, *events: Event) -> list[Command]:
        said: list[Command] = []
        for event in events:
            said += self.coordinator.handle(event, self.now_s)
            wake_at_s = self.coordinator.wake_at_s
            assert wake_at_s is None or wake_at_s > self.now_s, "it would be woken again and again"
        self.commands += said
        return said

    def wait(self, seconds: float) -> list[Command]:
        self.now_s += seconds
        return self.say(TimePassed())

    def ref(self, node: str) -> WorkerRef:
        slot = SlotId(NodeId(node), 0)
        worker = WorkerId(f"{slot}#{self._lives.get(node, 1)}")
        return WorkerRef(slot=slot, worker=worker, address="host:1", pid=1)

    def record(self, node: str) -> NodeRecord:
        return NodeRecord(
            node=NodeId(node),
            incarnation="one",
            host="host",
            port=1,
            domain=node,
            agent_pid=1,
            workers=(self.ref(node),),
            died=self._died.get(node, ()),
        )

    def come(self, *nodes: str) -> list[Command]:
        return self.say(*(NodeChanged(NodeId(node), self.record(node)) for node in nodes))

    def miss(self, *nodes: str) -> list[Command]:
        """Their keys go; nobody knows more."""
        return self.say(*(NodeChanged(NodeId(node), None) for node in nodes))

    def go(self, *nodes: str) -> list[Command]:
        """They are dead: when they are asked whether they live, their ports refuse."""
        said = self.miss(*nodes) + self.say(*(NodeRefused(NodeId(node), "one") for node in nodes))
        return [command for command in said if not isinstance(command, ProbeNode)]

    def silent(self, *nodes: str) -> list[Command]:
        """They do not answer, asked twice, a second apart."""
        events = [ProbeAnswered(NodeId(node), "one", None) for node in nodes]
        said = self.say(*events) + self.wait(1.0) + self.say(*events)
        return [command for command in said if not isinstance(command, ProbeNode)]

    def break_contact(self, node: str = "a", **more: bool) -> list[Command]:
        """Workers of `node` lost contact."""
        number = self.generation.number
        return self.say(ContactLost(SuspectRecord(generation=number, node=NodeId(node), detail="reset", **more)))

    def answer(self, *nodes: str) -> list[Command]:
        """They live, when asked."""
        return self.say(*(ProbeAnswered(NodeId(node), "one", (self.ref(node).worker,)) for node in nodes))

    def unreachable(self, node: str, *others: str) -> list[Command]:
        """What the agent of `node` says of these; that all is well, if there are none."""
        names = tuple(NodeId(other) for other in others)
        record = ReachRecord(node=NodeId(node), incarnation="one", unreachable=names) if others else None
        return self.say(ReachChanged(NodeId(node), record))

    def worker_dies(self, node: str) -> list[Command]:
        """And is warm again at once."""
        self._bury(node)
        return self.come(node)

    def worker_stays_away(self, node: str) -> list[Command]:
        """It died, and the next one is not warm yet."""
        self._bury(node)
        return self.say(NodeChanged(NodeId(node), replace(self.record(node), workers=())))

    def _bury(self, node: str) -> None:
        self._died[node] = (*self._died.get(node, ()), self.ref(node).worker)
        self._lives[node] = self._lives.get(node, 1) + 1

    def ack(
        self,
        node: str,
        phase: AckPhase,
        step: int | None = None,
        layers: tuple[int, ...] = ALL,
        layer_s: float | None = None,
    ) -> list[Command]:
        """`layer_s`: what a microbatch took in each layer; None: that is not known."""
        ref = self.ref(node)
        version = None if step is None else Version(step, self.start.generation if step else 0)
        inventory = SlotInventory(
            slot=ref.slot,
            worker=ref.worker,
            layers=layers if version else (),
            version=version,
            layer_cost_s=tuple((layer, layer_s) for layer in layers) if layer_s is not None else (),
        )
        record = NodeAck(
            generation=self.generation.number,
            node=ref.slot.node,
            incarnation="one",
            phase=phase,
            inventory=(inventory,),
        )
        return self.say(AckReceived(record))

    def stopped(self, *nodes: str, step: int | None = None, layer_s: float | None = None) -> list[Command]:
        return [command for node in nodes for command in self.ack(node, AckPhase.STOPPED, step, layer_s=layer_s)]

    def running(self, *nodes: str) -> list[Command]:
        return [command for node in nodes for command in self.ack(node, AckPhase.RUNNING)]

    def progress(self, step: int) -> list[Command]:
        commit = Commit(step=step, loss=0.5, grad_norm=None, time_s=0.0)
        return self.say(ProgressMade(ProgressRecord(generation=self.generation.number, commits=(commit,))))

    def drain(self, node: str, grace_s: float = 30.0) -> list[Command]:
        return self.say(DrainChanged(NodeId(node), DrainRecord(node=NodeId(node), grace_s=grace_s, reason="notice")))

    @property
    def generation(self) -> GenerationRecord:
        return [command.record for command in self.commands if isinstance(command, WriteGeneration)][-1]

    @property
    def start(self) -> StartRecord:
        return [command.record for command in self.commands if isinstance(command, WriteStart)][-1]


def training(*nodes: str, job: Job = JOB) -> Talk:
    """These nodes have committed a step of generation 1."""
    talk = Talk(replace(job, nodes_desired=len(nodes)))
    talk.come(*nodes)
    talk.stopped(*nodes)
    talk.running(*nodes)
    talk.progress(1)
    return talk


def kinds(commands: Iterable[Command]) -> list[type[Command]]:
    return [type(command) for command in commands]


def outcome(commands: Iterable[Command]) -> WriteOutcome:
    (found,) = [command for command in commands if isinstance(command, WriteOutcome)]
    return found
