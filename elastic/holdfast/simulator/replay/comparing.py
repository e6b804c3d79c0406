"""Which policies there are, all of them on one trace, and what to make of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from holdfast.errors import UserError
from holdfast.simulator.replay.accounting import REDONE
from holdfast.simulator.replay.baselines import Ideal, OnDemand, Reactive
from holdfast.simulator.replay.bound import Hindsight
from holdfast.simulator.replay.coordinated import NAME as COORDINATOR
from holdfast.simulator.replay.coordinated import replay as replay_coordinated
from holdfast.simulator.replay.costs import MeasuredCosts, ParcaeCosts
from holdfast.simulator.replay.fitting import ENTRIES_MIN
from holdfast.simulator.replay.holdfast import Holdfast, throughput
from holdfast.simulator.replay.model import Model
from holdfast.simulator.replay.parcae import ParcaeFuture, ParcaeMoves, ParcaeReactive
from holdfast.simulator.replay.published import Bamboo, Oobleck, Setting, Varuna
from holdfast.simulator.replay.replaying import Outcome, Policy, replay
from holdfast.simulator.replay.runtime import Runtime, of_table
from holdfast.simulator.replay.table import Migration, Table
from holdfast.simulator.replay.trace import Trace
from holdfast.simulator.replay.yields import Layouts
from holdfast.spec import JobSpec

# What a policy costs, besides what it does.
ON_DEMAND = "on-demand"
POLICIES = (
    "ideal",
    ON_DEMAND,
    "checkpoint",
    "varuna",
    "bamboo",
    "oobleck",
    "parcae-reactive",
    "parcae-future",
    "holdfast-same",
    "holdfast-even",
    "holdfast-warm",
    "holdfast",
    "holdfast-reactive",
)
# Of changes times nodes: so many take the real coordinator about a minute.
_COORDINATED_MAX = 50_000
_MORE_COPIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is replayed. `even`: layouts as measured; `uneven`: also pipelines of different depth, for those policies
    that have them; `migration`: None where Parcae's constants are not known for the model; `runtime`: None where too
    little was measured for a coordinator to plan by."""

    trace: Trace
    even: Layouts
    uneven: Layouts
    model: Model
    migration: Migration | None
    shallowest: int
    own: MeasuredCosts
    runtime: Runtime | None = None


def case_of_table(table: Table, trace: Trace, spec: JobSpec | None = None) -> Case:
    """`table`: with the sizes of the layers. `spec`: of the job that the real coordinator is to plan for."""
    assert table.layer_bytes is not None, "a job has layers"
    own = MeasuredCosts() if spec is None else MeasuredCosts(checkpoint_steps=spec.checkpoints.every)
    if table.migration is not None:
        own = replace(own, link_bytes_per_s=table.migration.link_bytes_per_s)
    return Case(
        trace=trace,
        even=table.even(),
        uneven=table.uneven(),
        model=Model(table.layer_bytes),
        migration=table.migration,
        shallowest=table.shallowest,
        own=own,
        runtime=of_table(table, spec) if spec is not None and len(table.step_s) >= ENTRIES_MIN else None,
    )


def policies(case: Case) -> tuple[str, ...]:
    """Those that can be replayed: most charge Parcae's constants."""
    known = POLICIES if case.migration is not None else ("ideal", ON_DEMAND, "holdfast", "holdfast-reactive")
    return (*known, COORDINATOR) if case.runtime is not None else known


def usual_policies(case: Case) -> tuple[str, ...]:
    """Those to replay where none is asked for: not the real coordinator where its planning would take minutes."""
    if len(case.trace.changes) * case.trace.most_nodes <= _COORDINATED_MAX:
        return policies(case)
    return tuple(name for name in policies(case) if name != COORDINATOR)


