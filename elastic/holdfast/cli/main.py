"""The `holdfast` command. Exit codes:

0    the job is completed (or the command did what it was asked)
1    the job failed: the reason, and the user's traceback where there is one, are printed
2    wrong input: nothing was started
3    the job was stopped before its end; its weights are written
130  killed by a second Ctrl-C
"""

import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from holdfast import __version__
from holdfast.cli.arguments import Json, Set, Spec, assignments
from holdfast.cli.checkpoints.app import app as checkpoints
from holdfast.cli.exits import EXIT_FAILED, EXIT_INPUT, EXIT_KILLED
from holdfast.cli.foresight import app as foresight
from holdfast.cli.keeping import app as keeping
from holdfast.errors import HoldfastError, UserCodeError, UserError, VersionError

_EXIT_CODES = (
    "[bold]Exit codes[/bold]: 0 completed, 1 the job failed, 2 wrong input and nothing was started, "
    "3 stopped before the end with the weights written, 130 killed by a second Ctrl-C."
)
_SECRETS = (
    "The job's secret comes from HOLDFAST_SECRET or the file HOLDFAST_SECRET_FILE (mode 0600), etcd's user from "
    "HOLDFAST_STORE_USER with HOLDFAST_STORE_PASSWORD or HOLDFAST_STORE_PASSWORD_FILE, its PEM files from "
    "HOLDFAST_STORE_CA, HOLDFAST_STORE_CERT and HOLDFAST_STORE_KEY."
)

