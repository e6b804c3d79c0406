"""What is known of one kind of object: only what is looked at, found by name or by an index.

An object's key is (namespace, name); of what has no namespace, ("", name).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from holdfast_operator.handlers.client import Object

Key = tuple[str, str]
T = TypeVar("T")


class Cache(Generic[T]):
    """`indexes`: by name, how an object is found other than by its key; None: it is not."""

    def __init__(self, indexes: Mapping[str, Callable[[T], Key | None]] | None = None) -> None:
        self._indexes = dict(indexes or {})
        self._objects: dict[Key, T] = {}
        self._found: dict[str, dict[Key, dict[Key, None]]] = {name: {} for name in self._indexes}

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._objects)

    def get(self, key: Key) -> T | None:
        return self._objects.get(key)

    def find(self, index: str, value: Key) -> tuple[T, ...]:
        """By key."""
        return tuple(self._objects[key] for key in sorted(self._found[index].get(value, ())))

    def put(self, key: Key, new: T | None) -> T | None:
        """`new` None: it is gone. What was there before."""
        old = self._objects.pop(key, None)
        if old is not None:
            self._unfile(key, old)
        if new is not None:
            self._objects[key] = new
            self._file(key, new)
        return old

    def absent_from(self, keys: Collection[Key]) -> Iterable[Key]:
        """Those that are here and not there."""
        return tuple(key for key in self._objects if key not in keys)

    def _file(self, key: Key, entry: T) -> None:
        for name, value_of in self._indexes.items():
            value = value_of(entry)
            if value is not None:
                self._found[name].setdefault(value, {})[key] = None

    def _unfile(self, key: Key, entry: T) -> None:
        for name, value_of in self._indexes.items():
            value = value_of(entry)
            found = self._found[name].get(value) if value is not None else None
            if found is not None and value is not None:
                found.pop(key, None)
                if not found:
                    del self._found[name][value]


def key_of(entry: Object) -> Key:
    """Of an object as the API server sends it."""
    return _of_metadata(entry, "namespace"), _of_metadata(entry, "name")


def version_of(entry: Object) -> str:
    """Its resource version."""
    return _of_metadata(entry, "resourceVersion")


def _of_metadata(entry: Object, name: str) -> str:
    metadata = entry.get("metadata")
    value = metadata.get(name) if isinstance(metadata, dict) else None
    return value if isinstance(value, str) else ""
