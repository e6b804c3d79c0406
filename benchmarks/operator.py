"""What the Kubernetes operator costs, and how soon it acts: many jobs made at once, at rest, while they train, and when
pods are lost and hosts get notice.

    python benchmarks/operator.py [--jobs 200] [--steady 60] [--repeats 5] [--json FILE]

The control plane (API server, scheduler, controller manager, etcd), the etcd of the rendezvous and the operator are
real; nodes are hollow, and agents pretended: what kubelets and agents would write is written, and nothing is run. The
limit beside the operator is a client that makes the very same pods, and nothing else.

Needs the programs of a Kubernetes release (KUBEBUILDER_ASSETS, or where kubebuilder puts them); ends with 77 where they
are missing.
"""

import sys

sys.path.insert(0, sys.path.pop(0).rpartition("/")[0])  # in this folder `operator.py` would hide Python's own

import argparse
import asyncio
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import pytest

from benchmarks.harness.operator_cluster import running_cluster
from benchmarks.harness.operator_phases import Bench, limit
from benchmarks.harness.results import machine, progress, tell

NAMESPACE, LIMIT = "bench", "limit"
ROLLOUT_S, DRAIN_S, CORE_SHARE, RSS_BYTES = 60.0, 1.0, 0.05, 200 * 10**6
_PODS_A_NODE = 110
_CANNOT_RUN = 77  # which test runners take for "skipped"


def main() -> None:
    arguments = _arguments()
    # Who is told to end takes what it started with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="holdfast-operator-", ignore_cleanup_errors=True) as folder:
        try:
            found = asyncio.run(_measure(Path(folder), arguments))
        except pytest.skip.Exception as missing:
            print(f"benchmarks/operator.py cannot run here: {missing}", file=sys.stderr)
            sys.exit(_CANNOT_RUN)
    met = goals(found)
    document = {"benchmark": "operator", "machine": facts, "jobs": arguments.jobs, **found, "goals_met": met}
    tell(document, table(document), arguments.json)


def _arguments() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    made.add_argument("--json", metavar="FILE", help="write one JSON document there; '-': on standard output")
    made.add_argument("--jobs", type=int, default=200, help="of 5 pods each")
    made.add_argument("--steady", type=float, default=60.0, help="seconds that each steady state is watched")
    made.add_argument("--repeats", type=int, default=5, help="of what happens to one job")
    return made.parse_args()


async def _measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    jobs, steady_s = arguments.jobs, arguments.steady
    found: dict[str, Any] = {}

    def tell_of(part: str, figures: Mapping[str, Any]) -> None:
        found[part] = dict(figures)
        progress(f"{part}: {found[part]}")

    # One node's pods find room on the others.
    nodes = -(-5 * jobs // _PODS_A_NODE) + 2
    async with running_cluster(folder, nodes) as cluster:
        for namespace in (NAMESPACE, LIMIT):
            await cluster.make_namespace(namespace)
        before = await limit(cluster, LIMIT, jobs)
        async with Bench.begun(cluster, NAMESPACE, jobs) as bench:
            tell_of("rollout", await bench.rollout())
            tell_of("at_rest", await bench.steady(steady_s))
            tell_of("pods_lost", await bench.lose_pods())
            tell_of("host_tainted", await bench.taint_full_host())
            with bench.training():
                tell_of("training", await bench.steady(steady_s))
                tell_of("one_job_tainted", await bench.taint_one_job(arguments.repeats))
            tell_of("memory", bench.memory())
        after = await limit(cluster, LIMIT, jobs)
    limits_s = [before["running_s"], after["running_s"]]
    found["limit"] = {"before": before, "after": after}
    found["rollout_to_limit"] = round(found["rollout"]["running_s"] / (sum(limits_s) / 2), 2)
    return found


def goals(found: Mapping[str, Any]) -> dict[str, bool]:
    return {
        f"all run, and every status says so, within {ROLLOUT_S:.0f} s": found["rollout"]["settled_s"] < ROLLOUT_S,
        f"at rest below {CORE_SHARE:.0%} of a core": found["at_rest"]["core_share"] < CORE_SHARE,
        f"while all train below {CORE_SHARE:.0%} of a core": found["training"]["core_share"] < CORE_SHARE,
        f"never above {RSS_BYTES // 10**6} MB": found["memory"]["most_bytes"] < RSS_BYTES,
        f"from a taint to every drain of a job below {DRAIN_S:.0f} s": found["one_job_tainted"]["most_s"] < DRAIN_S,
    }


def table(document: Mapping[str, Any]) -> list[str]:
    rollout, limits, memory = document["rollout"], document["limit"], document["memory"]
    one, host, lost = (document[name] for name in ("one_job_tainted", "host_tainted", "pods_lost"))
    lines = [
        f"{document['jobs']} jobs of 5 pods at once: accepted after {rollout['accepted_s']:.1f} s, all pods run after "
        f"{rollout['running_s']:.1f} s, every status says so after {rollout['settled_s']:.1f} s",
        f"  the same pods made by a client alone: {limits['before']['running_s']:.1f} s before, "
        f"{limits['after']['running_s']:.1f} s after; operator / limit = {document['rollout_to_limit']:.2f}",
        f"  calls a job: {_calls(rollout)}; {rollout['core_s']:.1f} s of processor",
    ]
    for name, what in (("at_rest", "at rest"), ("training", "while all train")):
        part = document[name]
        lines.append(
            f"{what}: {part['core_share']:.1%} of a core, {part['rss_bytes'] / 1e6:.0f} MB, "
            f"{part['passes_per_s']:.1f} passes a second; calls a second: {_calls(part)}"
        )
    return [
        *lines,
        f"a pod lost: {_calls(lost)}; {lost['settled_s']:.2f} s until {lost['count']} jobs have theirs again",
        f"a host with {host['count']} pods tainted: all drains written after {host['most_s']:.2f} s "
        f"(median {host['median_s']:.2f} s); calls a pod: {_calls(host)}",
        f"the host of one job tainted, while all train: drains after {one['median_s']:.3f} s (median), at most "
        f"{one['most_s']:.3f} s",
        f"memory: {memory['begin_bytes'] / 1e6:.0f} MB without a job, at most {memory['most_bytes'] / 1e6:.0f} MB",
        *(f"  {'met' if met else 'MISSED':<8}{goal}" for goal, met in document["goals_met"].items()),
    ]


def _calls(part: Mapping[str, Any]) -> str:
    return f"{sum(part['calls'].values()):.1f} (" + ", ".join(f"{k} {v:g}" for k, v in part["calls"].items()) + ")"


if __name__ == "__main__":
    main()
