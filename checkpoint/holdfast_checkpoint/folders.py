"""Names of what lies in a repository: one folder for each checkpoint, one file for each layer, and the manifest."""

import re
from dataclasses import dataclass

MANIFEST = "manifest.json"
READING = "reading"  # written anew by whoever restores from it
_RUN = "[A-Za-z0-9][A-Za-z0-9._-]*"
_FOLDER = re.compile(rf"([0-9]{{10,}})-({_RUN})-([0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One checkpoint as a listing of the storage shows it; nothing of it was read."""

    folder: str
    step: int
    is_committed: bool  # it has a manifest
    modified_s: float | None  # the newest modification known, seconds since the Unix epoch
    read_s: float | None = None  # when somebody last said that it is restored from

    @property
    def run(self) -> str:
        return parts_of(self.folder)[1]

    @property
    def generation(self) -> int:
        return parts_of(self.folder)[2]


def folder_of(step: int, run: str, generation: int) -> str:
    """Folders of one run sort by name as they do by step."""
    if step < 0 or generation < 0 or not re.fullmatch(_RUN, run):
        raise ValueError(
            f"no folder is named for step {step}, run {run!r}, generation {generation}: step and generation start at 0,"
            " a run's name has letters, digits, '.', '_' and '-', and begins with a letter or digit"
        )
    return f"{step:010d}-{run}-{generation}"


def parts_of(folder: str) -> tuple[int, str, int]:
    """(step, run, generation). Raises: ValueError: not a name that `folder_of` makes."""
    match = _FOLDER.fullmatch(folder)
    if match is None:
        raise ValueError(f"{folder!r} does not name a checkpoint; that would be <step>-<run>-<generation>")
    return int(match[1]), match[2], int(match[3])


def is_checkpoint(folder: str) -> bool:
    return _FOLDER.fullmatch(folder) is not None


def blob_path(layer: int) -> str:
    """Relative to the checkpoint's folder."""
    return f"{layer:05d}.safetensors"
