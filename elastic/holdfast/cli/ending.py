"""Why a command ended, where a cluster shows it: HOLDFAST_TERMINATION_LOG names the file, as a pod's
terminationMessagePath does."""

import contextlib
import os
from pathlib import Path

TERMINATION_LOG = "HOLDFAST_TERMINATION_LOG"
# What the kubelet takes of a container.
_BYTES_MAX = 4096
_LEFT_OUT = b"\n[...]\n"


def tell_end(text: str) -> None:
    """Of any end but a good one; the last that is told stands. Of a long one the middle is left out."""
    path = os.environ.get(TERMINATION_LOG)
    if not path:
        return
    data = text.strip().encode(errors="replace")
    if len(data) > _BYTES_MAX:
        half = (_BYTES_MAX - len(_LEFT_OUT)) // 2
        data = data[:half] + _LEFT_OUT + data[-half:]
    # It is said on standard error too: that it cannot be written there is no reason to end otherwise.
    with contextlib.suppress(OSError):
        Path(path).write_bytes(data.decode(errors="ignore").encode())
