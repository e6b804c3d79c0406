"""Four agents on hosts that a cut network takes apart, and a store that goes away: bits are the undisturbed run's."""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from harness.etcd.server import EtcdServer, running_server
from harness.netns.network import Network, network
from harness.realrun.cluster import Cluster, cluster
from harness.realrun.commands import Process
from harness.realrun.jobs import Ended, RunningJob, events_of, toy_spec, undisturbed
from holdfast.telemetry.files import RunFiles
from holdfast.telemetry.run_event import EventKind

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
NODES = ("node-0", "node-1", "node-2", "node-3")
STORE = "store"
WITHIN_S = 90.0
AWAY_S = 60.0
PROGRESS_S = 20.0
# Of a cut. Much less than the time after which a worker is asked why it waits, three times PROGRESS_S.
PAUSE_MAX_S = 20.0
SETTLE_S = 3.0


@pytest.fixture(scope="module")
def wires() -> Iterator[Network]:
    with network((*NODES, STORE)) as made:
        yield made


@pytest.fixture(scope="module")
def etcd(wires: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with ExitStack() as held:
        with wires.inside(STORE):
            folder = tmp_path_factory.mktemp("etcd")
            server = held.enter_context(running_server(folder, host=wires.address(STORE)))
        yield server


class Trial:
    """A job without end on four nodes, followed from beside the store, where the test's own commands run too."""

    def __init__(self, wires: Network, nodes: Cluster, following: RunningJob) -> None:
        self.wires, self.nodes, self.following = wires, nodes, following
        self._agents: dict[str, Process] = {}

    def start(self, node: str) -> None:
        with self.wires.inside(node):
            self._agents[node] = self.nodes.start(node, "--address", self.wires.address(node))

    def start_missing(self) -> None:
        for node in sorted(set(NODES) - self.members()):
            self.start(node)

    def kill_agent(self, node: str) -> None:
        """It alone; its workers see to themselves."""
        os.kill(self._agents[node].pid, signal.SIGKILL)

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = self.nodes.about("status")
        return told

    def events(self, kind: EventKind) -> list[dict[str, Any]]:
        """What was told with each event of that kind."""
        return events_of(self.following.out, kind)

    def members(self) -> set[str]:
        """Nodes of the generation that trains; none while one forms."""
        begun, running = self.events(EventKind.GENERATION_BEGUN), self.events(EventKind.GENERATION_RUNNING)
        if not begun or not running or begun[-1]["generation"] != running[-1]["generation"]:
            return set()
        return {slot.partition("/")[0] for slot in begun[-1]["members"]}

    def leader(self) -> str:
        return str(self.events(EventKind.LEADER_CHANGED)[-1]["node"])

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Polls files, so it costs the job nothing."""
        self.nodes.wait_for(condition, what, WITHIN_S)

    def wait_trained(self, nodes: Collection[str] = NODES, steps: int = 5) -> None:
        """Until just these train, and have committed so many more steps."""
        self.wait_for(lambda: self.members() == set(nodes), f"training on {nodes} alone")
        before = self.following.step()
        self.wait_for(lambda: self.following.step() >= before + steps, f"training on from step {before}")

    def wait_trained_by_one_of(self, able: Collection[set[str]]) -> None:
        found: list[set[str]] = []

        def is_one() -> bool:
            found.append(self.members())
            return found[-1] in able

        self.wait_for(is_one, f"training on one of {able} alone")
        self.wait_trained(found[-1])

    def pipelines(self) -> list[list[str]]:
        """The nodes of each, by stage."""
        return [[stage["node"] for stage in pipeline["stages"]] for pipeline in self.status()["pipelines"]]

    def end(self) -> Ended:
        """Stopped at a step boundary."""
        self.nodes.about("stop")
        return self.following.end()


@contextmanager
def trial(
    folder: Path, wires: Network, etcd: EtcdServer, *, pause_s: float = 0.02, lease_ttl_s: float = 2.0
) -> Iterator[Trial]:
    """Begins once all four train."""
    host, port = etcd.endpoint
    store = f"etcd://{host}:{port}/{folder.name}"
    with wires.inside(STORE), cluster(folder / "cluster", store) as nodes:
        etcd.revive()  # whatever a test before that failed did to it
        spec = toy_spec(
            folder,
            params={"pause_s": pause_s},
            steps=1_000_000,
            nodes={"min": 1, "desired": 4},
            layout={"depth": 2},
            timeouts={"lease_ttl_s": lease_ttl_s, "progress_s": PROGRESS_S, "start_settle_s": SETTLE_S},
            failures={"node_losses": 10},
        )
        with nodes.followed(spec, folder / "out") as following:
            made = Trial(wires, nodes, following)
            try:
                for node in NODES:
                    made.start(node)
                made.wait_trained()
                yield made
            finally:
                wires.heal()


# Each cuts the network, and says who must be able to train on; any of several where one set is as good as another.


def one_node(made: Trial) -> list[set[str]]:
    lost = next(node for node in NODES if node != made.leader())
    made.wires.isolate(lost)
    return [set(NODES) - {lost}]


def the_coordinating_node(made: Trial) -> list[set[str]]:
    lost = made.leader()
    made.wires.isolate(lost)
    return [set(NODES) - {lost}]


def two_halves_with_the_store(made: Trial) -> list[set[str]]:
    halves = made.pipelines()
    made.wires.cut(*halves)
    return [set(half) for half in halves]


def two_halves_one_with_the_store(made: Trial) -> list[set[str]]:
    kept, lost = made.pipelines()
    made.wires.cut([*kept, STORE], lost)
    return [set(kept)]


def test_cuts_that_heal_change_no_bit(wires: Network, etcd: EtcdServer, tmp_path: Path) -> None:
    """One after the other, so that four agents are started once."""
    with trial(tmp_path, wires, etcd) as made:
        for cut_off in (one_node, the_coordinating_node, two_halves_with_the_store, two_halves_one_with_the_store):
            able = cut_off(made)
            made.wait_trained_by_one_of(able)
            wires.heal()
            made.wait_trained()
        ended = made.end()
    assert ended.code == 3, ended.output
    assert max(generation["downtime_s"] or 0.0 for generation in ended.report["generations"]) < PAUSE_MAX_S
    assert ended.bits == undisturbed(tmp_path / "undisturbed", ended.report["steps_committed"]).bits


def test_halves_of_which_none_holds_all_layers_wait_for_each_other(
    wires: Network, etcd: EtcdServer, tmp_path: Path
) -> None:
    with trial(tmp_path, wires, etcd) as made:
        first, last = zip(*made.pipelines(), strict=True)  # by stage
        made.wires.cut(first, last)
        made.wait_for(lambda: made.events(EventKind.CONTACT_LOST), "seen")
        cut_s = time.monotonic()
        step = made.following.step()
        made.wait_for(lambda: time.monotonic() > cut_s + 3 * SETTLE_S, "cut for so long that a lost copy would end it")
        assert made.following.step() <= step + 1
        wires.heal()
        made.wait_trained()
        ended = made.end()
    assert ended.code == 3, ended.output
    assert ended.bits == undisturbed(tmp_path / "undisturbed", ended.report["steps_committed"]).bits


def test_steps_are_committed_while_the_store_is_away_and_a_loss_waits_for_it(
    wires: Network, etcd: EtcdServer, tmp_path: Path
) -> None:
    with trial(tmp_path, wires, etcd, pause_s=0.03, lease_ttl_s=AWAY_S / 10) as made:
        lost = made.pipelines()[-1][-1]  # not where rank 0 is, whose agent keeps the commits until it can tell them
        etcd.kill()
        killed_s = time.time()
        made.wait_for(lambda: time.time() > killed_s + AWAY_S, "away for long")
        lost_s = time.time()
        made.kill_agent(lost)
        etcd.start()
        etcd.wait_healthy()
        made.wait_trained(set(NODES) - {lost})
        ended = made.end()
    assert ended.code == 3, ended.output
    # Told late, and by several: not in order.
    during = sorted(time_s for time_s in commit_times(tmp_path / "out") if killed_s <= time_s <= lost_s)
    gaps = [after - before for before, after in pairwise([killed_s, *during, lost_s])]
    assert max(gaps) < AWAY_S / 4, "all along"
    since = [g["cause"] for g in ended.report["generations"] if g["begun_time_s"] > killed_s]
    assert since == ["loss", "stop"], "nobody else is taken for lost because its lease ran out meanwhile"
    assert ended.bits == undisturbed(tmp_path / "undisturbed", ended.report["steps_committed"]).bits


def test_the_loss_of_the_coordinating_agent_costs_no_more_than_any_other(
    wires: Network, etcd: EtcdServer, tmp_path: Path
) -> None:
    with trial(tmp_path, wires, etcd, pause_s=0.005, lease_ttl_s=30.0) as made:
        kinds = ("another", "leader", "leader", "another")  # each once of four nodes, and once of three
        for kind in kinds:
            leader, there = made.leader(), made.members()
            if len(there) < 3:
                made.start_missing()
                made.wait_trained()
                leader, there = made.leader(), set(NODES)
            lost = leader if kind == "leader" else min(there - {leader})
            made.kill_agent(lost)
            made.wait_trained(there - {lost})
        ended = made.end()
    assert ended.code == 3, ended.output
    losses = [g["downtime_s"] for g in ended.report["generations"] if g["cause"] == "loss"]
    paused_s = {"another": [losses[0], losses[3]], "leader": losses[1:3]}
    assert len(losses) == len(kinds)
    assert min(paused_s["leader"]) <= max(paused_s["another"]) + 3.0, paused_s
    assert max(losses) < 15, f"a lease need not run out: {paused_s}"
    assert ended.bits == undisturbed(tmp_path / "undisturbed", ended.report["steps_committed"]).bits


def commit_times(out: Path) -> list[float]:
    return [event.time_s for event in RunFiles(out).read_events() if event.kind is EventKind.STEP_COMMITTED]
