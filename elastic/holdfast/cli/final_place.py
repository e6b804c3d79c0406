"""Where a submitted job leaves its final weights, as the command line names it: a folder, or a URL."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from holdfast.errors import JobFailedError, UserError
from holdfast_checkpoint.errors import StorageBusyError, StorageError
from holdfast_checkpoint.final import FinalPlace


def folder_of(out: str) -> Path | None:
    """None: it is a URL of some other kind."""
    if "://" not in out:
        return Path(out)
    protocol, _, path = out.partition("://")
    return Path(path) if protocol in ("file", "local") else None


def open_place(out: str) -> FinalPlace:
    """Raises: UserError: nobody can open it."""
    with storage_errors():
        return FinalPlace(out)


@contextlib.contextmanager
def storage_errors(option: str = "--out") -> Iterator[None]:
    """Raises:
    UserError: what the storage refuses until somebody mends something.
    JobFailedError: it does not answer.
    """
    try:
        yield
    except StorageBusyError as error:
        raise JobFailedError(f"{option}: {error}") from error
    except StorageError as error:
        raise UserError(f"{option}: {error}") from error
