"""What glibc has to be told before a process starts that makes snapshots.

By itself it lets a copy go past the caches ("non-temporal" stores) only from about three quarters of the shared cache
on, some 100 MB on a server. A snapshot is read by nobody soon: its pieces had better go past them, which saves the
processor from reading what it is about to overwrite, and leaves the caches to training. Elsewhere than on x86, or with
another C library, nothing changes but the time it takes (Intel 64 and IA-32 Optimization Reference Manual, 9.4.1).
"""

from collections.abc import Mapping

_VARIABLE = "GLIBC_TUNABLES"
_THRESHOLD = "glibc.cpu.x86_non_temporal_threshold"
# Copies of so many bytes and more go past the caches.
STREAMED_BYTES = 256 << 10


def with_streamed_copies(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment to start such a process with; a threshold that is set there stays."""
    given = environment.get(_VARIABLE, "")
    if any(tunable.partition("=")[0] == _THRESHOLD for tunable in given.split(":")):
        return dict(environment)
    told = f"{_THRESHOLD}={STREAMED_BYTES:#x}"
    return {**environment, _VARIABLE: f"{given}:{told}" if given else told}
