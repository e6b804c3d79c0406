"""`holdfast submit` and `collect`: a job for agents that are started elsewhere, and what they leave in its folder."""

import asyncio
import contextlib
import dataclasses
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from holdfast.agent.program_source import marker_path
from holdfast.cli.exits import EXIT_COMPLETED
from holdfast.cli.folder import JOB, check_free, logging_to, replacing
from holdfast.cli.following import Follower
from holdfast.cli.launcher import Ending
from holdfast.cli.preparing import Prepared, Wish, prepare
from holdfast.cli.recording import Recording
from holdfast.cli.running import finish, join, screen
from holdfast.cli.target import Target, named
from holdfast.errors import JobFailedError, UserError
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import CheckpointRef, CheckpointsRecord, JobRecord
from holdfast.model.wire import decode, encode
from holdfast.ports.store import Compare, Delete, KeyValue, Put, Store
from holdfast.telemetry.files import RunFiles, RunInfo

# etcd takes 128 operations a transaction unless told otherwise.
_DELETES_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """How to submit."""

    store: str
    out: Path
    replace: bool
    wait: bool
    as_json: bool


def submit_job(wish: Wish, submission: Submission) -> int:
    """Put the job where agents find it; the exit code.

    Raises:
        UserError: wrong input, or the job exists; nothing was submitted.
        UserCodeError: the user's code raised while its Program was built.
        JobFailedError: the store does not answer.
    """
    check_free(submission.out, replace=submission.replace, option="--replace")
    prepared = prepare(wish)
    target = named(prepared.spec.name, submission.store)
    record = dataclasses.replace(prepared.job_record(submission.out), id=uuid.uuid4().hex)
    asyncio.run(_submit(target, record, prepared.checkpoints, wish, submission))
    if submission.wait:
        return _wait(target, prepared, wish, submission)
    if submission.as_json:
        told = {"job": target.job, "store": str(target.address), "out": record.out, "id": record.id}
        print(json.dumps(told))
    else:
        print(f"{target.job} is submitted; its folder is {record.out}, which every agent must see. On each machine:")
        print(f"  holdfast agent --job {target.job} --store {target.address} --node NAME --address HOST")
    return EXIT_COMPLETED


async def _submit(
    target: Target,
    record: JobRecord,
    checkpoints: tuple[CheckpointRef, ...],
    wish: Wish,
    submission: Submission,
) -> None:
    keys, out = target.keys, submission.out
    async with target.open() as store:
        held = await store.get(keys.one("spec"))
        if held is not None:
            await _check_over(store, keys, target, replace=submission.replace)
        info = RunInfo(
            job=target.job, store=str(target.address), launcher_pid=os.getpid(), spec=str(wish.spec.absolute())
        )
        # The folder first: an agent that sees the job looks for it.
        with replacing(out, f"before-{record.id}"):
            RunFiles(out).begin(info)
            (out / JOB).write_bytes(encode(record))
            marker_path(out).write_text(record.id, encoding="ascii")
            if not await _put(store, keys, record, checkpoints, held):
                raise UserError(f"--job {target.job}: somebody else submitted or changed it just now")


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


def _wait(target: Target, prepared: Prepared, wish: Wish, submission: Submission) -> int:
    """Watch the job to its end; then the report, as after `holdfast run`. Ctrl-C ends the watching, not the job."""
    out = submission.out
    recording = Recording(prepared, wish.spec, out)
    with logging_to(out, target.job), contextlib.closing(recording):
        with screen(recording, plain=False, as_json=submission.as_json) as shown:
            recording.show_on(shown)
            ending = asyncio.run(_follow(target, recording))
        return finish(
            recording, [layer.name for layer in prepared.facts.layers], ending, out, as_json=submission.as_json
        )


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


def collect(out: Path, *, as_json: bool) -> None:
    """Join the final layers that agents left in a submitted job's folder, and print their hashes.

    Raises:
        UserError: no job was submitted with this folder.
        JobFailedError: its layers are not all there.
    """
    try:
        record = decode(JobRecord, (out / JOB).read_bytes())
    except OSError as error:
        raise UserError(f"{out}: there is no {JOB} in this folder; should be the --out of a submitted job") from error
    hashes, trouble = join(out, record.layer_names)
    if hashes is None:
        raise JobFailedError(trouble or "the final weights cannot be joined")
    weights, optimizer = hashes
    if as_json:
        print(json.dumps({"weights_sha256": weights, "optimizer_sha256": optimizer}))
    else:
        print(f"weights   {weights}\noptimizer {optimizer}\nin {out}")
