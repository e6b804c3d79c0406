"""Which replica acts: the one that holds a Lease, renewed as long as it lives.

As in the Kubernetes Go client: a holder's clock is never trusted. Whoever wants the lease watches it unchanged for as
long as it lasts, by his own clock; a holder stops before that, by its own.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from holdfast.errors import UserError
from holdfast_operator.handlers.client import LEASES, Cluster, Object
from holdfast_operator.handlers.errors import ClusterError, ExistsError, LeadershipLostError, NotFoundError, StaleError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSettings:
    """`duration_s` after its last renewal others may take it; `renew_s` before that its holder has stopped."""

    namespace: str
    name: str
    identity: str
    duration_s: float = 15.0
    renew_s: float = 10.0
    retry_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry_s < self.renew_s < self.duration_s:
            raise UserError(
                f"lease: retry {self.retry_s} s, renewal {self.renew_s} s, duration {self.duration_s} s; each should "
                "be less than the next"
            )


class Leadership:
    """One a replica."""

    def __init__(self, cluster: Cluster, settings: LeaseSettings) -> None:
        self._cluster, self._settings = cluster, settings
        self._lease: Object | None = None  # as it was written last
        self._renewed_s: float | None = None  # monotonic, when the last renewal was asked for; None: it is not ours
        self._seen: tuple[Any, float] | None = None  # what it said, and since when, monotonic, it has said so

    @property
    def is_held(self) -> bool:
        """Whether nobody else can hold it, by this replica's clock."""
        return self._renewed_s is not None and time.monotonic() < self._renewed_s + self._settings.renew_s

    async def take(self) -> None:
        """Returns once it is held."""
        while True:
            if await self._try():
                log.info("lease.taken", extra={"identity": self._settings.identity})
                return
            await asyncio.sleep(self._settings.retry_s)

    async def hold(self) -> None:
        """Renews it.

        Raises: LeadershipLostError: it could not be renewed in time, or somebody else has it.
        """
        settings = self._settings
        while self._renewed_s is not None:
            left_s = self._renewed_s + settings.renew_s - time.monotonic()
            try:
                async with asyncio.timeout(left_s):
                    await asyncio.sleep(settings.retry_s)
                    await self._try()
            except TimeoutError:
                break
        self._renewed_s = None
        raise LeadershipLostError(f"lease {settings.namespace}/{settings.name} is lost")

    async def release(self) -> None:
        """Let the next replica have it at once. It was not held, or the API server is away: nothing is done."""
        if not self.is_held or self._lease is None:
            return
        self._renewed_s = None
        spec = {**self._lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            await self._replace({**self._lease, "spec": spec})
            log.info("lease.released")
        except ClusterError as error:
            log.warning("lease.not_released", extra={"error": str(error)})

    async def _try(self) -> bool:
        """Whether it is held now. An API server that is away changes nothing."""
        asked_s = time.monotonic()
        try:
            is_ours = await self._write(asked_s)
        except StaleError:
            is_ours = False  # somebody was quicker
        except ClusterError as error:
            log.warning("lease.failed", extra={"error": str(error)})
            return False
        self._renewed_s = asked_s if is_ours else None
        return is_ours

    async def _write(self, asked_s: float) -> bool:
        settings = self._settings
        try:
            held = await self._cluster.get(LEASES, settings.namespace, settings.name)
        except NotFoundError:
            metadata = {"name": settings.name, "namespace": settings.namespace}
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
            try:
                spec = self._spec({}, is_ours=False)
                self._lease = await self._cluster.create(LEASES, settings.namespace, {**body, "spec": spec})
                return True
            except ExistsError:
                return False
        spec = held.get("spec") or {}
        is_ours = spec.get("holderIdentity") == settings.identity
        if not is_ours and self._is_alive(spec, asked_s):
            return False
        await self._replace({**held, "spec": self._spec(spec, is_ours=is_ours)})
        return True

    def _is_alive(self, spec: Object, now_s: float) -> bool:
        said = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if self._seen is None or self._seen[0] != said:
            self._seen = (said, now_s)
        lasts_s = float(spec.get("leaseDurationSeconds") or 0)
        return bool(spec.get("holderIdentity")) and now_s < self._seen[1] + lasts_s

    async def _replace(self, lease: Object) -> None:
        """Of the version that was read: of two who try, one succeeds."""
        settings = self._settings
        self._lease = await self._cluster.replace(LEASES, settings.namespace, settings.name, lease)

    def _spec(self, before: Object, *, is_ours: bool) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        transitions = int(before.get("leaseTransitions") or 0)
        return {
            "holderIdentity": self._settings.identity,
            "leaseDurationSeconds": round(self._settings.duration_s),
            "acquireTime": before.get("acquireTime") if is_ours else now,
            "renewTime": now,
            "leaseTransitions": transitions if is_ours or not before else transitions + 1,
        }
