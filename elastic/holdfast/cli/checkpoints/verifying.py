"""`holdfast ckpt verify`: reads every byte, and names each blob that is not what was written."""

from dataclasses import dataclass
from typing import Any

from holdfast.cli.checkpoints.choosing import Choice, choose, list_some, open_repository
from holdfast.cli.checkpoints.screen import byte_progress, print_json
from holdfast.cli.checkpoints.texts import count_text, size_text
from holdfast.cli.exits import EXIT_COMPLETED, EXIT_FAILED
from holdfast.errors import UserError
from holdfast_checkpoint.errors import CorruptError, FormatError, NoCheckpointError, UnfinishedError
from holdfast_checkpoint.remote import Found, Repository


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`size`: bytes that should be there, 0 if not even the manifest can be read. Sound without `problems`."""

    found: Found
    size: int
    layers: int
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "folder": self.found.folder,
            "step": self.found.step,
            "sound": not self.problems,
            "bytes": self.size,
            "layers": self.layers,
            "problems": list(self.problems),
        }


def verify_checkpoints(choice: Choice, *, everything: bool, as_json: bool) -> int:
    """One of them, or `everything` that was committed; the exit code.

    Raises:
        UserError: everything, and yet one of them.
        CheckpointError: there is none, or the storage does not answer.
    """
    if everything and (choice.step is not None or choice.folder is not None):
        raise UserError(f"--all: given together with {choice.text}; should be one of them")
    repository = open_repository(choice.url)
    found = list_some(repository) if everything else (choose(repository, choice),)
    verdicts = []
    for one in found:
        verdict = _verify(repository, one) if one.is_committed else None
        if verdict is not None:
            verdicts.append(verdict)
            if not as_json:
                _print(verdict)
        elif one.is_committed and not everything:
            raise NoCheckpointError(f"{repository.url}: {one.folder} was deleted while it was read")
    unfinished = [one.folder for one in found if not one.is_committed]
    if as_json:
        told = [verdict.as_json() for verdict in verdicts]
        print_json({"url": repository.url, "checkpoints": told, "half_written": unfinished})
    else:
        for folder in unfinished:
            print(f"{folder}: half-written, never committed: nothing to verify")
    return EXIT_FAILED if any(verdict.problems for verdict in verdicts) else EXIT_COMPLETED


def _verify(repository: Repository, found: Found) -> Verdict | None:
    """None: it was deleted meanwhile, as a job that is running does with old ones; what it lost then is no news."""
    try:
        manifest = repository.read_manifest(found.folder)
        with byte_progress(f"step {found.step}", manifest.size) as read:
            problems = tuple(str(error) for error in repository.verify(found.folder, read))
        if problems:
            repository.read_manifest(found.folder)
    except (NoCheckpointError, UnfinishedError):
        return None
    except (CorruptError, FormatError) as error:
        return Verdict(found=found, size=0, layers=0, problems=(str(error),))
    return Verdict(found=found, size=manifest.size, layers=len(manifest.blobs), problems=problems)


def _print(verdict: Verdict) -> None:
    if not verdict.problems:
        print(
            f"{verdict.found.folder}: sound, {count_text(verdict.layers, 'layer')}, {size_text(verdict.size)}",
            flush=True,
        )
        return
    print(f"{verdict.found.folder}: BROKEN", flush=True)
    for problem in verdict.problems:
        print(f"  {problem}", flush=True)
