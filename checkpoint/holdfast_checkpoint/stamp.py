"""The begin of a layer's blob, by which its version can be told without reading the rest.

A worker clears the first bytes before it overwrites a blob, and writes them last. So whoever has the blob open sees
whether it is whole, even if the worker died before it could tell anybody.
"""

import re
from typing import TypeAlias

from holdfast_checkpoint.header import LENGTH

Version: TypeAlias = tuple[int, int]  # step, generation

STAMP_BYTES = 128
METADATA = "__metadata__"
_BEGIN = re.compile(rb'\{"__metadata__":\{"step":"(\d{1,20})","generation":"(\d{1,20})"')


def is_spoilt(start: bytes) -> bool:
    """Whether a blob that begins with `start` is being written, or its writer died."""
    return not any(start[: LENGTH.size])


def version_of(start: bytes) -> Version | None:
    """None: not the begin of a layer's blob, or not as it was written."""
    match = _BEGIN.match(start, LENGTH.size)
    return (int(match[1]), int(match[2])) if match else None
