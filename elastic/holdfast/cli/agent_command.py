"""`holdfast agent`: its options, each of which has a variable of the environment, so that a pod needs no arguments."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.arguments import SECRETS, Address, LogJson, StoreUrl, TlsAuthority, TlsCertificate, TlsKey

app = typer.Typer()
_EPILOG = (
    f"{SECRETS} HOLDFAST_LOG=json is --json; to the file HOLDFAST_TERMINATION_LOG goes why it ended, unless well. "
    "[bold]Exit codes[/bold]: 0 the node left or the job is over, 1 it failed and may be started again, 2 wrong input."
)


@app.command(epilog=_EPILOG)
def agent(
    job: Annotated[str, typer.Option(metavar="NAME", envvar="HOLDFAST_JOB", help="The job's name in its spec.")],
    store: StoreUrl,
    node: Annotated[str, typer.Option(metavar="ID", envvar="HOLDFAST_NODE", help="This node's name.")],
    address: Address,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST", envvar="HOLDFAST_LISTEN", help="Listen there instead, such as 0.0.0.0."),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(envvar="HOLDFAST_DOMAIN", help="Failure domain; the node itself by default.")
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(min=1, envvar="HOLDFAST_SLOTS", help="Worker processes; by default as the spec says."),
    ] = None,
    submit: Annotated[
        Path | None,
        typer.Option(
            metavar="SPEC",
            envvar="HOLDFAST_SUBMIT",
            help="Where the store has no such job, submit this one under the job's name.",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="HOLDFAST_BASE",
            help="Where the spec's folder, with the Program, is on this machine; with --submit, what its paths start "
            "from, by default the present folder.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|URL",
            envvar="HOLDFAST_OUT",
            help="Where the job's folder is mounted on this machine; with --submit, where the weights go, by default "
            "nowhere.",
        ),
    ] = None,
    tls_cert: TlsCertificate = None,
    tls_key: TlsKey = None,
    tls_ca: TlsAuthority = None,
    ram: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="HOLDFAST_RAM",
            help="On tmpfs: copies in RAM lie there, and a new agent of this node finds them again.",
        ),
    ] = None,
    health: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            envvar="HOLDFAST_HEALTH",
            help="Answer /livez and /readyz there, to anybody and over plain HTTP.",
        ),
    ] = None,
    open_metrics: Annotated[
        bool, typer.Option("--open-metrics", envvar="HOLDFAST_OPEN_METRICS", help="Let anybody read /metrics.")
    ] = False,
    as_json: LogJson = False,
    zygote: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Take part in a job with this machine, until the job is over or this node is to leave.

    It waits for a job that is not there yet, or submits it. SIGTERM or Ctrl-C drains the node: it leaves at a step
    boundary.
    """
    from holdfast.cli.serving import AgentArguments, serve_agent

    serve_agent(
        AgentArguments(
            job=job,
            store=store,
            node=node,
            address=address,
            listen=listen,
            domain=domain,
            slots=slots,
            submit=submit,
            base=base,
            out=out,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_ca=tls_ca,
            ram=ram,
            health=health,
            open_metrics=open_metrics,
            as_json=as_json,
            zygote=zygote,
        )
    )
