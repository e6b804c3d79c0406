"""The `holdfast` command. Exit codes:

0    the job is completed (or the command did what it was asked)
1    the job failed: the reason, and the user's traceback where there is one, are printed
2    wrong input: nothing was started
3    the job was stopped before its end; its weights are written
70   a bug of Holdfast's own: its traceback is printed, and to try again would not help
130  killed by a second Ctrl-C
"""

import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from holdfast import __version__
from holdfast.cli.agent_command import app as agent
from holdfast.cli.arguments import SECRETS, Json, Set, Spec, assignments
from holdfast.cli.checkpoints.app import app as checkpoints
from holdfast.cli.ending import tell_end
from holdfast.cli.exits import EXIT_BUG, EXIT_FAILED, EXIT_INPUT, EXIT_KILLED
from holdfast.cli.foresight import app as foresight
from holdfast.cli.keeping import app as keeping
from holdfast.cli.plugins import add_plugins
from holdfast.errors import HoldfastError, UserCodeError, UserError, VersionError

_EXIT_CODES = (
    "[bold]Exit codes[/bold]: 0 completed, 1 the job failed, 2 wrong input and nothing was started, "
    "3 stopped before the end with the weights written, 70 a bug of Holdfast's, 130 killed by a second Ctrl-C."
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
app.add_typer(agent)

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
Profile = Annotated[
    Path | None,
    typer.Option("--profile", metavar="FILE", help="What `holdfast profile` measured, to plan with from the start."),
]
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
    profile: Profile = None,
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
        profile=profile,
        overrides=assignments(set_ or []),
        faults=tuple(fault or []),
    )
    raise typer.Exit(run_job(wish, Options(out=out, overwrite=overwrite, plain=plain, as_json=as_json)))


@app.command()
def validate(spec: Spec, set_: Set = None, as_json: Json = False) -> None:
    """Check a spec and its Program without starting anything, and show the layers."""
    from holdfast.cli.validating import show_program

    show_program(spec, assignments(set_ or []), as_json=as_json)


@app.command(epilog=SECRETS)
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
        str,
        typer.Option(
            metavar="DIR|URL",
            help="For the weights: a folder that every node sees, s3://BUCKET/PREFIX, or '': nowhere.",
        ),
    ],
    job: Annotated[str | None, typer.Option(metavar="NAME", help="The job's name, in place of the spec's.")] = None,
    base: Annotated[
        Path | None, typer.Option(metavar="DIR", help="What paths in the spec start from; by default its folder.")
    ] = None,
    set_: Set = None,
    checkpoint: Checkpoint = None,
    checkpoint_every: CheckpointEvery = None,
    resume: Resume = "auto",
    profile: Profile = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a job of that name that is over.")] = False,
    if_absent: Annotated[
        bool, typer.Option("--if-absent", help="Where there is a job of that name, live or over, leave it as it is.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Show the job to its end, then write its report.")] = False,
    as_json: Json = False,
) -> None:
    """Submit a job to a store; agents that are started for it, now or later, train it."""
    from holdfast.cli.preparing import Wish
    from holdfast.cli.submitting import Submission, submit_job

    if replace and if_absent:
        raise UserError("--replace, --if-absent: give one of them")
    submission = Submission(store=store, out=out, replace=replace, wait=wait, as_json=as_json, if_absent=if_absent)
    wish = Wish(
        spec=spec,
        name=job,
        base=base,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
        profile=profile,
        is_here=False,
        overrides=assignments(set_ or []),
    )
    raise typer.Exit(submit_job(wish, submission))


@app.command(epilog=SECRETS)
def status(out: Out = None, job: Job = None, store: Store = None, as_json: Json = False) -> None:
    """Show how a job stands, or how it ended: DIR of a run, or --job with --store."""
    from holdfast.cli.inspecting import Which, show_status

    show_status(Which(out=out, job=job, store=store), as_json=as_json)


@app.command(epilog=SECRETS)
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


@app.command(epilog=SECRETS)
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


@app.command(epilog=SECRETS)
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


@app.command(epilog=SECRETS)
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
    out: Annotated[str, typer.Argument(metavar="DIR|URL", help="The --out of a submitted job.", show_default=False)],
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the result; by default the job's own, if it is one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Join the final layers that a submitted job left into weights.safetensors and optimizer.safetensors."""
    from holdfast.cli.collecting import collect as collect_layers

    collect_layers(out, to, as_json=as_json)


@app.command(name="store", epilog=SECRETS)
def serve_store(
    address: Annotated[str, typer.Option(metavar="HOST[:PORT]", help="Where to listen.")] = "127.0.0.1",
    as_json: Json = False,
) -> None:
    """Serve a store from memory, for a few machines without etcd. It does not survive its process."""
    from holdfast.cli import serving

    serving.serve_store(address, as_json=as_json)


@app.command(name="read-token", epilog=SECRETS)
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


add_plugins(app)


def main() -> None:
    """Entry point: an error that Holdfast raised is one message, and never a traceback of its own."""
    try:
        app()
    except UserCodeError as error:
        cause = error.__cause__
        told = "".join(traceback.format_exception(cause)) if cause is not None else ""
        _fail(str(error), EXIT_INPUT, before=told)
    except (UserError, VersionError) as error:
        _fail(str(error), EXIT_INPUT)
    except HoldfastError as error:
        _fail(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_KILLED)
    except SystemExit as error:
        if error.code == EXIT_INPUT:  # said already, where a person would look
            tell_end("the command line or an environment variable is wrong; the log says which")
        raise
    except Exception as error:  # a bug of ours, which whoever tries again after a failure is to know from one
        told = "".join(traceback.format_exception(error))
        print(told, end="", file=sys.stderr)
        tell_end(told)
        sys.exit(EXIT_BUG)
    finally:
        # All is written and said: an impatient Ctrl-C must not end in a traceback of the interpreter's shutdown.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _fail(message: str, code: int, *, before: str = "") -> None:
    """`before`: the traceback of the user's code."""
    print(f"{before}holdfast: error: {message}", file=sys.stderr)
    tell_end(f"{message}\n{before}")
    sys.exit(code)


if __name__ == "__main__":
    main()
