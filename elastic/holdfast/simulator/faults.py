"""Faults that read like sentences: `kill("b").at(step=2)`. A fault aimed at what is not there does nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from holdfast.model.ids import NodeId, SlotId
from holdfast.model.records import DrainRecord, StopRecord
from holdfast.model.wire import encode
from holdfast.ports.store import Delete, Put
from holdfast.simulator.agent import Agent
from holdfast.simulator.world import World

Condition = Callable[[World], bool]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens, and when. `kind`: the name of the function that makes such faults."""

    kind: str
    sentence: str
    strike: Callable[[World], object]
    due: Condition = lambda world: True

    def at(self, *, step: int) -> "Fault":
        """As soon as some worker has committed `step`."""
        return self._when(f"at step {step}", lambda world: world.checkers.newest_step >= step)

    def after(self, *, action: int) -> "Fault":
        """Right after the action of that number."""
        return self._when(f"after action {action}", lambda world: len(world.transcript) > action)

    def in_generation(self, number: int, *, started: bool = False) -> "Fault":
        """As soon as that generation, or its start, is written."""
        if started:
            return self._when(f"once generation {number} starts", lambda world: number in world.checkers.starts)
        return self._when(f"once generation {number} forms", lambda world: len(world.checkers.generations) >= number)

    def when(self, text: str, condition: Condition) -> "Fault":
        return self._when(text, condition)

    def _when(self, text: str, condition: Condition) -> "Fault":
        return replace(self, sentence=f"{self.sentence} {text}", due=condition)


def _agent(world: World, node: str) -> Agent | None:
    agent = world.agents.get(NodeId(node))
    return agent if agent is not None and not agent.dead else None


def kill(node: str) -> Fault:
    """The agent and its workers die in one moment."""

    def strike(world: World) -> None:
        if (agent := _agent(world, node)) is not None:
            agent.kill(workers_too=True)

    return Fault("kill", f"kill {node}", strike)


def kill_agent(node: str) -> Fault:
    """Its workers die when they notice."""

    def strike(world: World) -> None:
        if (agent := _agent(world, node)) is not None:
            agent.kill(workers_too=False)

    return Fault("kill_agent", f"kill the agent of {node}", strike)


def kill_worker(node: str, index: int = 0) -> Fault:
    def strike(world: World) -> None:
        if (agent := _agent(world, node)) is not None and (worker := agent.workers.get(index)) is not None:
            worker.die()

    return Fault("kill_worker", f"kill worker {node}/{index}", strike)


def hang_worker(node: str, index: int = 0, *, waiting: bool = False) -> Fault:
    """It does nothing any more, and its watchdog takes a while to see that."""

    def strike(world: World) -> None:
        agent = _agent(world, node)
        if agent is not None and (worker := agent.workers.get(index)) is not None and worker.alive:
            worker.hang(waiting=waiting)

    return Fault("hang_worker", f"hang worker {node}/{index}{' in communication' if waiting else ''}", strike)


def freeze_agent(node: str, for_s: float = 10.0) -> Fault:
    """Longer than its lease by default. Its workers go on."""

    def strike(world: World) -> None:
        if (agent := _agent(world, node)) is not None:
            agent.freeze(for_s, workers_too=False)

    return Fault("freeze_agent", f"freeze the agent of {node} for {for_s} s", strike)


def freeze(node: str, for_s: float = 10.0) -> Fault:
    def strike(world: World) -> None:
        if (agent := _agent(world, node)) is not None:
            agent.freeze(for_s, workers_too=True)

    return Fault("freeze", f"freeze {node} for {for_s} s", strike)


def drain(node: str, grace_s: float = 30.0) -> Fault:
    def strike(world: World) -> None:
        key = world.keys.drain(NodeId(node))
        if _agent(world, node) is not None and world.keyspace.get(key) is None:
            record = DrainRecord(node=NodeId(node), grace_s=grace_s, reason="test")
            world.store.transact([], [Put(key=key, value=encode(record))])

    return Fault("drain", f"drain {node} within {grace_s} s", strike)


def drain_leader(grace_s: float = 30.0) -> Fault:
    def strike(world: World) -> None:
        if (leader := leading(world)) is not None:
            drain(leader.node, grace_s).strike(world)

    return Fault("drain_leader", f"drain the coordinator's node within {grace_s} s", strike)


def kill_leader() -> Fault:
    def strike(world: World) -> None:
        if (leader := leading(world)) is not None:
            leader.kill(workers_too=True)

    return Fault("kill_leader", "kill the coordinator's node", strike)


def drop_leader() -> Fault:
    """The leader key goes, nothing else: the old term finds out by itself, a new one reads the store."""

    def strike(world: World) -> None:
        world.store.transact([], [Delete(key=world.keys.one("leader"))])

    return Fault("drop_leader", "drop the coordinator", strike)


def join(node: str, slots: int = 1) -> Fault:
    def strike(world: World) -> None:
        if node not in world.agents or world.agents[NodeId(node)].dead:
            world.add_agent(node, slots)

    return Fault("join", f"join {node}", strike)


def stop() -> Fault:
    def strike(world: World) -> None:
        world.store.transact([], [Put(key=world.keys.one("stop"), value=encode(StopRecord(reason="enough")))])

    return Fault("stop", "stop", strike)


def user_code_fails(node: str, index: int = 0, *, step: int) -> Fault:
    def strike(world: World) -> None:
        world.user_failures.add((SlotId(NodeId(node), index), step))

    return Fault("user_code_fails", f"user code fails on {node}/{index} in step {step}", strike)


def flip_ram(node: str, index: int = 0) -> Fault:
    """A byte of one of the copies in its agent's RAM."""

    def strike(world: World) -> None:
        agent = _agent(world, node)
        if agent is not None and (copies := list(agent.tiers.ram.copies())):
            copies[index % len(copies)].buffer.flip()
            world.checkers.stored.flipped += 1

    return Fault("flip_ram", f"flip a byte of copy {index} in {node}'s RAM", strike)


def flip_checkpoint(layer: int = 0) -> Fault:
    """A byte of the newest checkpoint that is committed."""

    def strike(world: World) -> None:
        for ref in world.checkers.stored.checkpoints[-1:]:
            world.storage.folders[ref.folder][layer].flip()
            world.checkers.stored.flipped += 1

    return Fault("flip_checkpoint", f"flip a byte of layer {layer} in the newest checkpoint", strike)


def skip_time() -> Fault:
    """Everything is slow: the next deadline comes before anything else that could happen."""
    return Fault("skip_time", "time flies", lambda world: world.skip())


def leading(world: World) -> Agent | None:
    """The agent whose term has begun last, if it lives."""
    agents = [agent for agent in world.agents.values() if agent.term is not None and not agent.dead]
    return agents[-1] if agents else None