def goodput_by_copies(case: Case, known: Outcome) -> dict[int, float]:
    """What the coordinator reaches with as many copies in RAM as the job asks for (`known`), and with one and two more,
    as far as steps are done again for want of one."""
    assert case.runtime is not None, "there is a coordinator"
    job, found = case.runtime.job, {case.runtime.job.copies: known.goodput}
    outcome = known
    for more in range(1, _MORE_COPIES + 1):
        if not job.has_snapshots or not outcome.lost_samples.get(REDONE):
            break
        runtime = replace(case.runtime, job=replace(job, copies=job.copies + more))
        outcome = replay_coordinated(case.trace, runtime, case.own)
        found[runtime.job.copies] = outcome.goodput
    return found


def run(case: Case, name: str) -> Outcome:
    """One of `policies(case)`. Raises: UserError: it is none of them."""
    if name == COORDINATOR and case.runtime is not None:
        return replay_coordinated(case.trace, case.runtime, case.own)
    return replay(case.trace, _policy(case, name), case.even)


def bound(case: Case) -> float | None:
    """The goodput that nobody exceeds who pays Parcae's constants, with pipelines of different depth."""
    if case.migration is None:
        return None
    samples = Hindsight(case.uneven, case.model, ParcaeCosts(case.migration, case.model)).samples(case.trace)
    return samples / run(case, "ideal").samples


def _policy(case: Case, name: str) -> Policy:
    if name not in policies(case):
        raise UserError(f"--policy {name!r}: should be one of {', '.join(policies(case))}")
    match name:
        case "ideal":
            return Ideal(case.even)
        case "on-demand":
            return OnDemand(case.even, round(case.trace.mean_nodes))
        case "holdfast":
            return Holdfast(case.uneven, case.model, case.own)
        case "holdfast-reactive":
            return Holdfast(case.uneven, case.model, case.own, name=name, worth=throughput)
    assert case.migration is not None
    costs = ParcaeCosts(case.migration, case.model)
    setting = Setting(case.even, case.model, costs)
    match name:
        case "checkpoint":
            return Reactive(case.even, case.model, costs)
        case "varuna":
            return Varuna(setting)
        case "bamboo":
            return Bamboo(setting, 2 * case.shallowest)
        case "oobleck":
            return Oobleck(Setting(case.uneven, case.model, costs))
        case "parcae-reactive":
            return ParcaeReactive(case.even, ParcaeMoves(case.model, costs))
        case "parcae-future":
            return ParcaeFuture(case.even, ParcaeMoves(case.model, costs), case.trace)
        case "holdfast-same":
            return Holdfast(case.uneven, case.model, costs, name=name)
        case "holdfast-even":
            return Holdfast(case.even, case.model, costs, name=name)
        case _:
            warm = ParcaeCosts(case.migration, case.model, are_warm=True)
            return Holdfast(case.uneven, case.model, warm, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Of a node for an hour."""

    spot: float
    on_demand: float

    def of(self, outcome: Outcome, trace: Trace) -> float:
        """What the nodes cost that were there, used or not; of on-demand, as many as the trace had on average."""
        if outcome.policy == ON_DEMAND:
            return round(trace.mean_nodes) * trace.duration_s / 3600 * self.on_demand
        return outcome.node_seconds / 3600 * self.spot


def as_json(outcome: Outcome, trace: Trace, prices: Prices | None) -> dict[str, Any]:
    """All figures of one policy; seconds and samples lost by cause."""
    found: dict[str, Any] = {
        "policy": outcome.policy,
        "samples": round(outcome.samples, 1),
        "samples_per_s": round(outcome.samples / outcome.seconds, 4) if outcome.seconds else 0.0,
        "goodput": round(outcome.goodput, 5),
        "stalled_s": _rounded(outcome.stalled_s),
        "lost_samples": _rounded(outcome.lost_samples),
        "generations": outcome.generations,
        "moved_bytes": outcome.moved_bytes,
        "remote_bytes": outcome.remote_bytes,
        "node_hours": round(outcome.node_seconds / 3600, 2),
    }
    if prices is not None:
        money = prices.of(outcome, trace)
        found |= {"money": round(money, 2), "money_per_million_samples": _per_million(money, outcome.samples)}
    return found


def _per_million(money: float, samples: float) -> float | None:
    return round(money / samples * 1e6, 2) if samples else None


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in values.items() if abs(value) >= 0.05}
