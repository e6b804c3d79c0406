"""Calls to whichever member answers: one deadline a call, failover, login, and repetition where it is safe.

Rule: a call goes out only over a connection that stands, so a write is never repeated unless it certainly did nothing:
no connection was there, or etcd turned it away at the door.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from aetcd import rpc
from grpc.aio import AioRpcError
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from holdfast.errors import StoreUnavailableError
from holdfast.stores.etcd.failures import describe, is_temporary, is_token_stale, is_turned_away, translate
from holdfast.stores.etcd.member import Member, answer_of
from holdfast.stores.etcd.tls import TlsFiles

log = logging.getLogger(__name__)

_CONNECT_S = 1.0
_BACKOFF_MIN_S = 0.02
_BACKOFF_MAX_S = 0.5
# A member without a leader (cut off from the others) refuses rather than keeps us waiting or blind.
_REQUIRE_LEADER = ("hasleader", "true")

Metadata: TypeAlias = tuple[tuple[str, str], ...]
# Sends one request to a member and gives its reply: (member, metadata, seconds it may take).
Ask: TypeAlias = Callable[[Member, Metadata, float], Awaitable[Any]]


class _AgainError(Exception):
    """This attempt came to nothing and may be repeated."""


class Cluster:
    """Build it inside a running event loop. `login` is user and password."""

    def __init__(
        self, addresses: Sequence[str], *, timeout_s: float, tls: TlsFiles | None, login: tuple[str, str] | None
    ) -> None:
        self.where = ",".join(addresses)
        self._timeout_s = timeout_s
        self._members = [Member(address, tls) for address in addresses]
        self._preferred = 0
        self._login = login
        self._token: str | None = None
        self._logging_in = asyncio.Lock()
        self._trouble = "none"
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    async def ask(self, what: str, ask: Ask, *, repeatable: bool, patience_s: float = math.inf) -> Any:
        """The reply to `what` (a name for messages) within the deadline.

        A `repeatable` call is asked of another member after `patience_s`, twice as long each time, and after half of
        the deadline at the latest.

        Raises:
            StoreUnavailableError: none came; if not `repeatable`, whether it took effect is unknown.
            LeaseExpiredError, CompactedError, RequestError, StoreError: etcd said so.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._timeout_s
        asked: Member | None = None

        async def attempt() -> Any:
            nonlocal asked, patience_s
            asked = None
            member, metadata = await self.connected()
            asked = member
            left_s = deadline_s - loop.time()
            # A repeatable call leaves time to try another member.
            is_patient = not repeatable or len(self._members) == 1
            within_s = left_s if is_patient else min(left_s, self._timeout_s / 2, patience_s)
            patience_s *= 2
            return await self._ask_once(what, ask, member, metadata, max(within_s, 0.001), repeatable)

        try:
            async with asyncio.timeout_at(deadline_s):
                return await _retrying()(attempt)
        except TimeoutError as error:
            if asked is not None:
                self.fell_silent(asked)
            raise StoreUnavailableError(
                f"etcd at {self.where} gave no answer to {what} within {self._timeout_s} s "
                f"(last trouble: {self._trouble}); check that it runs and can be reached"
            ) from error

    async def connected(self) -> tuple[Member, Metadata]:
        """A member whose connection stands, and what to send along; tries for ever, member after member.

        Raises:
            StoreUnavailableError: closed meanwhile.
            StoreError: user or password are refused.
        """
        return await _retrying()(self._connect_to_one)

    def left(self, member: Member, error: AioRpcError | ConnectionAbortedError, metadata: Metadata) -> None:
        """A stream of `member` broke: the next to connect shall know better."""
        if isinstance(error, AioRpcError):
            if is_token_stale(error):
                self._forget_token(metadata)
            else:
                self._leave(member, describe(error))

    def fell_silent(self, member: Member) -> None:
        """It took a call and did not answer in time: no other call, and no stream, shall wait for it."""
        self._leave(member, "no answer in time", silent=True)

    def login_again(self, metadata: Metadata) -> bool:
        """Let the next call log in anew; False if there is no login."""
        self._forget_token(metadata)
        return self._login is not None

    def check_open(self) -> None:
        """Raises StoreUnavailableError after `close`."""
        if self._closed:
            raise StoreUnavailableError(f"etcd client of {self.where} was closed; open another")

    async def close(self) -> None:
        """Idempotent. Calls in flight raise StoreUnavailableError."""
        self._closed = True
        await asyncio.gather(*(member.close() for member in self._members))

    async def _ask_once(
        self, what: str, ask: Ask, member: Member, metadata: Metadata, within_s: float, repeatable: bool
    ) -> Any:
        try:
            return await answer_of(ask(member, metadata, within_s))
        except ConnectionAbortedError as error:
            self.check_open()
            if repeatable:
                raise _AgainError from error
            raise StoreUnavailableError(f"etcd at {member.address} broke off {what}: {error}") from error
        except AioRpcError as error:
            self._note(member, metadata, error)
            if is_turned_away(error) or (repeatable and is_temporary(error)):
                raise _AgainError from error
            raise translate(error, what, member.address) from error

    async def _connect_to_one(self) -> tuple[Member, Metadata]:
        """One round over all members."""
        for _ in self._members:
            self.check_open()
            member = self._members[self._preferred]
            trouble = await self._connect(member)
            if trouble is None:
                return member, await self._metadata(member)
            self._leave(member, trouble)
        raise _AgainError

    async def _connect(self, member: Member) -> str | None:
        try:
            trouble: str | None = await answer_of(member.connect(timeout_s=_CONNECT_S))
            return trouble
        except (ConnectionAbortedError, asyncio.InvalidStateError) as error:
            self.check_open()
            return repr(error)

    async def _metadata(self, member: Member) -> Metadata:
        if self._login is None:
            return (_REQUIRE_LEADER,)
        async with self._logging_in:
            token = self._token
            if token is None:
                token = self._token = await self._authenticate(member, *self._login)
        return (_REQUIRE_LEADER, ("token", token))

    async def _authenticate(self, member: Member, user: str, password: str) -> str:
        request = rpc.AuthenticateRequest(name=user, password=password)
        try:
            reply = await answer_of(member.auth.Authenticate(request, timeout=self._timeout_s))
        except ConnectionAbortedError as error:
            self.check_open()
            raise _AgainError from error
        except AioRpcError as error:
            if is_temporary(error):
                self._leave(member, describe(error))
                raise _AgainError from error
            raise translate(error, f"login of user {user!r}", member.address) from error
        log.info("store.logged_in", extra={"store": member.address, "user": user})
        return str(reply.token)

    def _note(self, member: Member, metadata: Metadata, error: AioRpcError) -> None:
        if is_token_stale(error):
            self._forget_token(metadata)
        elif is_temporary(error):
            self._leave(member, describe(error), silent=error.code() is rpc.StatusCode.DEADLINE_EXCEEDED)

    def _forget_token(self, metadata: Metadata) -> None:
        # Another call may have fetched a new one since.
        if ("token", self._token) in metadata:
            self._token = None

    def _leave(self, member: Member, trouble: str, *, silent: bool = False) -> None:
        """Prefer the next member, unless another call has moved on already."""
        self._trouble = f"{member.address}: {trouble}"
        index = self._members.index(member)
        if index == self._preferred:
            self._preferred = (index + 1) % len(self._members)
            log.debug("store.member_left", extra={"store": member.address, "trouble": trouble})
        if silent:
            member.distrust()


def _retrying() -> AsyncRetrying:
    return AsyncRetrying(
        wait=wait_random_exponential(multiplier=_BACKOFF_MIN_S, max=_BACKOFF_MAX_S),
        retry=retry_if_exception_type(_AgainError),
    )
