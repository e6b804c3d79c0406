"""The arguments of the commands that look ahead: what layers cost, which layout a job would have."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.arguments import Json, Set, Spec, assignments

app = typer.Typer()


@app.command()
def profile(
    spec: Spec,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write it there, as JSON.")] = None,
    bandwidth: Annotated[
        str | None, typer.Option(metavar="BYTES", help="A second between nodes, such as 1.2GB; else as measured here.")
    ] = None,
    latency: Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="Likewise, of a message.")] = None,
    set_: Set = None,
    again: Annotated[bool, typer.Option("--again", help="Measure also what was measured before.")] = False,
    as_json: Json = False,
) -> None:
    """Measure what each layer costs on this machine, for `holdfast plan` and `holdfast simulate`."""
    from holdfast.cli.profiling import ProfileWish, make_profile

    wish = ProfileWish(
        spec=spec,
        out=out,
        overrides=assignments(set_ or []),
        bandwidth=bandwidth,
        latency_s=latency,
        again=again,
    )
    make_profile(wish, as_json=as_json)


@app.command(name="plan")
def show_layout(
    spec: Spec,
    nodes: Annotated[int | None, typer.Option(min=1, help="Nodes; by default as the spec says.")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Worker processes of each node.")] = None,
    profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of `holdfast profile`; else measured here, once.")
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="All slots share so many cores of one machine, as in `holdfast run`.")
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw one step there.")] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Show the layout a job would have: memory, one step's time and timeline, and what each loss would mean."""
    from holdfast.cli.planning import PlanWish, show_plan

    wish = PlanWish(
        spec=spec,
        nodes=nodes,
        slots=slots,
        profile=profile,
        cores=cores,
        png=png,
        overrides=assignments(set_ or []),
    )
    show_plan(wish, as_json=as_json)


@app.command()
def simulate(
    spec: Spec,
    trace: Annotated[Path, typer.Option(metavar="FILE", help="A preemption trace, ours, Bamboo's or Parcae's.")],
    policy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Replay this policy; again for more; by default all.")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of `holdfast profile`; else measured here, once.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measured throughput instead of the Program's profile.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Which model of the table; else its first.")] = None,
    notice: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="How long before they go nodes are told so.")
    ] = None,
    price_spot: Annotated[float | None, typer.Option(min=0, metavar="X", help="Of a node for an hour.")] = None,
    price_ondemand: Annotated[float | None, typer.Option(min=0, metavar="Y", help="Of a node of one's own.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw nodes, throughput and events there.")] = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Replay a preemption trace: what the job would commit, lose and cost, with Holdfast and with others."""
    from holdfast.cli.simulating import SimulateWish
    from holdfast.cli.simulating import simulate as replay

    wish = SimulateWish(
        spec=spec,
        trace=trace,
        policies=tuple(policy or ()),
        profile=profile,
        table=table,
        model=model,
        notice_s=notice,
        price_spot=price_spot,
        price_ondemand=price_ondemand,
        png=png,
        overrides=assignments(set_ or []),
    )
    replay(wish, as_json=as_json)
