"""Looks at the copies that an agent holds in RAM from outside, as a cosmic ray would: through its open files."""

import contextlib
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from holdfast_checkpoint.errors import FormatError
from holdfast_checkpoint.header import parse


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldCopy:
    """`path` opens its memory for writing."""

    path: Path
    layer: str
    step: int
    generation: int
    size: int


def copies_of(pid: int) -> list[HeldCopy]:
    """Whole blobs in open memory files of that process."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if not os.readlink(fd).startswith("/memfd:"):
                continue
            header = parse(fd.read_bytes())
        except (OSError, FormatError):  # closed meanwhile, or something else
            continue
        about = header.metadata
        found.append(
            HeldCopy(
                path=fd,
                layer=about["layer"],
                step=int(about["step"]),
                generation=int(about["generation"]),
                size=header.size,
            )
        )
    return found


def all_copied(pids: Collection[int], since: int, layers: int) -> bool:
    """Whether two of these agents hold each of so many layers, of the newest step and that is `since` or later."""
    copies = [copy for pid in pids for copy in copies_of(pid)]
    step = max((copy.step for copy in copies), default=-1)
    held = Counter(copy.layer for copy in copies if copy.step == step)
    return step >= since and len(held) == layers and min(held.values()) >= 2


def flip_byte(copy: HeldCopy) -> None:
    """The last one of its data."""
    with copy.path.open("r+b", buffering=0) as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte ^ 0x40]))


def flip_all(pids: Collection[int]) -> None:
    """A byte of every copy that these agents hold."""
    for pid in pids:
        for copy in copies_of(pid):
            with contextlib.suppress(FileNotFoundError):  # dropped by its agent in this moment
                flip_byte(copy)
