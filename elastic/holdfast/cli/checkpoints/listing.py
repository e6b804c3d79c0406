"""`holdfast ckpt ls`: every checkpoint of a storage, newest last."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.markup import escape

from holdfast.cli.checkpoints.choosing import list_some, open_repository
from holdfast.cli.checkpoints.screen import print_json, print_table, table
from holdfast.cli.checkpoints.texts import age_s, duration_text, moment_text, size_text
from holdfast.cli.exits import EXIT_COMPLETED, EXIT_FAILED
from holdfast_checkpoint.errors import CorruptError, FormatError, NoCheckpointError, UnfinishedError
from holdfast_checkpoint.manifest import Manifest
from holdfast_checkpoint.remote import Found, Repository

# A manifest takes a round trip: worth doing several at a time.
_READERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A folder with its manifest; without one, `problem` says why, unless it just was never committed."""

    found: Found
    manifest: Manifest | None = None
    problem: str | None = None

    @property
    def state(self) -> str:
        if self.problem is not None:
            return "broken"
        return "committed" if self.manifest is not None else "half-written"


def list_checkpoints(url: str, *, as_json: bool) -> int:
    """Print them; the exit code. Raises: CheckpointError."""
    repository = open_repository(url)
    listed, now_s = read_all(repository, list_some(repository)), time.time()
    if as_json:
        print_json({"url": repository.url, "checkpoints": [described(one, now_s) for one in listed]})
    else:
        _print(listed, now_s)
    return EXIT_FAILED if any(one.problem for one in listed) else EXIT_COMPLETED


def read_all(repository: Repository, found: tuple[Found, ...]) -> tuple[Listed, ...]:
    with ThreadPoolExecutor(_READERS, thread_name_prefix="manifests") as pool:
        return tuple(pool.map(partial(_read, repository), found))


def _read(repository: Repository, found: Found) -> Listed:
    if not found.is_committed:
        return Listed(found=found)
    try:
        return Listed(found=found, manifest=repository.read_manifest(found.folder))
    except (NoCheckpointError, UnfinishedError):
        return Listed(found=found)  # it is being deleted, its manifest first
    except (CorruptError, FormatError) as error:
        return Listed(found=found, problem=str(error))


def described(one: Listed, now_s: float) -> dict[str, Any]:
    """As JSON; what only a manifest tells is null without one."""
    manifest = one.manifest
    return {
        "folder": one.found.folder,
        "step": one.found.step,
        "state": one.state,
        "problem": one.problem,
        "job": manifest.job if manifest else None,
        "run": manifest.run if manifest else None,
        "generation": manifest.generation if manifest else None,
        "created": manifest.created if manifest else None,
        "age_s": _age_s(one, now_s),
        "bytes": manifest.size if manifest else None,
        "layers": len(manifest.blobs) if manifest else None,
    }


def _age_s(one: Listed, now_s: float) -> float | None:
    """Since it was committed, or, of one that was not, since something was last written to it."""
    if one.manifest is not None:
        return age_s(one.manifest.created, now_s)
    return now_s - one.found.modified_s if one.found.modified_s is not None else None


def _print(listed: tuple[Listed, ...], now_s: float) -> None:
    shown = table(">step", "state", ">generation", "run", "created (UTC)", ">age", ">size", ">layers", "folder")
    for one in listed:
        manifest, age = one.manifest, _age_s(one, now_s)
        told = ("-", "-", "-", "-", "-")
        if manifest is not None:
            told = (
                str(manifest.generation),
                escape(manifest.run[:8]),
                escape(moment_text(manifest.created)),
                size_text(manifest.size),
                str(len(manifest.blobs)),
            )
        generation, run, created, size, layers = told
        ago = duration_text(age) if age is not None else "-"
        shown.add_row(
            str(one.found.step), one.state, generation, run, created, ago, size, layers, escape(one.found.folder)
        )
    print_table(shown)
    for one in listed:
        if one.problem is not None:
            print(one.problem)
