"""Between seconds since the epoch and the times that Kubernetes writes."""

from datetime import UTC, datetime


def seconds_of(text: str) -> float:
    """Raises: ValueError: not an RFC 3339 time."""
    return datetime.fromisoformat(text).timestamp()


def text_of(seconds: float) -> str:
    """In UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
