"""Opens a storage, and finds the checkpoint in it that a command is about."""

from dataclasses import dataclass

from holdfast.cli.checkpoints.failures import wrong_input
from holdfast.cli.checkpoints.screen import warn
from holdfast_checkpoint.errors import NoCheckpointError, UnfinishedError
from holdfast_checkpoint.remote import Found, Repository

# Somebody waits for an answer: shorter than what an agent grants a storage that is away.
_GIVE_UP_S = 20.0
_NAMED_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Of one checkpoint. `folder` as `ls` shows it; with neither, the newest."""

    url: str
    step: int | None = None
    folder: str | None = None

    @property
    def text(self) -> str:
        if self.folder is not None:
            return f"--folder {self.folder}"
        return f"--step {self.step}" if self.step is not None else "the newest"

    def takes(self, found: Found) -> bool:
        return self.folder in {None, found.folder} and self.step in {None, found.step}


def open_repository(url: str) -> Repository:
    """Raises: UserError: nobody can open such a URL here."""
    with wrong_input():
        return Repository(url, give_up_s=_GIVE_UP_S)


def list_some(repository: Repository) -> tuple[Found, ...]:
    """All, oldest first. Raises: NoCheckpointError: not one, not even half of one."""
    listed = repository.list()
    if not listed:
        raise NoCheckpointError(f"{repository.url}: there is no checkpoint there; should be what --checkpoint was")
    return listed


def choose(repository: Repository, choice: Choice) -> Found:
    """The newest committed one that `choice` takes, whether it is sound or not.

    One that is broken is not passed over here: nobody should take an older state for the newest without being told.

    Raises:
        NoCheckpointError: there is none.
        UnfinishedError: there are only half-written ones.
    """
    listed = list_some(repository)
    taken = [found for found in listed if choice.takes(found)]
    committed = [found for found in taken if found.is_committed]
    if committed:
        return _latest(repository, [one for one in committed if one.step == committed[-1].step])
    if taken:
        raise UnfinishedError(
            f"{repository.url}: {taken[-1].folder} is half-written: it was never committed, and there is no other one "
            f"for {choice.text}"
        )
    raise NoCheckpointError(f"{choice.text}: {repository.url} has no such checkpoint; {_what_is_there(listed)}")


def _latest(repository: Repository, found: list[Found]) -> Found:
    """Of several of one step the one that `Repository.newest` takes; of a single one nothing is read."""
    if len(found) == 1:
        return found[0]
    folder, _ = repository.newest(found[0].step, lambda folder, error: warn(f"{folder} is passed over: {error}"))
    return next((one for one in found if one.folder == folder), found[-1])


def _what_is_there(listed: tuple[Found, ...]) -> str:
    steps = sorted({found.step for found in listed if found.is_committed})
    if not steps:
        return "what is there was never committed"
    named = ", ".join(str(step) for step in steps[-_NAMED_MAX:])
    return f"it has step{'s' * (len(steps) != 1)} {'..., ' * (len(steps) > _NAMED_MAX)}{named}"
