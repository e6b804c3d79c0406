"""What a generation costs with very many nodes: `python -m holdfast.simulator.scale 100 1000`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.control.job import Job
from holdfast.planner.estimating import uniform_profile
from holdfast.simulator.fleet import Fleet, Traffic

_LAYERS = 96
_LAYER_BYTES = 400_000_000
_HEAD = (
    "nodes  generation  cpu_s  longest_s  events  writes  written_kB  generation_kB  start_kB   messages  delivered_MB"
)


def job_for(nodes: int, slots: int, depth: int) -> Job:
    """A model of 96 layers; twice as many blocks of microbatches as slots, so that every slot can be employed."""
    names = tuple(f"layer-{layer}" for layer in range(_LAYERS))
    return Job(
        steps=1_000_000,
        nodes_min=1,
        nodes_max=None,
        nodes_desired=nodes,
        layer_names=names,
        layer_bytes=(_LAYER_BYTES,) * _LAYERS,
        blocks=2 * nodes * slots,
        block_size=1,
        depth=depth,
        memory_per_slot_bytes=None,
        profile=uniform_profile(names, (_LAYER_BYTES,) * _LAYERS),
        start_s=60.0,
        join_settle_s=1.0,
        start_settle_s=30.0,
        abort_s=5.0,
        probe_s=0.5,
        worker_deaths_per_step=3,
    )


def measure(nodes: int, slots: int, depth: int) -> dict[str, Traffic]:
    """The first start, a loss, a join and a drain; each until its generation runs."""
    fleet = Fleet(job_for(nodes, slots, depth), slots)
    fleet.appear(range(nodes))
    costs = {"start": fleet.measure()}
    fleet.kill(fleet.nodes[nodes // 2])
    costs["loss"] = fleet.measure()
    fleet.appear([nodes])
    costs["join"] = fleet.measure()
    fleet.drain(fleet.nodes[nodes // 3])
    costs["drain"] = fleet.measure()
    return costs


def main(
    nodes: Annotated[list[int], typer.Argument(min=3, help="how many, one measurement each")],
    slots: Annotated[int, typer.Option(min=1, help="a node")] = 1,
    depth: Annotated[int, typer.Option(min=1, help="stages a pipeline")] = 8,
    json_file: Annotated[Path | None, typer.Option("--json", help="write all figures to this file")] = None,
) -> None:
    """One coordinator, no network: CPU seconds, store writes and bytes of each generation."""
    rows: list[dict[str, Any]] = []
    typer.echo(_HEAD)
    for count in nodes:
        for name, traffic in measure(count, slots, depth).items():
            rows.append({"nodes": count, "slots": slots, "change": name} | asdict(traffic))
            typer.echo(
                f"{count:5d}  {name:10s}  {traffic.cpu_s:5.2f}  {traffic.longest_s:9.3f}  {traffic.events:6d}  "
                f"{traffic.writes:6d}  {traffic.bytes_written / 1e3:10.1f}  {traffic.generation_bytes / 1e3:13.1f}  "
                f"{traffic.start_bytes / 1e3:8.1f}  {traffic.messages:9d}  {traffic.bytes_delivered / 1e6:12.1f}"
            )
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
