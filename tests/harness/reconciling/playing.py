"""Plays a cluster and its operators: orderly, until nothing happens any more, or as a random number generator draws."""

from collections.abc import Callable
from random import Random

from harness.reconciling.cluster import Cluster, Stream
from harness.reconciling.operating import Operator, no_lag
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob
from holdfast_operator.reconcile.snapshot import HostView

PASSES_MAX = 400
HORIZON_S = 100_000.0
FAULTS = ("taint", "silence", "delete_host", "evict", "snatch", "crash", "add_host", "cordon", "scale")


def cluster_of(job: ElasticJob, hosts: int, capacity: int = 1) -> Cluster:
    names = (f"host-{number}" for number in range(hosts))
    held = {name: HostView(name=name, is_ready=True) for name in names}
    return Cluster(job=Stream([job]), hosts=Stream([held]), capacity=capacity)


def parts(cluster: Cluster) -> tuple[Callable[[], bool], ...]:
    """What goes on by itself, beside training."""
    return (
        cluster.schedule,
        cluster.start,
        cluster.join,
        cluster.expire,
        cluster.coordinate,
        cluster.leave,
        cluster.terminate,
        cluster.collect,
    )


def settle(cluster: Cluster, operator: Operator, until_s: float | None = None) -> int:
    """Play on, orderly and with fresh caches, until nothing happens, whatever time passes; how many passes that took.
    With `until_s`, no further than then."""
    operator.behind, operator.is_blind = no_lag, False
    end_s = until_s if until_s is not None else cluster.now_s + HORIZON_S
    for passes in range(1, PASSES_MAX):
        while any([part() for part in parts(cluster)]):
            pass
        decision = operator.act()
        if decision.actions:
            continue
        wait_s = decision.look_again_s
        if wait_s is None or cluster.now_s + wait_s > end_s:
            cluster.now_s = end_s if until_s is not None else cluster.now_s
            return passes
        assert wait_s > 0, "it looks again at once, and does nothing"
        cluster.now_s += wait_s
    raise AssertionError(f"no end after {PASSES_MAX} passes: {operator.decisions[-1]}")


def play(cluster: Cluster, operators: list[Operator], random: Random, turns: int) -> None:
    """Anything, in any order. Each operator sees what it did not see yet some time later, may die in a pass, and is
    replaced by one that lists anew; the rendezvous may be out of reach."""
    for operator in operators:
        operator.behind = lambda most: random.randint(0, most)
    for _ in range(turns):
        cluster.now_s += random.choice((0.0, 0.1, 1.0, 7.0))
        match random.choices(("part", "pass", "fault", "train", "die", "blind"), weights=(24, 12, 2, 4, 2, 1))[0]:
            case "part":
                random.choice(parts(cluster))()
            case "pass":
                random.choice(operators).act()
            case "fault":
                disturb(cluster, random)
            case "train":
                cluster.train()
            case "blind":
                operator = random.choice(operators)
                operator.is_blind = not operator.is_blind
            case _:
                operator = random.choice(operators)
                operator.act(cut_after=random.randint(0, 4))
                operator.seen.clear()


def disturb(cluster: Cluster, random: Random) -> None:
    """One fault, where there is something that it can befall."""
    pods, hosts = cluster.running(), sorted(cluster.hosts.now)
    match random.choice(FAULTS):
        case "add_host":
            cluster.add_host(f"host-{len(cluster.hosts.versions)}-new")
        case "scale":
            nodes = cluster.job.now.spec.nodes
            cluster.scale(random.randint(nodes.min, nodes.max))
        case "taint" if hosts:
            cluster.taint(random.choice(hosts))
        case "cordon" if hosts:
            cluster.cordon(random.choice(hosts))
        case "silence" if hosts:
            cluster.silence(random.choice(hosts))
        case "delete_host" if hosts:
            cluster.delete_host(random.choice(hosts))
        case "evict" if pods:
            cluster.evict(random.choice(pods))
        case "snatch" if pods:
            cluster.snatch(random.choice(pods))
        case "crash" if pods:
            cluster.crash(random.choice(pods))
        case _:
            pass
