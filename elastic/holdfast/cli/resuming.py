"""From which checkpoint a run goes on, found out before anything starts."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast.errors import JobFailedError, SpecError, UserError
from holdfast.model.records import CheckpointRef, Version
from holdfast.spec import JobSpec
from holdfast_checkpoint.errors import CheckpointError, StorageBusyError, StorageError
from holdfast_checkpoint.manifest import Manifest
from holdfast_checkpoint.remote import Repository

log = logging.getLogger(__name__)
AUTO, NEVER = "auto", "never"
_SHOWN = 8


def parse_resume(text: str) -> str | int:
    """Raises: UserError."""
    if text in (AUTO, NEVER):
        return text
    if text.isdecimal():
        return int(text)
    raise UserError(f"--resume: {text!r} given; should be auto, never, or the step of a checkpoint")


def absolute_url(url: str, base: Path) -> str:
    """A path is meant from `base` on."""
    return url if "://" in url else str((base / url).absolute())


def check_checkpoints_url(spec: JobSpec) -> None:
    """Whether a storage can be opened by the spec's URL; nothing is asked of it. Raises: SpecError: it cannot."""
    if spec.checkpoints.url is not None:
        try:
            Repository(spec.checkpoints.url)
        except StorageError as error:
            raise SpecError(f"checkpoints.url: {error}") from error


def find_checkpoints(spec: JobSpec, identity: Mapping[str, Any], resume: str | int) -> tuple[CheckpointRef, ...]:
    """What this run can start from: the newest checkpoint, or that of the wanted step, and sound ones before it, oldest
    first. Empty where it starts anew.

    Raises:
        SpecError: the storage cannot be used.
        JobFailedError: it does not answer.
        UserError: there is no such checkpoint, or it is of another model, optimizer or batch.
    """
    if spec.checkpoints.url is None:
        if isinstance(resume, int):
            raise UserError(f"--resume: step {resume} wanted, but there is no --checkpoint URL to resume from")
        return ()
    try:
        repository = Repository(spec.checkpoints.url)
        repository.prepare()
        if resume == NEVER:
            return ()
        manifests = _sound(repository)
    except StorageBusyError as error:
        raise JobFailedError(f"checkpoints.url: {error}") from error
    except StorageError as error:
        raise SpecError(f"checkpoints.url: {error}") from error
    # Of the run that wrote last, which may have gone back to an earlier step; clocks of one run may differ.
    wanted = [entry for entry in manifests if resume == AUTO or entry[1].step == resume]
    run = max(wanted, key=lambda entry: entry[1].created)[1].run if wanted else ""
    latest = max(
        (entry for entry in wanted if entry[1].run == run),
        key=lambda entry: (entry[1].generation, entry[1].step),
        default=None,
    )
    if latest is None:
        if resume == AUTO:
            return ()
        steps = ", ".join(str(step) for step in sorted({manifest.step for _, manifest in manifests})) or "none"
        raise UserError(f"--resume: {repository.url} has no checkpoint of step {resume}; there are those of {steps}")
    chosen = latest[1]
    if differing := tuple(differences(chosen.identity, identity)):
        listed = "\n".join(f"  {line}" for line in differing[:_SHOWN])
        more = f"\n  and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise UserError(
            f"--resume: the checkpoint of step {chosen.step} in {repository.url} is of another run:\n{listed}{more}\n"
            "make them the same again, give another --checkpoint URL, or start anew with --resume never"
        )
    if chosen.step > spec.steps:
        raise UserError(
            f"--resume: the checkpoint in {repository.url} is of step {chosen.step}, beyond steps: {spec.steps}"
        )
    before = {
        manifest.step: folder
        for folder, manifest in sorted(manifests, key=lambda entry: entry[1].created)
        if manifest.step < chosen.step and manifest.fingerprint == chosen.fingerprint
    }
    with contextlib.suppress(StorageError):  # one who may not write there reads all the same
        repository.say_reading(latest[0])
    folders = [*sorted(before.items()), (chosen.step, latest[0])]
    return tuple(CheckpointRef(version=Version(step, 0), folder=folder) for step, folder in folders)


def _sound(repository: Repository) -> list[tuple[str, Manifest]]:
    found = []
    for one in repository.list():
        if one.is_committed:
            try:
                found.append((one.folder, repository.read_manifest(one.folder)))
            except StorageError:
                raise
            except CheckpointError as error:
                log.warning("checkpoint.unsound", extra={"folder": one.folder, "error": str(error)})
    return found


def differences(stored: Mapping[str, Any], here: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """One line for each value that is not the same."""
    for name in [*stored, *(name for name in here if name not in stored)]:
        there, now = stored.get(name), here.get(name)
        where = f"{path}{name}"
        if isinstance(there, Mapping) and isinstance(now, Mapping):
            yield from differences(there, now, f"{where}.")
        elif there != now:
            yield f"{where}: {_shown(there)} in the checkpoint, {_shown(now)} now"


def _shown(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
