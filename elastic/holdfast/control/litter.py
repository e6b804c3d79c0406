"""Keys of generations that are over: which are in the store, and which may go. Told of every key that it shows."""

from holdfast.model.keys import Keys

_KINDS = ("acks", "paces", "start", "suspects")
# The last generation's are kept: who looks late still finds how it went.
_KEPT = 2
# Of one transaction; etcd refuses more than 128 operations.
BATCH_MAX = 100


class Litter:
    """Hears of every change under the job's prefix, from a snapshot on: a new leader finds what the old one left."""

    def __init__(self, keys: Keys) -> None:
        self._prefix = keys.prefix
        self._found: dict[int, set[str]] = {}

    def seen(self, key: str, *, deleted: bool) -> None:
        kind, _, rest = key.removeprefix(self._prefix).partition("/")
        number = rest.partition("/")[0]
        if kind not in _KINDS or not number.isdecimal():
            return
        if not deleted:
            self._found.setdefault(int(number), set()).add(key)
        elif int(number) in self._found:
            self._found[int(number)].discard(key)

    def due(self, current: int) -> tuple[str, ...]:
        """At most BATCH_MAX keys of generations so old that nobody needs them; call again until there are none."""
        due: list[str] = []
        for number in sorted(self._found):
            if number > current - _KEPT:
                break
            due += sorted(self._found[number])[: BATCH_MAX - len(due)]
            if not self._found[number]:
                del self._found[number]
            if len(due) == BATCH_MAX:
                break
        return tuple(due)
