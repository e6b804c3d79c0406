"""What an agent tells Prometheus: each metric is documented, and counts what happened once."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from harness.records import JOB, KEYS, NODE, OTHER, RECORDS
from holdfast.model.ids import SlotId
from holdfast.model.records import (
    AckPhase,
    Cause,
    GenerationRecord,
    LeaderRecord,
    NodeAck,
    ProgressRecord,
    SlotStart,
    StopMode,
)
from holdfast.model.wire import encode
from holdfast.telemetry.metrics import AgentMetrics
from unit.telemetry.conftest import commit, worker

_SOURCE = SlotId(OTHER, 1)
DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


class Agent:
    """The metrics of node-0, as Prometheus reads them."""

    def __init__(self) -> None:
        self.metrics = AgentMetrics(JOB, KEYS, NODE)

    def see(self, key: str, record: object) -> "Agent":
        self.metrics.see(key, encode(record))
        return self

    def steps(self, generation: int, *steps: tuple[int, float]) -> "Agent":
        record = ProgressRecord(generation=generation, commits=tuple(commit(*step) for step in steps))
        return self.see(KEYS.one("progress"), record)

    def samples(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """By name and the values of the labels."""
        families = text_string_to_metric_families(self.metrics.text().decode())
        return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}

    def __getitem__(self, name: str) -> float:
        name, *labels = name.split()
        return self.samples()[f"holdfast_{name}", tuple(labels)]


def generation(number: int, cause: Cause, nodes: str) -> GenerationRecord:
    members = tuple(worker(node) for node in nodes)
    return GenerationRecord(number=number, members=members, leavers=(), stop=StopMode.ABORT, cause=cause, reason="so")


def test_every_metric_is_documented_and_every_documented_one_is_there() -> None:
    agent = Agent()
    for key, record in RECORDS.items():
        agent.see(key, record)
    agent.metrics.store_failed("put")
    agent.metrics.found_corrupt("peer")
    moved = SlotStart(
        slot=SlotId(NODE, 0),
        form_s=0,
        move_s=0,
        received=((SlotId(OTHER, 0), 8),),
        initialised_layers=0,
        restored=((NODE, 8),),
    )
    ack = NodeAck(generation=99, node=NODE, incarnation="i", phase=AckPhase.RUNNING, starts=(moved,))
    agent.see(KEYS.ack(99, NODE), ack)
    told = {name for name, _ in agent.samples() if name.startswith("holdfast_") and not name.endswith("_created")}
    documented = re.findall(
        r"^\| `(holdfast_(?!operator_)\w+)` \|", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert told == set(documented)
    assert all(cause.value in DOCS.read_text(encoding="utf-8") for cause in Cause)


def test_commits_are_counted_once_and_downtime_is_the_gap_between_generations_less_a_step() -> None:
    agent = Agent().steps(1, (1, 10.0), (2, 12.0)).steps(1, (2, 12.0), (3, 14.0))
    assert (agent["steps_committed_total"], agent["last_committed_step"], agent["loss"]) == (3, 3, 1 / 3)
    assert agent["downtime_seconds_total"] == 0
    agent.steps(2, (3, 20.0), (4, 21.0)).steps(1, (4, 16.0))
    assert agent["downtime_seconds_total"] == 20.0 - 14.0 - 2.0
    assert (agent["steps_committed_total"], agent["last_committed_step"]) == (5, 4)
    assert agent["last_commit_timestamp_seconds"] == 21.0


def test_generations_are_counted_by_cause() -> None:
    agent, key = Agent(), KEYS.one("generation")
    for record in (generation(1, Cause.START, "ab"), generation(2, Cause.LOSS, "a"), generation(2, Cause.LOSS, "a")):
        agent.see(key, record)
    assert (agent["generation"], agent["members"]) == (2, 1)
    assert [agent[f"generations_total {cause}"] for cause in ("start", "loss", "drain")] == [1, 1, 0]


def test_who_leads_and_who_is_there_follow_the_store() -> None:
    agent, leader = Agent(), KEYS.one("leader")
    assert (agent["is_leader"], agent["nodes"]) == (0, 0)
    agent.see(leader, LeaderRecord(node=NODE, incarnation="i")).see(KEYS.node(NODE), RECORDS[KEYS.node(NODE)])
    assert (agent["is_leader"], agent["nodes"]) == (1, 1)
    agent.see(leader, LeaderRecord(node=OTHER, incarnation="i"))
    assert agent["is_leader"] == 0
    agent.metrics.see(leader, None)
    agent.metrics.see(KEYS.node(NODE), None)
    assert (agent["is_leader"], agent["nodes"]) == (0, 0)


def test_only_what_this_node_received_is_counted_and_only_once() -> None:
    agent = Agent()
    for node in (NODE, OTHER):
        for phase in (AckPhase.RUNNING, AckPhase.FINISHED):
            start = SlotStart(
                slot=SlotId(node, 0), form_s=0, move_s=0, received=((_SOURCE, 100),), initialised_layers=0
            )
            ack = NodeAck(generation=2, node=node, incarnation="i", phase=phase, starts=(start,))
            agent.see(KEYS.ack(2, node), ack)
    assert agent[f"bytes_moved_total {OTHER}"] == 100


def test_a_worker_is_restarted_when_its_slot_gets_another() -> None:
    agent = Agent()
    for index in (0, 1, 0, 0):
        agent.metrics.worker_spawned(index)
    assert agent["worker_restarts_total"] == 2


def test_what_cannot_be_read_changes_nothing() -> None:
    agent = Agent().steps(1, (1, 1.0))
    for key in RECORDS:
        agent.metrics.see(key, b"{}")
    agent.steps(1, (10**400, 2.0))
    start = SlotStart(slot=SlotId(NODE, 0), form_s=0, move_s=0, received=((_SOURCE, -1),), initialised_layers=0)
    ack = NodeAck(generation=2, node=NODE, incarnation="i", phase=AckPhase.RUNNING, starts=(start,))
    agent.see(KEYS.ack(2, NODE), ack)
    assert agent["last_committed_step"] == 1
    assert agent[f"bytes_moved_total {OTHER}"] == 0
