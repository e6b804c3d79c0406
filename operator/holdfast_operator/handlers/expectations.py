"""What this operator wrote and its caches do not show yet: nobody decides about a job from before its own deeds.

A write's answer carries the version that it made. The API server's versions rise, over all objects of a kind, so a
cache that has come as far as that shows the write, or what became of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast_operator.handlers.cache import Key, version_of
from holdfast_operator.handlers.client import Object, Resource

# A watch that tells nothing for so long is in trouble, and so may be what was thought of its versions.
_PATIENCE_S = 30.0


@dataclass(slots=True)
class Expectations:
    """Times are those of whatever clock is handed in; `shown(job)` is told of each for which all is seen."""

    shown: Callable[[Key], None]
    _reached: dict[Resource, int] = field(default_factory=dict)
    _awaited: dict[Key, dict[Resource, tuple[int, float]]] = field(default_factory=dict)  # version, since when

    def wrote(self, job: Key, resource: Resource, answer: Object, now_s: float) -> None:
        """`answer`: what the API server said to the write."""
        version = version_of(answer)
        if not version.isdigit() or int(version) <= self._reached.get(resource, 0):
            return
        awaited = self._awaited.setdefault(job, {})
        before, _ = awaited.get(resource, (0, 0.0))
        awaited[resource] = (max(before, int(version)), now_s)

    def reached(self, resource: Resource, version: int) -> None:
        """The cache of `resource` shows all up to `version`."""
        self._reached[resource] = max(version, self._reached.get(resource, 0))
        for job, awaited in tuple(self._awaited.items()):
            until = awaited.get(resource)
            if until is not None and until[0] <= version:
                del awaited[resource]
                if not awaited:
                    del self._awaited[job]
                    self.shown(job)

    def wait_s(self, job: Key, now_s: float) -> float:
        """How long at most to wait for what `job` awaits; 0: all of it is seen, or was waited for long enough."""
        awaited = self._awaited.get(job)
        if awaited is None:
            return 0.0
        left_s = max(since_s for _, since_s in awaited.values()) + _PATIENCE_S - now_s
        if left_s <= 0:
            del self._awaited[job]
        return max(0.0, left_s)
