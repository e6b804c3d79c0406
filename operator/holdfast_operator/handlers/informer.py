"""Keeps a cache like the cluster: a list, then a watch from where it ended, for ever.

A watch that ends is taken up from the last version seen, bookmarks included; only where the API server no longer has
that history everything is listed anew, and what changed or is gone meanwhile is told as a watch would have told it.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from holdfast_operator.handlers.cache import Cache, Key, key_of, version_of
from holdfast_operator.handlers.client import Cluster, Object, Resource
from holdfast_operator.handlers.errors import ClusterError, ClusterUnavailableError, ExpiredError
from holdfast_operator.handlers.metrics import OperatorMetrics

log = logging.getLogger(__name__)
T = TypeVar("T")
_PAGE = "500"
# How long a watch lasts; drawn anew each time, so that not all are opened again at once.
_WATCH_S = (240, 480)
# Bookmarks come about once a minute: a connection that is silent for longer is dead.
_SILENCE_S = 150.0
_BRIEF_S = 1.0
_PAUSES = wait_random_exponential(multiplier=0.1, max=10.0)
_PAUSE_MAX_S = 60.0  # however long the API server wants to be left alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is listed and watched. `namespace` "": all of them."""

    resource: Resource
    namespace: str = ""
    selector: str = ""  # of labels
    watch_s: tuple[int, int] = field(default=_WATCH_S)

    def query(self, **more: str) -> dict[str, str]:
        return {**({"labelSelector": self.selector} if self.selector else {}), **more}


def _pause_s(state: RetryCallState) -> float:
    """As long as the API server asks, within reason."""
    error = state.outcome.exception() if state.outcome is not None else None
    after_s = (error.after_s or 0.0) if isinstance(error, ClusterUnavailableError) else 0.0
    return max(_PAUSES(state), min(after_s, _PAUSE_MAX_S))


class Informer(Generic[T]):
    """`see` makes of an object what is kept of it, None where nothing is. `changed(key, before, after)` is told of each
    object that is no longer what it was, once the cache shows it."""

    def __init__(
        self,
        cluster: Cluster,
        wanted: Wanted,
        cache: Cache[T],
        see: Callable[[Object], T | None],
        changed: Callable[[Key, T | None, T | None], None],
        metrics: OperatorMetrics,
    ) -> None:
        self._cluster, self._wanted, self.cache = cluster, wanted, cache
        self._see, self._changed, self._metrics = see, changed, metrics
        self._version = ""  # from which to watch; "": it is to be listed
        self._has_listed = False
        self.synced = asyncio.Event()  # the first list is in the cache
        self.seen: Callable[[int], None] = lambda _: None  # told how far the cache is, after `changed`

    async def run(self) -> None:
        """For ever: an API server that is away is waited for, and so is one that refuses."""
        while True:
            await self._retrying()(self._go_on)

    async def _go_on(self) -> None:
        """Returns when a watch has ended as it should."""
        try:
            if not self._version:
                await self._list()
            begun_s = time.monotonic()
            await self._watch()
            if time.monotonic() < begun_s + _BRIEF_S:
                # Something between here and the API server ends what it should not.
                await asyncio.sleep(random.uniform(_BRIEF_S / 2, _BRIEF_S))
        except ExpiredError as error:
            log.info("informer.expired", extra={"resource": self._wanted.resource.plural, "error": str(error)})
            self._version = ""

    async def _list(self) -> None:
        """The newest there is, so that nothing seen before is ever undone by it."""
        wanted, more = self._wanted, ""
        if self._has_listed:
            self._metrics.listed_again(wanted.resource.plural)
        listed: dict[Key, T] = {}
        while True:
            query = wanted.query(limit=_PAGE, **({"continue": more} if more else {}))
            page = await self._cluster.list_page(wanted.resource, wanted.namespace, query)
            for item in page.items:
                entry = self._entry(item)
                if entry is not None:
                    listed[key_of(item)] = entry
            more = page.more
            if not more:
                break
        for key in self.cache.absent_from(listed):
            self._put(key, None)
        for key, entry in listed.items():
            self._put(key, entry)
        self._has_listed = True
        self._reached(page.resource_version)
        self.synced.set()

    async def _watch(self) -> None:
        wanted = self._wanted
        lasts_s = random.randint(*wanted.watch_s)
        query = wanted.query(resourceVersion=self._version, allowWatchBookmarks="true", timeoutSeconds=str(lasts_s))
        async for event in self._cluster.watch(wanted.resource, wanted.namespace, query, _SILENCE_S):
            kind, item = event.get("type"), event.get("object")
            if not isinstance(item, dict):
                continue
            if kind in {"ADDED", "MODIFIED"}:
                self._put(key_of(item), self._entry(item))
            elif kind == "DELETED":
                self._put(key_of(item), None)
            self._reached(version_of(item))

    def _entry(self, item: Object) -> T | None:
        try:
            return self._see(item)
        except Exception:  # a bug that one object shows; it is not gone because of that, and the others go on
            fields = {"resource": self._wanted.resource.plural, "object": "/".join(key_of(item))}
            log.exception("informer.odd_object", extra=fields)
            return self.cache.get(key_of(item))

    def _put(self, key: Key, entry: T | None) -> None:
        before = self.cache.put(key, entry)
        if before != entry:
            self._metrics.objects.labels(resource=self._wanted.resource.plural).set(len(self.cache))
            self._changed(key, before, entry)

    def _reached(self, version: str) -> None:
        if version:
            self._version = version
            if version.isdigit():
                self.seen(int(version))

    def _retrying(self) -> AsyncRetrying:
        return AsyncRetrying(retry=retry_if_exception_type(ClusterError), wait=_pause_s, before_sleep=self._warn)

    def _warn(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        level = logging.WARNING if isinstance(error, ClusterUnavailableError) else logging.ERROR
        fields = {"resource": self._wanted.resource.plural, "attempt": state.attempt_number, "error": str(error)}
        log.log(level, "informer.failed", extra=fields)
