"""How a job stands, read from its store alone: for a job whose agents run anywhere."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from holdfast.cli.target import Target
from holdfast.errors import ProtocolError, UserError
from holdfast.model.ids import NodeId
from holdfast.model.records import (
    DrainRecord,
    GenerationRecord,
    JobRecord,
    NodeRecord,
    Standing,
    StartRecord,
    StopRecord,
)
from holdfast.model.wire import decode
from holdfast.ports.store import Snapshot
from holdfast.telemetry.live import RunView
from holdfast.telemetry.recorder import Recorder


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """What the store tells at one moment."""

    target: Target
    record: JobRecord
    view: RunView
    generation: GenerationRecord | None
    start: StartRecord | None  # of that generation, once it has one
    nodes: tuple[NodeRecord, ...]
    drains: tuple[DrainRecord, ...]
    stop: StopRecord | None
    malformed: tuple[str, ...]  # keys whose values cannot be read

    def as_json(self) -> dict[str, Any]:
        view, generation = self.view, self.generation
        return {
            "job": self.target.job,
            "store": str(self.target.address),
            "id": self.record.id,
            "out": self.record.out,
            "state": view.state.value,
            "step": view.step,
            "steps": view.steps,
            "loss": view.loss if view.loss is not None and view.loss == view.loss else None,
            "leader": view.coordinator,
            "generation": {
                "number": generation.number,
                "cause": generation.cause.value,
                "reason": generation.reason,
                "members": [str(ref.slot) for ref in generation.members],
                "leavers": list(generation.leavers),
            }
            if generation is not None
            else None,
            "action": self.start.action.value if self.start is not None else None,
            "reasons": list(self.start.reasons) if self.start is not None else [],
            "layout": view.layout,
            "pipelines": [pipeline.model_dump(mode="json") for pipeline in view.pipelines],
            "nodes": {node.node: self._node(node) for node in self.nodes},
            "draining": [asdict(drain) for drain in self.drains],
            "standings": [asdict(standing) for standing in generation.standings] if generation is not None else [],
            "unreachable": list(generation.unreachable) if generation is not None else [],
            "stop": self.stop.reason if self.stop is not None else None,
            "outcome": asdict(view.outcome) if view.outcome is not None else None,
            "malformed": list(self.malformed),
        }

    def _node(self, node: NodeRecord) -> dict[str, Any]:
        return {
            "state": self.view.nodes[node.node].state.value,
            "host": node.host,
            "port": node.port,
            "domain": node.domain,
            "incarnation": node.incarnation,
            "agent_pid": node.agent_pid,
            "worker_pids": [ref.pid for ref in node.workers],
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        view, generation = self.view, self.generation
        loss = f", loss {view.loss:.4f}" if view.loss is not None else ""
        yield f"{self.target.job} {view.state.value}: step {view.step} of {view.steps}{loss}"
        if view.outcome is not None:
            yield f"  {view.outcome.result.value}: {view.outcome.reason}"
        if generation is not None:
            yield f"  generation {generation.number} ({generation.cause.value}): {generation.reason}"
        if self.start is not None:
            yield from (f"    {reason}" for reason in self.start.reasons)
        yield f"  {view.coordinator or 'nobody'} coordinates"
        for number, pipeline in enumerate(view.pipelines):
            stages = (
                f"{stage.node}/{stage.slot} {_span(view.layer_names[slice(*stage.layers)])}"
                for stage in pipeline.stages
            )
            yield f"  pipeline {number}: {' | '.join(stages)}; {pipeline.microbatches} microbatches"
        for node in self.nodes:
            state = view.nodes[node.node].state.value
            yield f"  {node.node:<12} {state:<9} {node.host} port {node.port}, {len(node.workers)} warm workers"
        for drain in self.drains:
            yield f"  {drain.node} {'may leave' if drain.released else 'is to leave'}: {drain.reason}"
        if generation is not None:
            yield from map(_standing, generation.standings)
            yield from (f"  {node} is left out: others cannot reach it" for node in generation.unreachable)
        if self.stop is not None:
            yield f"  to stop: {self.stop.reason}"
        for key in self.malformed:
            yield f"  {key}: holds what cannot be read"


async def read_status(target: Target) -> JobStatus:
    """Raises:
    UserError: there is no such job.
    JobFailedError: the store does not answer.
    """
    async with target.open() as store:
        snapshot = await store.get_prefix(target.keys.prefix)
    return _status(target, snapshot)


def _status(target: Target, snapshot: Snapshot) -> JobStatus:
    keys, values = target.keys, {kv.key: kv.value for kv in snapshot.kvs}
    spec = values.get(keys.one("spec"))
    if spec is None:
        raise UserError(f"--job {target.job}: there is no such job at {target.address}")
    record = decode(JobRecord, spec)
    recorder = Recorder(record, name=target.job, global_batch=record.global_batch)
    for kv in sorted(snapshot.kvs, key=lambda kv: kv.mod_revision):
        recorder.apply(kv.key, kv.value, time.time())
    malformed: list[str] = []

    def read(kind: type[Any], key: str) -> Any:
        try:
            return decode(kind, values[key]) if key in values else None
        except ProtocolError:
            malformed.append(key)
            return None

    def read_all(kind: type[Any], prefix: str) -> tuple[Any, ...]:
        read_ones = (read(kind, key) for key in sorted(values) if key.startswith(prefix))
        return tuple(one for one in read_ones if one is not None)

    generation: GenerationRecord | None = read(GenerationRecord, keys.one("generation"))
    return JobStatus(
        target=target,
        record=record,
        view=recorder.view(),
        generation=generation,
        start=read(StartRecord, keys.start(generation.number)) if generation is not None else None,
        nodes=read_all(NodeRecord, keys.node(NodeId(""))),
        drains=read_all(DrainRecord, keys.drain(NodeId(""))),
        stop=read(StopRecord, keys.one("stop")),
        malformed=tuple(malformed),
    )


def _standing(standing: Standing) -> str:
    back = (
        "in quarantine until `holdfast pardon`, or needed"
        if standing.quarantined
        else (f"back {standing.wait_steps} steps after step {standing.step}")
    )
    return f"  {standing.node} was lost {standing.losses} times of late: {back}"


def _span(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} – {names[-1]}"
