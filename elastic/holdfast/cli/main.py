"""The `holdfast` command. Exit codes:

0    the job is completed (or the command did what it was asked)
1    the job failed: the reason, and the user's traceback where there is one, are printed
2    wrong input: nothing was started
3    the job was stopped before its end; its weights are written
130  killed by a second Ctrl-C
"""

import json
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast import __version__
from holdfast.cli.exits import EXIT_FAILED, EXIT_INPUT, EXIT_KILLED
from holdfast.errors import HoldfastError, UserCodeError, UserError

_EXIT_CODES = (
    "[bold]Exit codes[/bold]: 0 completed, 1 the job failed, 2 wrong input and nothing was started, "
    "3 stopped before the end with the weights written, 130 killed by a second Ctrl-C."
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

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="The job spec, a YAML file.", show_default=False)]
Out = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run.", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Set a field of the spec, such as program.params.width=128."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


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
        overrides=_assignments(set_ or []),
        faults=tuple(fault or []),
    )
    raise typer.Exit(run_job(wish, Options(out=out, overwrite=overwrite, plain=plain, as_json=as_json)))


@app.command()
def validate(spec: Spec, set_: Set = None, as_json: Json = False) -> None:
    """Check a spec and its Program without starting anything, and show the layers."""
    from holdfast.cli.validating import show_program

    show_program(spec, _assignments(set_ or []), as_json=as_json)


@app.command()
def status(out: Out, as_json: Json = False) -> None:
    """Show how a run stands, or how it ended."""
    from holdfast.cli.inspecting import show_status

    show_status(out, as_json=as_json)


@app.command()
def drain(
    out: Out,
    node: Annotated[str, typer.Argument(help="The node that is to leave.", show_default=False)],
    within: Annotated[
        str | None, typer.Option(metavar="SECONDS", help="Leave by then, come what may; by default what the spec says.")
    ] = None,
) -> None:
    """Ask a node of a live run to leave at a step boundary."""
    from holdfast.cli.inspecting import drain_node

    drain_node(out, node, within)


def _assignments(texts: list[str]) -> dict[str, Any]:
    """`path=value`, the value read as JSON where it is that, else as YAML (so `3e-4` is a number and `8GiB` text)."""
    import yaml

    chosen: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not path or not all(path.split(".")):
            raise UserError(f"--set {text!r}: should be PATH=VALUE, such as --set program.params.width=128")
        try:
            chosen[path] = json.loads(value)
        except ValueError:
            try:
                chosen[path] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise UserError(f"--set {text!r}: the value is neither JSON nor YAML: {error}") from error
    return chosen


def main() -> None:
    """Entry point: an error that Holdfast raised is one message, and never a traceback of its own."""
    try:
        app()
    except UserCodeError as error:
        cause = error.__cause__
        if cause is not None:
            traceback.print_exception(cause, file=sys.stderr)
        _fail(str(error), EXIT_INPUT)
    except UserError as error:
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
