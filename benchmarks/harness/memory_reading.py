"""Memory of a process as Linux tells it.

Peaks are told only of all resident memory (VmHWM), which also holds pages of program files that are read as code runs
for the first time. Those only grow, so the peak less what they are at the end is the peak of the process's own pages.
"""

from collections.abc import Mapping
from pathlib import Path

_FIELDS = ("VmHWM", "RssAnon", "RssFile", "RssShmem")


def read_memory(pid: int | str) -> Mapping[str, int]:
    """Bytes by the kernel's names."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in _FIELDS:
            found[name] = int(value.split()[0]) * 1024
    return found


def anonymous_peak_bytes(now: Mapping[str, int], baseline: Mapping[str, int]) -> int:
    """Peak of the process's own pages, until `now`, above those at `baseline`."""
    return now["VmHWM"] - now["RssFile"] - now["RssShmem"] - baseline["RssAnon"]
