"""Which checkpoints may be deleted. Pure: what is there, who uses what and the time arrive as arguments.

Kept are the last n, those of every k-th step, whatever is in use, and always the newest good one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from holdfast_checkpoint.folders import Found

# Who restores from one says so at least every tenth of it; the rest is for clocks that differ.
READING_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """`keep_every`: steps that are multiples of it are kept for good; None: none is for its step alone."""

    keep_last: int = 3
    keep_every: int | None = None
    garbage_age_s: float = 3600.0  # an unfinished checkpoint that nobody has touched for this long is given up

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(f"keep_last is {self.keep_last}; at least the last checkpoint is kept: 1 or more")
        if self.keep_every is not None and self.keep_every < 1:
            raise ValueError(f"keep_every is {self.keep_every}; use a number of steps, 1 or more, or leave it out")
        if self.garbage_age_s < 0:
            raise ValueError(f"garbage_age_s is {self.garbage_age_s}; use seconds, 0 or more")


def expendable(
    found: Sequence[Found],
    retention: Retention,
    *,
    run: str | None = None,
    in_use: Collection[str] = (),
    bad: Collection[str] = (),
) -> tuple[str, ...]:
    """Folders of committed checkpoints that may go, oldest first.

    `run` is the one that goes on: its checkpoints count as newer than any other run's, since it may have been resumed
    from an earlier step than theirs. Of its own those of a later generation do, which may have gone back. `bad` are
    known to be of no use: they do not count towards what is kept, and nothing goes for their sake.
    """
    committed = _by_age(found, run)
    good = [one for one in committed if one.folder not in bad]
    if not good:
        return ()
    kept = {one.folder for one in good[-retention.keep_last :]} | set(in_use)
    if retention.keep_every is not None:
        kept |= {one.folder for one in good if one.step % retention.keep_every == 0}
    # A bad one newer than all good ones stays: somebody may still want to look at it, or mend it.
    older = committed[: committed.index(good[-1])]
    return tuple(one.folder for one in older if one.folder not in kept)


def left_to_others(
    found: Sequence[Found], retention: Retention, *, now_s: float, run: str | None = None
) -> frozenset[str]:
    """Folders of other runs than `run` that are not for it to delete: the newest of each, which that run would go on
    from, and all of one that wrote something lately, which may live."""
    kept = set[str]()
    for other in {one.run for one in found} - {run}:
        theirs = [one for one in found if one.run == other]
        written_s = max((one.modified_s for one in theirs if one.modified_s is not None), default=0.0)
        may_live = now_s - written_s < retention.garbage_age_s
        kept |= {one.folder for one in (theirs if may_live else _by_age(theirs, other)[-1:])}
    return frozenset(kept)


def being_read(found: Sequence[Found], now_s: float) -> frozenset[str]:
    """Folders that somebody restores from, or did a while ago."""
    return frozenset(one.folder for one in found if one.read_s is not None and now_s - one.read_s < READING_S)


def garbage(
    found: Sequence[Found],
    retention: Retention,
    *,
    now_s: float,
    run: str | None = None,
    in_use: Collection[str] = (),
) -> tuple[str, ...]:
    """Folders of checkpoints that were begun and never committed, oldest first.

    Only such as are older than a committed one (a newer one may be about to be committed), are not in use, and have
    not been touched for `garbage_age_s`. One whose age the storage does not tell is left alone.
    """
    committed = _by_age(found, run)
    if not committed:
        return ()
    newest = _age(committed[-1], run)
    return tuple(
        one.folder
        for one in sorted(found, key=lambda one: _age(one, run))
        if not one.is_committed
        and one.folder not in in_use
        and _age(one, run) < newest
        and one.modified_s is not None
        and now_s - one.modified_s >= retention.garbage_age_s
    )


def _by_age(found: Sequence[Found], run: str | None) -> list[Found]:
    return sorted((one for one in found if one.is_committed), key=lambda one: _age(one, run))


def _age(one: Found, run: str | None) -> tuple[bool, int, int, int, str]:
    is_own = one.run == run
    return is_own, one.generation if is_own else 0, one.step, one.generation, one.folder
