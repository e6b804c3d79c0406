"""`holdfast submit`: a job for agents that are started elsewhere."""

import asyncio
import contextlib
import dataclasses
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from holdfast.cli.access import read_access, read_secret
from holdfast.cli.exits import EXIT_COMPLETED
from holdfast.cli.final_place import folder_of, open_place, storage_errors
from holdfast.cli.folder import check_free, logging_to, replacing
from holdfast.cli.following import Follower
from holdfast.cli.launcher import Ending
from holdfast.cli.preparing import Prepared, Wish, prepare
from holdfast.cli.recording import Recording
from holdfast.cli.running import finish, screen
from holdfast.cli.target import Target
from holdfast.errors import StoreUnavailableError, UserError
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import CheckpointRef, CheckpointsRecord, JobRecord
from holdfast.model.wire import encode
from holdfast.ports.store import Compare, Delete, KeyValue, Put, Store
from holdfast.stores.address import parse_store
from holdfast.telemetry.files import RunFiles, RunInfo
from holdfast_checkpoint.final import FinalPlace

# etcd takes 128 operations a transaction unless told otherwise.
_DELETES_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """How to submit."""

    store: str
    out: str  # a folder or a URL; empty: the weights are kept nowhere
    replace: bool
    wait: bool
    as_json: bool
    if_absent: bool = False  # one of that name that is there, live or over, is left as it is

    @property
    def folder(self) -> Path | None:
        return folder_of(self.out) if self.out else None


class _TakenError(UserError):
    """Another submission of that name came first."""


def submit_job(wish: Wish, submission: Submission) -> int:
    """Put the job where agents find it; the exit code.

    Raises:
        UserError: wrong input, or the job exists; nothing was submitted.
        UserCodeError: the user's code raised while its Program was built.
        JobFailedError: the store or the storage does not answer.
    """
    # Out of the environment before the user's code runs in this process.
    access = read_access(read_secret())
    address = parse_store(submission.store)
    folder, url = submission.folder, open_place(submission.out).url if submission.out else ""
    if folder is None and submission.wait:
        raise UserError(f"--wait: writes a report into the job's folder, and --out {submission.out} is none")
    if folder is not None and not submission.if_absent:
        check_free(folder, replace=submission.replace, option="--replace")
    prepared = prepare(wish)
    target = Target(job=prepared.spec.name, address=address, access=access)
    record = dataclasses.replace(prepared.job_record(url), id=uuid.uuid4().hex)
    try:
        asyncio.run(_submit(target, record, prepared.checkpoints, wish, submission))
    except _TakenError:
        if not submission.if_absent:
            raise
        print(json.dumps({"job": target.job, "already": True}) if submission.as_json else f"{target.job} is there")
        return EXIT_COMPLETED
    if submission.wait:
        return _wait(target, prepared, wish, record, submission)
    if submission.as_json:
        told = {"job": target.job, "store": str(target.address), "out": record.out, "id": record.id}
        print(json.dumps(told))
    else:
        where = f"its weights go to {record.out}, for every agent to reach" if record.out else "its weights go nowhere"
        print(f"{target.job} is submitted; {where}. On each machine:")
        print(f"  holdfast agent --job {target.job} --store {target.address} --node NAME --address HOST")
    return EXIT_COMPLETED


async def _submit(
    target: Target,
    record: JobRecord,
    checkpoints: tuple[CheckpointRef, ...],
    wish: Wish,
    submission: Submission,
) -> None:
    keys, folder = target.keys, submission.folder
    async with target.open() as store:
        held = await store.get(keys.one("spec"))
        if held is not None and submission.if_absent:
            raise _TakenError(target.job)
        if held is not None:
            await _check_over(store, keys, target, replace=submission.replace)
        with contextlib.ExitStack() as laid:
            # The place first: an agent that sees the job looks for its mark.
            if folder is not None and not submission.if_absent:
                laid.enter_context(replacing(folder, f"before-{record.id}"))
                RunFiles(folder).begin(_run_info(target, wish))
            if submission.out:
                laid.enter_context(_marking(submission.out, record))
            if not await _put(store, keys, record, checkpoints, held):
                raise _TakenError(f"--job {target.job}: somebody else submitted or changed it just now")


