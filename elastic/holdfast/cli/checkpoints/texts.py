"""Sizes, ages and moments as people read and write them."""

import re
from datetime import UTC, datetime

from rich.filesize import decimal

from holdfast.errors import UserError

_UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(rf"(\d+(?:\.\d+)?)({'|'.join(_UNITS_S)})")


def size_text(size: int) -> str:
    """In units of 1000 bytes."""
    return decimal(size)


def count_text(count: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def duration_text(seconds: float) -> str:
    """In the largest unit of which there are two or more: `90 s`, `36 h`, `2 d`."""
    seconds = max(0.0, seconds)
    unit = next((unit for unit in reversed(_UNITS_S) if seconds >= 2 * _UNITS_S[unit]), "s")
    return f"{int(seconds // _UNITS_S[unit])} {unit}"


def parse_duration(text: str, option: str) -> float:
    """`90s`, `15min`, `36h` or `7d` in seconds. Raises: UserError: anything else, given for `option`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UserError(f"{option}: {text!r} given; should be a number with a unit, such as 15min, 36h or 7d")
    return float(match[1]) * _UNITS_S[match[2]]


def age_s(created: str, now_s: float) -> float | None:
    """How long ago `created`, an ISO 8601 moment, was; None if it is none."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return None
    return now_s - (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def moment_text(created: str) -> str:
    """To the second, in UTC."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{(moment.astimezone(UTC) if moment.tzinfo else moment):%Y-%m-%d %H:%M:%S}"