app = typer.Typer(
    name="holdfast",
    help="Elastic, fault-tolerant PyTorch training on nodes that come and go, bit for bit.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(checkpoints)
app.add_typer(foresight)
app.add_typer(keeping)

Out = Annotated[Path | None, typer.Argument(metavar="[DIR]", help="The folder of a run.", show_default=False)]
Job = Annotated[str | None, typer.Option(metavar="NAME", help="Instead of DIR: the job; else HOLDFAST_JOB.")]
Store = Annotated[str | None, typer.Option(metavar="URL", help="The store the job is in; else HOLDFAST_STORE.")]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="URL",
        help="Where checkpoints go: a folder, or s3://BUCKET/PREFIX.",
    ),
]
CheckpointEvery = Annotated[int | None, typer.Option(min=1, metavar="STEPS", help="Steps from one to the next.")]
Resume = Annotated[
    str, typer.Option(metavar="auto|never|STEP", help="auto: from the newest checkpoint in URL, if there is any.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"holdfast {__version__}")
        raise typer.Exit


@app.callback()
def holdfast(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Elastic, fault-tolerant PyTorch training on nodes that come and go, bit for bit."""


@app.command(epilog=_EXIT_CODES)
def run(
    spec: Spec,
    nodes: Annotated[int | None, typer.Option(min=1, help="Nodes to start with; by default as the spec says.")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Worker processes of each node.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps to commit.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for all that the run leaves; runs/NAME-TIME by default.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="A fault, such as 'kill node-2 at step 12'; again for more.", metavar="SENTENCE"),
    ] = None,
    set_: Set = None,
    reduction: Annotated[str | None, typer.Option(help="canonical or allreduce.")] = None,
    checkpoint: Checkpoint = None,
    checkpoint_every: CheckpointEvery = None,
    resume: Resume = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in DIR.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the live view.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON at the end.")] = False,
) -> None:
    """Train on nodes that run on this machine, each an agent with its workers.

    Ctrl-C stops the job at the next step boundary with its weights written; a second one kills it.

    A fault is kill, stop, resume or terminate with NODE, agent NODE or worker NODE/SLOT; drain NODE; or join; and then
    at step N, or after SECONDS.
    """
    from holdfast.cli.preparing import Wish
    from holdfast.cli.running import Options, run_job

    wish = Wish(
        spec=spec,
        nodes=nodes,
        slots=slots,
        steps=steps,
        reduction=reduction,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
        overrides=assignments(set_ or []),
        faults=tuple(fault or []),
    )
    raise typer.Exit(run_job(wish, Options(out=out, overwrite=overwrite, plain=plain, as_json=as_json)))


@app.command()
def validate(spec: Spec, set_: Set = None, as_json: Json = False) -> None:
    """Check a spec and its Program without starting anything, and show the layers."""
    from holdfast.cli.validating import show_program

    show_program(spec, assignments(set_ or []), as_json=as_json)


@app.command(epilog=_SECRETS)
def submit(
    spec: Spec,
    store: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="HOLDFAST_STORE",
            help="etcd://H1:2379,H2:2379/PREFIX, etcds:// over TLS, or embedded://HOST:PORT.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the weights, on a file system that every node sees.")
    ],
    set_: Set = None,
    checkpoint: Checkpoint = None,
    checkpoint_every: CheckpointEvery = None,
    resume: Resume = "auto",
    replace: Annotated[bool, typer.Option("--replace", help="Replace a job of that name that is over.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Show the job to its end, then write its report.")] = False,
    as_json: Json = False,
) -> None:
    """Submit a job to a store; agents that are started for it, now or later, train it."""
    from holdfast.cli.preparing import Wish
    from holdfast.cli.submitting import Submission, submit_job

    submission = Submission(store=store, out=out, replace=replace, wait=wait, as_json=as_json)
    wish = Wish(
        spec=spec,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
        overrides=assignments(set_ or []),
    )
    raise typer.Exit(submit_job(wish, submission))


@app.command(epilog=_SECRETS)
def agent(
    job: Annotated[str, typer.Option(metavar="NAME", envvar="HOLDFAST_JOB", help="The job's name in its spec.")],
    store: Annotated[str, typer.Option(metavar="URL", envvar="HOLDFAST_STORE", help="As for submit.")],
    node: Annotated[str, typer.Option(metavar="ID", envvar="HOLDFAST_NODE", help="This node's name.")],
    address: Annotated[
        str,
        typer.Option(
            metavar="HOST[:PORT]",
            envvar="HOLDFAST_ADDRESS",
            help="At which other nodes reach this one, and what it listens at.",
        ),
    ],
    listen: Annotated[str | None, typer.Option(metavar="HOST", help="Listen there instead, such as 0.0.0.0.")] = None,
    domain: Annotated[
        str | None, typer.Option(envvar="HOLDFAST_DOMAIN", help="Failure domain; the node itself by default.")
    ] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Worker processes; by default as the spec says.")] = None,
    base: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the spec's folder, with the Program, is on this machine.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the job's folder is mounted on this machine.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(envvar="HOLDFAST_TLS_CERT", help="This agent's certificate; TLS between all agents.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar="HOLDFAST_TLS_KEY", help="Its key.")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(envvar="HOLDFAST_TLS_CA", help="Who vouches for the agents' certificates.")
    ] = None,
    ram: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="HOLDFAST_RAM",
            help="On tmpfs: copies in RAM lie there, and a new agent of this node finds them again.",
        ),
    ] = None,
    open_metrics: Annotated[bool, typer.Option("--open-metrics", help="Let anybody read /metrics.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Log lines of JSON.")] = False,
    parent_pid: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Take part in a job with this machine, until the job is over or this node is to leave.

    It waits for a job that is not there yet. SIGTERM or Ctrl-C drains the node: it leaves at a step boundary.
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
            base=base,
            out=out,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_ca=tls_ca,
            ram=ram,
            open_metrics=open_metrics,
            as_json=as_json,
            parent_pid=parent_pid,
        )
    )


@app.command(epilog=_SECRETS)
def status(out: Out = None, job: Job = None, store: Store = None, as_json: Json = False) -> None:
    """Show how a job stands, or how it ended: DIR of a run, or --job with --store."""
    from holdfast.cli.inspecting import Which, show_status

    show_status(Which(out=out, job=job, store=store), as_json=as_json)


@app.command(epilog=_SECRETS)
def drain(
    names: Annotated[list[str], typer.Argument(metavar="[DIR] NODE", help="The node that is to leave.")],
    job: Job = None,
    store: Store = None,
    within: Annotated[
        str | None, typer.Option(metavar="SECONDS", help="Leave by then, come what may; by default what the spec says.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a node of a live job to leave at a step boundary."""
    from holdfast.cli.inspecting import Which, drain_node

    out, node = _folder_and_node(names)
    drain_node(Which(out=out, job=job, store=store), node, within, as_json=as_json)


@app.command(epilog=_SECRETS)
def pardon(
    names: Annotated[list[str], typer.Argument(metavar="[DIR] NODE", help="The node that may come back.")],
    job: Job = None,
    store: Store = None,
    reason: Annotated[str, typer.Option(help="What the log says of it.")] = "holdfast pardon",
    as_json: Json = False,
) -> None:
    """Let a node that was lost too often take part again at once."""
    from holdfast.cli.inspecting import Which, pardon_node

    out, node = _folder_and_node(names)
    pardon_node(Which(out=out, job=job, store=store), node, reason, as_json=as_json)


@app.command(epilog=_SECRETS)
def stop(
    out: Out = None,
    job: Job = None,
    store: Store = None,
    reason: Annotated[str, typer.Option(help="What the report says of it.")] = "holdfast stop",
    wait: Annotated[bool, typer.Option("--wait", help="Return once the job is over.")] = False,
    as_json: Json = False,
) -> None:
    """Ask a live job to end at the next step boundary, with its weights written."""
    from holdfast.cli.inspecting import Which, stop_job

    raise typer.Exit(stop_job(Which(out=out, job=job, store=store), reason, wait=wait, as_json=as_json))


@app.command(epilog=_SECRETS)
def events(
    out: Out = None,
    job: Job = None,
    store: Store = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON an event.")] = False,
) -> None:
    """Print what happened to a job; with --job, what its store still tells of it."""
    from holdfast.cli.inspecting import Which, show_events

    show_events(Which(out=out, job=job, store=store), follow=follow, as_json=as_json)


@app.command()
def collect(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of a submitted job.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Join the final layers in a submitted job's folder into weights.safetensors and optimizer.safetensors."""
    from holdfast.cli.submitting import collect as collect_layers

    collect_layers(out, as_json=as_json)


@app.command(name="store", epilog=_SECRETS)
def serve_store(
    address: Annotated[str, typer.Option(metavar="HOST[:PORT]", help="Where to listen.")] = "127.0.0.1",
    as_json: Json = False,
) -> None:
    """Serve a store from memory, for a few machines without etcd. It does not survive its process."""
    from holdfast.cli import serving

    serving.serve_store(address, as_json=as_json)


@app.command(name="read-token", epilog=_SECRETS)
def read_token(
    job: Annotated[str, typer.Option(metavar="NAME", envvar="HOLDFAST_JOB", help="The job's name.")],
) -> None:
    """Print the bearer token that opens /status and /metrics of a job's agents, and nothing else."""
    from holdfast.cli.serving import print_read_token

    print_read_token(job)


def _folder_and_node(names: list[str]) -> tuple[Path | None, str]:
    if len(names) > 2:
        raise UserError(f"{' '.join(names)}: should be DIR NODE, or NODE with --job and --store")
    return (Path(names[0]) if len(names) == 2 else None), names[-1]


def main() -> None:
    """Entry point: an error that Holdfast raised is one message, and never a traceback of its own."""
    try:
        app()
    except UserCodeError as error:
        cause = error.__cause__
        if cause is not None:
            traceback.print_exception(cause, file=sys.stderr)
        _fail(str(error), EXIT_INPUT)
    except (UserError, VersionError) as error:
        _fail(str(error), EXIT_INPUT)
    except HoldfastError as error:
        _fail(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_KILLED)
    finally:
        # All is written and said: an impatient Ctrl-C must not end in a traceback of the interpreter's shutdown.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _fail(message: str, code: int) -> None:
    print(f"holdfast: error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
