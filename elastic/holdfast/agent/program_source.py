"""The file that a Program is in, found without running it: machines of one job must have the same.

It is a first check that needs no torch; a worker then compares the layers (`worker.main`).
"""

import asyncio
import hashlib
import logging
from importlib.machinery import PathFinder
from pathlib import Path

from holdfast.agent.storage_calls import StorageCalls
from holdfast.agent.versions import check_versions
from holdfast.errors import ProgramError, UserError
from holdfast.model.records import JobRecord
from holdfast.spec import JobSpec
from holdfast_checkpoint.errors import StorageBusyError, StorageError
from holdfast_checkpoint.final import FinalPlace

log = logging.getLogger(__name__)
_LOOK_S, _PAUSE_S = 120.0, 1.0


def source_sha256(entry: str, base: Path) -> str:
    """Of the file that `entry` names, looked for as `load_program` does; "" for a module that is no file.

    Raises:
        ProgramError: it is not there.
    """
    where, _, _ = entry.rpartition(":")
    path = base / where if where.endswith(".py") else _module_file(entry, where, base)
    if path is None:
        return ""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ProgramError(f"program.entry: {entry!r}: {path} cannot be read: {error.strerror}") from error


def check_machine(record: JobRecord) -> None:
    """What a job needs of this machine: its packages and its Program.

    Raises:
        UserError: something is missing or differs.
        VersionError: a package is of another version.
    """
    check_versions(record.versions)
    spec = JobSpec.model_validate(record.spec)
    entry, base = spec.program.entry, Path(record.base)
    found = source_sha256(entry, base)
    if record.source_sha256 and found != record.source_sha256:
        raise ProgramError(
            f"program.entry: {entry!r} in {base} is not the file the job was submitted with (sha256 {found[:12]}, "
            f"should be {record.source_sha256[:12]}); bring the code on all machines to the same version"
        )


async def check_out(record: JobRecord) -> None:
    """Where the final weights go is the same place from here. Storage that does not answer is waited for.

    Raises: UserError: it is another one, or this machine may not read it.
    """
    calls = StorageCalls("look", 2)
    while True:
        try:
            marked = await calls.call(lambda: FinalPlace(record.out).marked(record.id), _LOOK_S)
            break
        except StorageBusyError as error:
            log.warning("out.unavailable", extra={"error": str(error)})
            await asyncio.sleep(_PAUSE_S)
        except StorageError as error:
            raise UserError(f"--out: {error}") from error
    if marked is None:
        raise UserError(
            f"--out {record.out}: has no mark of this job here; mount the folder that `holdfast submit --out` was "
            "given on every machine (elsewhere mounted, give --out), or give the URL and endpoint that it was given"
        )


def _module_file(entry: str, name: str, base: Path) -> Path | None:
    """Found part by part, since the import system would run the packages above it."""
    search: list[str] | None = None
    for number, part in enumerate(name.split(".")):
        found = PathFinder.find_spec(part, [str(base)]) if number == 0 else None
        found = found or PathFinder.find_spec(part, search)
        if found is None:
            raise ProgramError(f"program.entry: {entry!r}: {name!r} is neither installed nor in {base}")
        search = list(found.submodule_search_locations or [])
    origin = found.origin if found is not None else None
    return Path(origin) if origin is not None and origin.endswith(".py") else None