@contextlib.contextmanager
def _marking(out: str, record: JobRecord) -> Iterator[None]:
    """The job's mark, which goes where the block raises, unless that cannot know what it did.

    Raises: UserError, JobFailedError: it cannot be written.
    """
    with storage_errors():
        place = FinalPlace(out)
        place.mark(record.id, encode(record))
    try:
        yield
    except StoreUnavailableError:
        raise  # the job may stand
    except Exception:  # whatever it is, the mark goes before it is told
        with storage_errors():
            place.unmark(record.id)
        raise


def _run_info(target: Target, wish: Wish) -> RunInfo:
    return RunInfo(job=target.job, store=str(target.address), launcher_pid=os.getpid(), spec=str(wish.spec.absolute()))


async def _check_over(store: Store, keys: Keys, target: Target, *, replace: bool) -> None:
    """Raises: UserError: a job of that name is in the way."""
    is_over = await store.get(keys.one("outcome")) is not None
    if not is_over:
        raise UserError(f"name: the job {target.job!r} is there and not over; stop it first, or choose another name")
    if not replace:
        raise UserError(f"name: the job {target.job!r} was there before and is over; submit it anew with --replace")
    left = (await store.get_prefix(keys.claim(NodeId("")))).kvs
    if left:
        names = ", ".join(kv.key.rpartition("/")[2] for kv in left)
        raise UserError(
            f"name: agents of the job {target.job!r} as it was are still there ({names}); wait until they left"
        )


async def _put(
    store: Store, keys: Keys, record: JobRecord, checkpoints: tuple[CheckpointRef, ...], held: KeyValue | None
) -> bool:
    """Write the record; of a job that is over everything goes first, its end last."""
    spec, outcome = keys.one("spec"), keys.one("outcome")
    known = Put(key=keys.one("checkpoints"), value=encode(CheckpointsRecord(committed=checkpoints)))
    puts = [known, Put(key=spec, value=encode(record))]
    if held is None:
        return (await store.transact([Compare(key=spec, exists=False)], puts)).succeeded
    is_same = Compare(key=spec, mod_revision=held.mod_revision)
    stale = [kv.key for kv in (await store.get_prefix(keys.prefix)).kvs if kv.key not in (spec, outcome)]
    for first in range(0, len(stale), _DELETES_AT_ONCE):
        deletes = [Delete(key=key) for key in stale[first : first + _DELETES_AT_ONCE]]
        if not (await store.transact([is_same, Compare(key=outcome, exists=True)], deletes)).succeeded:
            return False
    return (await store.transact([is_same, Compare(key=outcome, exists=True)], [*puts, Delete(key=outcome)])).succeeded


def _wait(target: Target, prepared: Prepared, wish: Wish, record: JobRecord, submission: Submission) -> int:
    """Watch the job to its end; then the report, as after `holdfast run`. Ctrl-C ends the watching, not the job."""
    out = submission.folder
    assert out is not None
    recording = Recording(prepared, wish.spec, out)
    with logging_to(out, target.job), contextlib.closing(recording):
        with screen(recording, plain=False, as_json=submission.as_json) as shown:
            recording.show_on(shown)
            ending = asyncio.run(_follow(target, recording))
        return finish(recording, record.layer_names, ending, out, as_json=submission.as_json, submission=record.id)


async def _follow(target: Target, recording: Recording) -> Ending:
    follower = Follower(target.keys, lambda *_: None, lambda _: None, recording.changed)
    async with target.open() as store:
        following = asyncio.create_task(follower.run(store), name="follow")
        ended = asyncio.create_task(follower.ended.wait(), name="ended")
        done, _ = await asyncio.wait({following, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (following, ended):
            task.cancel()
        if following in done:
            following.result()  # raises what ended it
    assert follower.outcome is not None
    return Ending(outcome=follower.outcome, killed=False)
