"""The layouts that are compared, how Holdfast is brought to each, and where its planner cuts the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.contenders import ProgramSource
from benchmarks.harness.holdfast_run import RunRequest
from benchmarks.harness.processes import BenchmarkError
from holdfast.cli.preparing import Wish, prepare
from holdfast.model.plan import Plan
from holdfast.planner.search import plan
from holdfast.spec import load_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """`pipelines` x `depth`. With one node nothing asks for a second copy, so that its slots can form one pipeline."""

    pipelines: int
    depth: int
    nodes: int
    slots: int

    def __str__(self) -> str:
        return f"{self.pipelines}x{self.depth}"

    @property
    def ranks(self) -> int:
        return self.pipelines * self.depth

    def request(self, spec: Path, reduction: str, overrides: Mapping[str, Any]) -> RunRequest:
        return RunRequest(
            spec=spec,
            nodes=self.nodes,
            slots=self.slots,
            reduction=reduction,
            overrides={**overrides, "layout.depth": self.depth},
        )

    def plan(self, spec: Path, overrides: Mapping[str, Any]) -> Plan:
        """What Holdfast plans for the start of such a run.

        Raises:
            BenchmarkError: another layout than this.
        """
        request = self.request(spec, "allreduce", overrides)
        prepared = prepare(
            Wish(spec=spec, nodes=self.nodes, slots=self.slots, reduction="allreduce", overrides=request.overrides)
        )
        decided = plan(prepared.request(self.nodes)).plan
        if decided.describe() != str(self):
            raise BenchmarkError(f"{self}: Holdfast plans {decided.describe()} instead")
        return decided


LAYOUTS = (
    Layout(pipelines=1, depth=1, nodes=1, slots=1),
    Layout(pipelines=2, depth=1, nodes=2, slots=1),
    Layout(pipelines=1, depth=2, nodes=1, slots=2),
    Layout(pipelines=2, depth=2, nodes=2, slots=2),
)


def program_source(spec: Path, overrides: Mapping[str, Any]) -> ProgramSource:
    """The spec's Program, for a peer."""
    loaded = load_spec(spec, overrides).program
    return ProgramSource(entry=loaded.entry, params=dict(loaded.params), base=spec.absolute().parent)


def check_layout(report: Mapping[str, Any], planned: Plan) -> None:
    """Raises: BenchmarkError: the run did something else than its peer was told."""
    found = [[stage["layers"] for stage in p["stages"]] for p in report["generations"][0]["pipelines"]]
    wanted = [[[stage.layers.start, stage.layers.stop] for stage in p.stages] for p in planned.pipelines]
    if found != wanted:
        raise BenchmarkError(f"Holdfast ran layers {found}, planned were {wanted}")
