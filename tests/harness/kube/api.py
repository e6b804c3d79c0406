"""What a test and its kubelet ask of an API server: objects as JSON, nothing hidden."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp

from harness.kube.credentials import Access

Object = dict[str, Any]
Change = tuple[Literal["ADDED", "MODIFIED", "DELETED"], Object]
_PAUSE_S = 0.2
_MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"  # of which JSON is a part


class ApiError(Exception):
    """The API server said no; `reason` is its word for it, such as NotFound, Conflict, Invalid or Forbidden."""

    def __init__(self, status: int, told: Mapping[str, Any]) -> None:
        self.status, self.reason = status, str(told.get("reason", ""))
        super().__init__(f"{status} {self.reason}: {told.get('message', told)}")


async def access_of_account(api: "Api", namespace: str, name: str) -> Access:
    """As a pod with this service account has it."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    granted = await api.create(path, {"spec": {}})
    return Access(server=api.access.server, ca=api.access.ca, token=granted["status"]["token"])


class Api:
    """As one user. A path is as in `kubectl get --raw`."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {} if self.access.token is None else {"Authorization": f"Bearer {self.access.token}"}
        connector = aiohttp.TCPConnector(ssl=self.access.ssl_context(), limit=0)
        timeout = aiohttp.ClientTimeout(total=30.0)
        self._session = aiohttp.ClientSession(self.access.server, headers=headers, connector=connector, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open().close()

    async def get(self, path: str, **query: str) -> Object:
        return await self._ask("GET", path, query=query)

    async def find(self, path: str) -> Object | None:
        """None where there is no such object."""
        try:
            return await self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def items(self, path: str, **query: str) -> list[Object]:
        found: list[Object] = (await self.get(path, **query))["items"]
        return found

    async def create(self, path: str, made: Object) -> Object:
        return await self._ask("POST", path, body=made)

    async def replace(self, path: str, made: Object) -> Object:
        return await self._ask("PUT", path, body=made)

    async def patch(self, path: str, change: Object, kind: str = _MERGE, **query: str) -> Object:
        return await self._ask("PATCH", path, body=change, content=kind, query=query)

    async def delete(self, path: str, **options: Any) -> None:
        """`options` are of DeleteOptions; what is not there is deleted."""
        try:
            await self._ask("DELETE", path, body={"kind": "DeleteOptions", "apiVersion": "v1", **options})
        except ApiError as error:
            if error.status != 404:
                raise

    async def watch(self, path: str, **query: str) -> AsyncGenerator[Change, None]:
        """Everything that is and what changes, for ever; an API server that is away is waited for.

        To be closed by whoever breaks off.
        """
        known: dict[str, Object] = {}
        while True:
            try:
                listed = await self.get(path, **query)
                there = {one["metadata"]["uid"]: one for one in listed["items"]}
                for uid in known.keys() - there.keys():
                    yield "DELETED", known.pop(uid)
                for uid, one in there.items():
                    yield ("MODIFIED" if uid in known else "ADDED"), one
                known = there
                version = listed["metadata"]["resourceVersion"]
                async with aclosing(self._follow(path, version, query)) as changes:
                    async for kind, changed in changes:
                        known[changed["metadata"]["uid"]] = changed
                        if kind == "DELETED":
                            del known[changed["metadata"]["uid"]]
                        yield kind, changed
            except (aiohttp.ClientError, TimeoutError, ApiError):
                await asyncio.sleep(_PAUSE_S)

    async def _follow(self, path: str, version: str, query: Mapping[str, str]) -> AsyncGenerator[Change, None]:
        """Until the stream ends, or says that it cannot go on."""
        asked = {**query, "watch": "1", "resourceVersion": version}
        forever = aiohttp.ClientTimeout(total=None)
        async with self._open().get(path, params=asked, timeout=forever, read_bufsize=2**20) as reply:
            async for line in reply.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                yield event["type"], event["object"]

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        content: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Object:
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content}
        async with self._open().request(method, path, data=data, headers=headers, params=query) as reply:
            text = await reply.text()
            told: Object = json.loads(text) if text.startswith("{") else {"message": text}
            if reply.status >= 400:
                raise ApiError(reply.status, told)
            return told

    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use `async with`"
        return self._session
