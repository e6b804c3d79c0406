"""Decoding with a memory: the same bytes are read by every agent of every run."""

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import TypeVar, cast

from holdfast.control.feed import events_of
from holdfast.model.events import Event
from holdfast.model.keys import Keys
from holdfast.model.wire import decode

T = TypeVar("T")


@lru_cache(maxsize=4096)
def _decode(kind: Hashable, data: bytes) -> object:
    assert isinstance(kind, type)
    return decode(kind, data)


def decoded(kind: type[T], data: bytes) -> T:
    record = _decode(cast("Hashable", kind), data)
    assert isinstance(record, kind)
    return record


@lru_cache(maxsize=4096)
def events(keys: Keys, key: str, value: bytes | None) -> Sequence[Event]:
    return tuple(events_of(keys, key, value))
