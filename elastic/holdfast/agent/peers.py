"""Requests from this agent to others, signed, and their answers, which count only where they are signed too."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from urllib.parse import urlencode

import aiohttp

from holdfast.agent.credentials import PROOF_HEADER, Credentials, Signature
from holdfast.agent.tls import TlsFiles, client_context, server_context
from holdfast.errors import ProtocolError
from holdfast.stores.address import join_endpoint

_ANSWER_BYTES_MAX = 1 << 20
_POLLED_BYTES_MAX = 16 << 20
# At once: who asks after a thousand nodes must not run out of files, nor let them time out in a queue.
_ASKED_AT_ONCE = 64


class Peers:
    """What agents of one job have in common; one an agent."""

    def __init__(self, credentials: Credentials, tls: TlsFiles | None = None) -> None:
        """Raises: UserError: a file of `tls` cannot be used."""
        self.credentials = credentials
        self.server_context: ssl.SSLContext | None = server_context(tls) if tls is not None else None
        self.client_context: ssl.SSLContext | None = client_context(tls) if tls is not None else None
        self._asking = asyncio.Semaphore(_ASKED_AT_ONCE)

    async def fetch(self, host: str, port: int, path: str, timeout_s: float) -> bytes:
        """The body of the answer. `timeout_s` runs from when it is this request's turn.

        Raises:
            ProtocolError: an answer that no agent of this job gave, or a refusal.
            aiohttp.ClientError, OSError, TimeoutError: no answer.
        """
        async with self._asking:
            return await self._fetch(self._url(host, port, path), path, timeout_s, _ANSWER_BYTES_MAX)

    async def poll(self, host: str, port: int, path: str, timeout_s: float) -> bytes:
        """As `fetch`, of an answer that the other may hold back for long: nobody's turn waits for it.

        Raises: as `fetch`.
        """
        return await self._fetch(self._url(host, port, path), path, timeout_s, _POLLED_BYTES_MAX)

    async def _fetch(self, url: str, path: str, timeout_s: float, bytes_max: int) -> bytes:
        signature = self.credentials.sign("GET", path)
        async with self._session(timeout_s) as session, self._get(session, url, signature) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > bytes_max:
                    raise ProtocolError(f"the answer has over {bytes_max} bytes")
            self._verify(response, signature, bytes(body))
            return bytes(body)

    async def hold(
        self,
        host: str,
        port: int,
        path: str,
        params: dict[str, str],
        begin_s: float,
        on_begun: Callable[[asyncio.BaseTransport], None],
    ) -> None:
        """Make a request whose answer has no end, and return when the connection is gone. `begin_s`: how long the
        answer's beginning may take; `on_begun` is then given the connection.

        Raises: as `fetch`.
        """
        target = f"{path}?{urlencode(params)}"
        signature, url = self.credentials.sign("GET", target), self._url(host, port, target)
        async with (
            asyncio.timeout(begin_s) as limit,
            self._session(None) as session,
            self._get(session, url, signature) as response,
        ):
            limit.reschedule(None)
            self._verify(response, signature, b"")
            if response.connection is not None and response.connection.transport is not None:
                on_begun(response.connection.transport)
            async for _ in response.content.iter_any():
                raise ProtocolError("the answer goes on where none should")

    @staticmethod
    def _session(timeout_s: float | None) -> aiohttp.ClientSession:
        # trust_env stays off: a proxy of the environment must not come between agents.
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s), auto_decompress=False)

    def _url(self, host: str, port: int, target: str) -> str:
        scheme = "https" if self.client_context is not None else "http"
        return f"{scheme}://{join_endpoint(host, port)}{target}"

    def _get(
        self, session: aiohttp.ClientSession, url: str, signature: Signature
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return session.get(
            url,
            headers={"Authorization": signature.authorization},
            ssl=self.client_context if self.client_context is not None else True,
            allow_redirects=False,
        )

    def _verify(self, response: aiohttp.ClientResponse, signature: Signature, body: bytes) -> None:
        proof = response.headers.get(PROOF_HEADER, "")
        if response.status != 200 and not proof:
            raise ProtocolError(f"refused with status {response.status}")
        self.credentials.verify_answer(proof, signature.nonce, response.status, body)
        if response.status != 200:
            raise ProtocolError(f"refused with status {response.status}")
