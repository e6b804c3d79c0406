"""`holdfast ckpt prune`: deletes old checkpoints and what interrupted ones left, never the newest sound one."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from holdfast.cli.checkpoints.choosing import list_some, open_repository
from holdfast.cli.checkpoints.listing import Listed, read_all
from holdfast.cli.checkpoints.screen import byte_progress, print_json, warn
from holdfast.cli.checkpoints.texts import size_text
from holdfast_checkpoint.remote import Repository
from holdfast_checkpoint.retention import Retention, being_read, expendable, garbage


@dataclass(frozen=True, slots=True, kw_only=True)
class Doing:
    """`for_good`: delete, instead of only saying what would go. `verifies`: see `_plan`."""

    for_good: bool
    verifies: bool
    as_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What goes and what stays, oldest first; `broken` are among those that stay, or go for their age."""

    going: tuple[Listed, ...]
    staying: tuple[Listed, ...]
    broken: frozenset[str]


def prune_checkpoints(url: str, retention: Retention, doing: Doing) -> None:
    """Raises: CheckpointError."""
    repository = open_repository(url)
    plan = _plan(repository, read_all(repository, list_some(repository)), retention, verifies=doing.verifies)
    if doing.for_good:
        plan = _delete(repository, plan, tells=not doing.as_json)
    if doing.as_json:
        print_json({"url": repository.url, "deleted": doing.for_good} | described(plan))
    else:
        print("\n".join(_lines(plan, for_good=doing.for_good)))


def _delete(repository: Repository, plan: Plan, *, tells: bool) -> Plan:
    """What became of it: one that somebody has begun to restore from since it was made stays."""
    spared = []
    for one in plan.going:
        if being_read([repository.find(one.found.folder)], time.time()):
            warn(f"{one.found.folder} stays: somebody has begun to restore from it")
            spared.append(one)
            continue
        repository.delete(one.found.folder)
        if tells:
            print(f"deleted {_text(one)}", flush=True)
    going = tuple(one for one in plan.going if one not in spared)
    return replace(plan, going=going, staying=(*plan.staying, *spared))


def described(plan: Plan) -> dict[str, Any]:
    """As JSON; `bytes` of a half-written one is null."""

    def told(one: Listed) -> dict[str, Any]:
        state = "broken" if one.found.folder in plan.broken else one.state
        size = one.manifest.size if one.manifest else None
        return {"folder": one.found.folder, "step": one.found.step, "state": state, "bytes": size}

    return {"going": [told(one) for one in plan.going], "staying": [told(one) for one in plan.staying]}


def _plan(repository: Repository, listed: Sequence[Listed], retention: Retention, *, verifies: bool) -> Plan:
    """`verifies`: before anything may go, every byte of the newest that stays is read, and if it is broken the next.

    What a broken checkpoint is kept for, somebody who needs a state to go on from, it cannot do.
    """
    found, run, now_s = [one.found for one in listed], _latest_run(listed), time.time()
    used = being_read(found, now_s) | _newest_of_live_runs(listed, now_s - retention.garbage_age_s)
    broken = {one.found.folder for one in listed if one.found.is_committed and one.manifest is None}
    going = expendable(found, retention, run=run, bad=broken, in_use=used)
    while verifies and going:
        newest = _newest_sound(listed, broken, run)
        if not _is_broken(repository, newest):
            break
        broken.add(newest.found.folder)
        going = expendable(found, retention, run=run, bad=broken, in_use=used)
    gone = {*going, *garbage(found, retention, now_s=now_s, run=run, in_use=used)}
    return Plan(
        going=tuple(one for one in listed if one.found.folder in gone),
        staying=tuple(one for one in listed if one.found.folder not in gone),
        broken=frozenset(broken),
    )


def _latest_run(listed: Sequence[Listed]) -> str | None:
    """The run that wrote last: it may have gone back to a step before those that another run left."""
    manifests = [one.manifest for one in listed if one.manifest is not None]
    return max(manifests, key=lambda manifest: manifest.created).run if manifests else None


def _newest_of_live_runs(listed: Sequence[Listed], since_s: float) -> frozenset[str]:
    """What each run would go on from that has written anything since: it may live."""
    live = {one.found.run for one in listed if one.found.modified_s is not None and one.found.modified_s >= since_s}
    newest = {one.found.run: one for one in listed if one.manifest is not None}  # later ones come later
    return frozenset(one.found.folder for run, one in newest.items() if run in live)


def _newest_sound(listed: Sequence[Listed], broken: set[str], run: str | None) -> Listed:
    """As `expendable` orders them."""
    return max(
        (one for one in listed if one.manifest is not None and one.found.folder not in broken),
        key=lambda one: (one.found.run == run, one.found.step, one.found.generation, one.found.folder),
    )


def _is_broken(repository: Repository, one: Listed) -> bool:
    assert one.manifest is not None
    with byte_progress(f"verifying step {one.found.step}", one.manifest.size) as read:
        problems = repository.verify(one.found.folder, read)
    for problem in problems:
        warn(str(problem))
    return bool(problems)


def _text(one: Listed) -> str:
    told = size_text(one.manifest.size) if one.manifest else one.state
    return f"{one.found.folder} ({told})"


def _lines(plan: Plan, *, for_good: bool) -> list[str]:
    if not plan.going:
        return [f"nothing goes, {len(plan.staying)} stay"]
    freed = size_text(sum(one.manifest.size for one in plan.going if one.manifest))
    if for_good:
        return [f"{len(plan.going)} went, {freed} and what was half-written; {len(plan.staying)} stay"]
    return [
        *(f"would delete {_text(one)}" for one in plan.going),
        f"{len(plan.going)} would go, {freed} and what is half-written, {len(plan.staying)} stay; "
        "nothing is deleted without --yes",
    ]
