"""`holdfast plan`: the layout that a job would have on so many nodes, one step of it, and what each loss would mean."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from holdfast.chaos.faults import node_name
from holdfast.cli.inspected import Inspected, inspect_program
from holdfast.cli.known_profiles import fingerprint, known_profile, read_profile
from holdfast.cli.profiling import measure, milliseconds, size_text
from holdfast.cli.step_drawing import Timeline, as_text, legend, write_png
from holdfast.errors import NoPlanError, SpecError
from holdfast.model.ids import SlotId
from holdfast.model.plan import Plan
from holdfast.planner.foresight import Foresight, Job, Loss, foresee
from holdfast.planner.profile import Profile
from holdfast.planner.timeline import spans
from holdfast.spec import load_spec

_PLAIN_WIDTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanWish:
    """What `holdfast plan` was asked for; None: as the spec says, or as was measured here."""

    spec: Path
    nodes: int | None
    slots: int | None
    profile: Path | None
    cores: int | None
    png: Path | None
    overrides: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """All that is printed."""

    inspected: Inspected
    job: Job
    profile: Profile
    foresight: Foresight
    timeline: Timeline

    @property
    def plan(self) -> Plan:
        return self.foresight.decision.plan

    @property
    def seconds(self) -> float:
        return self.foresight.step.seconds

    @property
    def samples_per_s(self) -> float:
        return self.inspected.program.global_batch / self.seconds if self.seconds else 0.0


def show_plan(wish: PlanWish, *, as_json: bool) -> None:
    """Print it, and write the PNG.

    Raises:
        UserError: the spec, the Program or the profile is wrong, or nothing fits.
        UserCodeError: the user's code raised.
        JobFailedError: no profile was given, and measuring one failed.
    """
    overrides = dict(wish.overrides) | ({"slots_per_node": wish.slots} if wish.slots is not None else {})
    spec = load_spec(wish.spec, overrides)
    inspected = inspect_program(spec, wish.spec.absolute().parent)
    job = _job(inspected, wish.nodes or spec.nodes.desired or spec.nodes.min, wish.cores)
    profile = read_profile(wish.profile, inspected) if wish.profile is not None else known_profile(inspected)
    if profile is None:
        print("measuring the layers on this machine, once ...", file=sys.stderr)
        profile = measure(inspected)
    try:
        foresight = foresee(job, profile)
    except NoPlanError as error:
        raise SpecError(f"layout: the model does not fit on {len(job.slots)} slots: {error}") from error
    chosen = foresight.decision.plan
    timeline = spans(chosen, profile, job.block_size, canonical=job.canonical, cores=job.cores)
    shown = _Shown(inspected=inspected, job=job, profile=profile, foresight=foresight, timeline=timeline)
    if wish.png is not None:
        write_png(timeline, shown.seconds, _title(shown), wish.png)
    if as_json:
        print(json.dumps(describe(shown), indent=1))
    else:
        _print(shown, Console())


def _job(inspected: Inspected, nodes: int, cores: int | None) -> Job:
    spec = inspected.spec
    return Job(
        slots=tuple(SlotId(node_name(node), index) for node in range(nodes) for index in range(spec.slots_per_node)),
        blocks=inspected.program.blocks(spec.block),
        block_size=spec.block,
        canonical=spec.reduction == "canonical",
        depth=spec.layout.depth,
        memory_per_slot_bytes=spec.layout.memory_per_slot_bytes,
        cores=cores,
    )


def _print(shown: _Shown, console: Console) -> None:
    console.print(_layout_table(shown))
    console.print("\n".join(_lines(shown)), highlight=False, soft_wrap=True)
    console.print(f"\none step, {milliseconds(shown.seconds)} from left to right: {legend()}", soft_wrap=True)
    width = console.width if console.is_terminal else _PLAIN_WIDTH
    for line in as_text(shown.timeline, shown.seconds, width):
        console.print(line, soft_wrap=True)
    console.print(_losses_table(shown))


def _title(shown: _Shown) -> str:
    return f"{shown.inspected.spec.name} on {len(shown.plan.nodes)} nodes: {shown.plan.describe()}"


def _layout_table(shown: _Shown) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=_title(shown))
    for header, right in (("pipeline", 0), ("blocks", 0), ("stage", 0), ("slot", 0), ("layers", 0), ("memory", 1)):
        table.add_column(header, justify="right" if right else "left")
    limit = shown.job.memory_per_slot_bytes
    memory = iter(shown.foresight.memory)
    for number, pipeline in enumerate(shown.plan.pipelines):
        for position, stage in enumerate(pipeline.stages):
            held = size_text(next(memory).total) + (f" of {size_text(limit)}" if limit is not None else "")
            blocks = f"{pipeline.blocks.start}-{pipeline.blocks.stop - 1}"
            first = (str(number), blocks) if position == 0 else ("", "")
            table.add_row(
                *first, str(position), str(stage.slot), _layers(shown, stage.layers.start, stage.layers.stop), held
            )
    return table


def _layers(shown: _Shown, start: int, stop: int) -> str:
    names = [layer.name for layer in shown.profile.layers[start:stop]]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]} ({len(names)})"


def _lines(shown: _Shown) -> Iterator[str]:
    step, decision = shown.foresight.step, shown.foresight.decision
    yield (
        f"a step takes {milliseconds(step.seconds)} ({shown.samples_per_s:.0f} samples/s): pipelines "
        f"{milliseconds(max(step.pipeline_s))}, reduction {milliseconds(step.reduce_s)}, optimizer "
        f"{milliseconds(step.update_s)}; slots wait {step.bubble:.0%} of it"
    )
    if shown.job.cores is not None:
        yield f"all slots share {shown.job.cores} cores of one machine"
    yield f"{decision.copies} copies of each layer on different nodes"
    yield from decision.reasons
    if shown.profile.fingerprint != fingerprint(shown.inspected):
        yield "note: the profile was measured elsewhere: with another device, torch, microbatch or code"


def _losses_table(shown: _Shown) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="if a node is lost")
    for header in ("node", "layout", "step", "to move", "takes", "live copies left"):
        table.add_column(header, justify="left" if header in ("node", "layout") else "right")
    for loss in shown.foresight.losses:
        copies = str(loss.copies_left) if not loss.lost else f"0 of {len(loss.lost)} layers"
        if loss.decision is None or loss.step is None:
            table.add_row(str(loss.node), "waits for a node", "", "", "", copies)
            continue
        cells = (milliseconds(loss.step.seconds), size_text(loss.moved_bytes), milliseconds(loss.move_s), copies)
        table.add_row(str(loss.node), loss.decision.plan.describe(), *cells)
    return table


def describe(shown: _Shown) -> dict[str, Any]:
    """The same as JSON values."""
    foresight = shown.foresight
    memory = iter(foresight.memory)
    return {
        "name": shown.inspected.spec.name,
        "layout": shown.plan.describe(),
        "step_s": foresight.step.seconds,
        "samples_per_s": shown.samples_per_s,
        "bubble": foresight.step.bubble,
        "pipeline_s": list(foresight.step.pipeline_s),
        "reduce_s": foresight.step.reduce_s,
        "update_s": foresight.step.update_s,
        "copies": foresight.decision.copies,
        "idle": [str(slot) for slot in foresight.decision.idle],
        "reasons": list(foresight.decision.reasons),
        "memory_per_slot_bytes": shown.job.memory_per_slot_bytes,
        "measured_here": shown.profile.fingerprint == fingerprint(shown.inspected),
        "pipelines": [
            {
                "blocks": [pipeline.blocks.start, pipeline.blocks.stop],
                "stages": [
                    {
                        "slot": str(stage.slot),
                        "layers": [stage.layers.start, stage.layers.stop],
                        "memory_bytes": (held := next(memory)).total,
                        "memory": asdict(held),
                    }
                    for stage in pipeline.stages
                ],
            }
            for pipeline in shown.plan.pipelines
        ],
        "losses": [_describe_loss(loss) for loss in foresight.losses],
    }


def _describe_loss(loss: Loss) -> dict[str, Any]:
    return {
        "node": str(loss.node),
        "layout": loss.decision.plan.describe() if loss.decision is not None else None,
        "step_s": loss.step.seconds if loss.step is not None else None,
        "moved_bytes": loss.moved_bytes,
        "move_s": loss.move_s,
        "copies_left": loss.copies_left,
        "lost_layers": list(loss.lost),
        "reason": loss.reason,
    }
