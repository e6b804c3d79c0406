"""Which job a command is about: a run's folder, or a job's name and the store it is in."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.cli.access import read_access, read_private, read_secret
from holdfast.cli.folder import secret_path
from holdfast.errors import JobFailedError, StoreError, StoreUnavailableError, UserError
from holdfast.model.keys import Keys
from holdfast.ports.store import Store
from holdfast.stores.address import StoreAccess, StoreAddress, open_store, parse_store
from holdfast.telemetry.files import RunFiles, RunInfo

_STORE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A job that can be reached."""

    job: str
    address: StoreAddress
    access: StoreAccess = field(repr=False)

    @property
    def keys(self) -> Keys:
        return Keys(job=self.job)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        """Its store.

        Raises:
            JobFailedError: the store does not answer, or refuses.
        """
        store = open_store(self.address, self.access, timeout_s=_STORE_S)
        try:
            yield store
        except StoreUnavailableError as error:
            raise JobFailedError(f"the store of {self.job} at {self.address} does not answer: {error}") from error
        except StoreError as error:
            raise JobFailedError(f"the store of {self.job} at {self.address} refuses: {error}") from error
        finally:
            await store.close()


def choose(out: Path | None, job: str | None, store: str | None) -> Path | Target:
    """The folder of a run where one is given, else the job named by arguments or the environment.

    Raises:
        UserError: neither or both are given, or they cannot be used.
    """
    if out is not None:
        if job is not None or store is not None:
            raise UserError(f"{out}: give the folder of a run, or --job with --store, not both")
        return out
    name, address = job or os.environ.get("HOLDFAST_JOB"), store or os.environ.get("HOLDFAST_STORE")
    if not name or not address:
        missing = "--job (or HOLDFAST_JOB)" if not name else "--store (or HOLDFAST_STORE)"
        raise UserError(f"{missing}: missing; give the folder of a run, or --job with --store")
    return named(name, address)


def named(job: str, store: str) -> Target:
    """Raises: UserError: the store's address or what opens it is wrong."""
    address = parse_store(store)
    return Target(job=job, address=address, access=read_access(read_secret()))


def of_folder(out: Path) -> Target:
    """The job of a run that goes on in `out`.

    Raises:
        UserError: there is no run, or it is over.
    """
    info = run_info(out)
    if RunFiles(out).read_report() is not None:
        raise UserError(f"{out}: the run is over; nobody is left to tell")
    if secret_path(out).exists():
        access = StoreAccess(secret=read_private(secret_path(out), "the run's secret"))
    else:
        access = read_access(read_secret())
    return Target(job=info.job, address=parse_store(info.store), access=access)


def reach(out: Path | None, job: str | None, store: str | None) -> Target:
    """`choose`, where only a job that goes on will do."""
    chosen = choose(out, job, store)
    return chosen if isinstance(chosen, Target) else of_folder(chosen)


def run_info(out: Path) -> RunInfo:
    """Raises: UserError: no run is in this folder."""
    info = RunFiles(out).read_run()
    if info is None:
        raise UserError(f"{out}: there is no run in this folder (no run.json); should be the --out of a run")
    return info
