"""The record of the job that an agent was started for, which may not be there yet."""

import json
import logging

import pydantic

from holdfast.agent.versions import Versions, check_versions
from holdfast.errors import CompactedError, ProtocolError, StoreUnavailableError, VersionError
from holdfast.model.keys import Keys
from holdfast.model.records import JobRecord
from holdfast.model.wire import decode
from holdfast.ports.store import Store
from holdfast.spec import JobSpec

log = logging.getLogger(__name__)


async def read_job(store: Store, job: str) -> JobRecord:
    """Wait for the job to be submitted, however long the store is away. A record that cannot be read counts as none:
    who knows the right one puts it back.

    Raises:
        VersionError: it was submitted by another version of Holdfast or PyTorch.
    """
    key = Keys(job=job).one("spec")
    is_told = False
    while True:
        try:
            snapshot = await store.get_prefix(key)
            held = next((kv for kv in snapshot.kvs if kv.key == key), None)
            if held is not None:
                try:
                    return _read(held.value)
                except VersionError:
                    raise
                except ProtocolError as error:
                    log.error("job.malformed", extra={"key": key, "error": str(error)})
            if not is_told:
                log.info("job.awaited")
                is_told = True
            async for changes in store.watch(key, snapshot.revision + 1):
                if any(change.kind == "put" and change.kv.key == key for change in changes):
                    break
        except StoreUnavailableError as error:
            log.warning("store.unavailable", extra={"error": str(error)})
        except CompactedError:
            log.info("job.read_again")


def _read(value: bytes) -> JobRecord:
    """Raises:
    VersionError: of another version, which may be why the rest of it cannot be read.
    ProtocolError: it cannot be read.
    """
    try:
        record = decode(JobRecord, value)
        JobSpec.model_validate(record.spec)
    except (ProtocolError, pydantic.ValidationError) as error:
        check_versions(_versions_in(value))
        if isinstance(error, ProtocolError):
            raise
        raise ProtocolError(f"the job's spec: {error.errors(include_url=False)[0]}") from error
    return record


def _versions_in(value: bytes) -> Versions:
    """What a record tells of versions that is otherwise unknown; nothing, where it does not."""
    try:
        match json.loads(value):
            case {"body": {"versions": [*pairs]}}:
                return tuple((str(package), str(version)) for package, version in pairs)
    except (ValueError, TypeError, RecursionError):
        log.info("job.unversioned")
    return ()
