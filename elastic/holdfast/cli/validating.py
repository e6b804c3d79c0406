"""`holdfast validate`: a spec and its Program, checked and shown as a table of layers."""

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from holdfast.cli.inspected import Inspected, inspect_program
from holdfast.cli.resuming import check_checkpoints_url
from holdfast.spec import load_spec


def show_program(path: Path, overrides: dict[str, Any], *, as_json: bool) -> None:
    """Print what a run of this spec would train.

    Raises:
        UserError: the spec or the Program is wrong.
        UserCodeError: the user's code raised.
    """
    spec = load_spec(path, overrides)
    check_checkpoints_url(spec)
    inspected = inspect_program(spec, path.absolute().parent)
    if as_json:
        print(json.dumps(describe(inspected), indent=2))
        return
    console = Console()
    console.print(_table(inspected))
    facts, program = inspected.facts, inspected.program
    console.print(
        f"{facts.param_count:,} parameters in {len(facts.layers)} layers; a step takes {program.global_batch} of "
        f"{facts.dataset_size:,} samples, in {facts.microbatches} microbatches of {program.microbatch}; "
        f"{spec.steps:,} steps, {spec.reduction} reduction",
        highlight=False,
    )


def describe(inspected: Inspected) -> dict[str, Any]:
    """The same as JSON values; flops are of one microbatch, forward."""
    spec, program, facts = inspected.spec, inspected.program, inspected.facts
    return {
        "name": spec.name,
        "steps": spec.steps,
        "reduction": spec.reduction,
        "global_batch": program.global_batch,
        "microbatch": program.microbatch,
        "microbatches": facts.microbatches,
        "dataset_size": facts.dataset_size,
        "parameters": facts.param_count,
        "layers": [
            {
                "name": layer.name,
                "parameters": layer.param_count,
                "state_bytes": layer.state_bytes,
                "output": str(layer.output),
                "output_bytes": layer.output_bytes,
                "flops": layer.flops,
                "flops_share": share,
            }
            for layer, share in zip(facts.layers, _shares(inspected), strict=True)
        ],
    }


def _table(inspected: Inspected) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=f"{inspected.spec.name}: {inspected.spec.program.entry}")
    for header, justify in (("layer", "left"), ("parameters", "right"), ("output", "left"), ("flops", "right")):
        table.add_column(header, justify="right" if justify == "right" else "left")
    for layer, share in zip(inspected.facts.layers, _shares(inspected), strict=True):
        table.add_row(layer.name, f"{layer.param_count:,}", escape(str(layer.output)), f"{share:.1%}")
    return table


def _shares(inspected: Inspected) -> list[float]:
    total = sum(layer.flops for layer in inspected.facts.layers)
    return [layer.flops / total if total else 0.0 for layer in inspected.facts.layers]
