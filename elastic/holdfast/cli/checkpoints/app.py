"""The arguments of `holdfast ckpt`; each command's work is in the module that it imports when it is called."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.checkpoints.failures import CheckpointGroup

_EPILOG = (
    "URL is what --checkpoint of a run was: a folder, or file://, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX and whatever "
    "else fsspec knows. Credentials come from the environment or from files, never in the URL.\n\n"
    "[bold]Exit codes[/bold]: 0 done, 1 something is broken, half-written or does not answer, 2 wrong input: no "
    "such checkpoint or bucket, no permission."
)

app = typer.Typer(
    name="ckpt",
    cls=CheckpointGroup,
    help="List, show, verify, compare, export and prune the checkpoints in a storage.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Url = Annotated[str, typer.Argument(metavar="URL", help="Where the checkpoints are.", show_default=False)]
Step = Annotated[int | None, typer.Option(min=0, metavar="N", help="The newest of that step; else the newest of all.")]
Folder = Annotated[str | None, typer.Option(metavar="NAME", help="Exactly that one, as ls names it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


class What(StrEnum):
    """How much of a checkpoint is exported."""

    WEIGHTS = "weights"
    ALL = "all"


@app.command(epilog=_EPILOG)
def ls(url: Url, as_json: Json = False) -> None:
    """List every checkpoint, newest last: committed, half-written or broken."""
    from holdfast.cli.checkpoints.listing import list_checkpoints

    raise typer.Exit(list_checkpoints(url, as_json=as_json))


@app.command(epilog=_EPILOG)
def show(url: Url, step: Step = None, folder: Folder = None, as_json: Json = False) -> None:
    """Show what a checkpoint's manifest says: step, samples, job, model, and its blobs with their digests."""
    from holdfast.cli.checkpoints.choosing import Choice
    from holdfast.cli.checkpoints.showing import show_checkpoint

    show_checkpoint(Choice(url=url, step=step, folder=folder), as_json=as_json)


@app.command(epilog=_EPILOG)
def verify(
    url: Url,
    step: Step = None,
    folder: Folder = None,
    everything: Annotated[bool, typer.Option("--all", help="Every checkpoint that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Read every byte of a checkpoint, and name each blob that is not what was written."""
    from holdfast.cli.checkpoints.choosing import Choice
    from holdfast.cli.checkpoints.verifying import verify_checkpoints

    choice = Choice(url=url, step=step, folder=folder)
    raise typer.Exit(verify_checkpoints(choice, everything=everything, as_json=as_json))


@app.command(epilog=_EPILOG)
def diff(
    urls: Annotated[list[str], typer.Argument(metavar="URL [URL]", help="One storage, or one for each side.")],
    step: Annotated[
        list[int] | None, typer.Option(min=0, metavar="N", help="Twice with one URL; with two, of each or of both.")
    ] = None,
    folder: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Likewise, as ls names it.")] = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if they differ.")] = False,
    as_json: Json = False,
) -> None:
    """Compare two checkpoints: what identifies the model, and tensor by tensor which differ and by how much."""
    from holdfast.cli.checkpoints.diffing import diff_checkpoints, pair_of

    pair = pair_of(urls, step or [], folder or [])
    raise typer.Exit(diff_checkpoints(pair, tells_by_code=exit_code, as_json=as_json))


@app.command(epilog=_EPILOG)
def export(
    url: Url,
    to: Annotated[Path, typer.Option(metavar="FILE", help="FILE.safetensors, or FILE.pt for a torch state dict.")],
    what: Annotated[What, typer.Option(help="The weights alone, or the optimizer's state too.")] = What.WEIGHTS,
    step: Step = None,
    folder: Folder = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint's layers into a single file, every byte verified."""
    from holdfast.cli.checkpoints.choosing import Choice
    from holdfast.cli.checkpoints.exporting import Target, export_checkpoint

    target = Target(path=to, with_optimizer=what is What.ALL, overwrite=overwrite)
    export_checkpoint(Choice(url=url, step=step, folder=folder), target, as_json=as_json)


@app.command(epilog=_EPILOG)
def prune(
    url: Url,
    keep_last: Annotated[int, typer.Option(min=1, metavar="N", help="Keep the newest N.")] = 3,
    keep_every: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Keep also those whose step K divides.")
    ] = None,
    older_than: Annotated[
        str, typer.Option(metavar="TIME", help="Half-written ones go if nothing was written to them for so long.")
    ] = "1d",
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what would go.")] = False,
    verifies: Annotated[
        bool, typer.Option("--verify/--no-verify", help="First read every byte of the newest that stays.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Delete old checkpoints and what interrupted ones left; never the newest sound one.

    Without --yes nothing is deleted: it says what would go.
    """
    from holdfast.cli.checkpoints.pruning import Doing, prune_checkpoints
    from holdfast.cli.checkpoints.texts import parse_duration
    from holdfast_checkpoint.retention import Retention

    retention = Retention(
        keep_last=keep_last, keep_every=keep_every, garbage_age_s=parse_duration(older_than, "--older-than")
    )
    prune_checkpoints(url, retention, Doing(for_good=yes, verifies=verifies, as_json=as_json))
