"""What an operator of etcd does and a store does not: compaction, users, keys as they really stand."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from aetcd import rpc

_WITHIN_S = 10.0


@asynccontextmanager
async def operating(endpoint: tuple[str, int]) -> AsyncIterator[Any]:
    """A bare gRPC channel."""
    host, port = endpoint
    channel = rpc.insecure_channel(
        f"{host}:{port}", options=(("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
    )
    try:
        yield channel
    finally:
        await channel.close()


async def compact_history(endpoints: Sequence[tuple[str, int]], revision: int) -> None:
    """Tries the members until one does it."""
    async with asyncio.timeout(_WITHIN_S):
        while True:
            for endpoint in endpoints:
                async with operating(endpoint) as channel:
                    try:
                        request = rpc.CompactionRequest(revision=revision, physical=True)
                        await rpc.KVStub(channel).Compact(request, timeout=2.0)
                    except rpc.AioRpcError as error:
                        # An attempt that was answered too late did it.
                        if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                            return
                    else:
                        return
            await asyncio.sleep(0.05)


async def raw_keys(endpoint: tuple[str, int]) -> dict[bytes, bytes]:
    async with operating(endpoint) as channel:
        everything = rpc.RangeRequest(key=b"\0", range_end=b"\0")
        reply = await rpc.KVStub(channel).Range(everything, timeout=_WITHIN_S)
        return {kv.key: kv.value for kv in reply.kvs}


async def put_raw(endpoint: tuple[str, int], key: bytes, value: bytes) -> None:
    async with operating(endpoint) as channel:
        await rpc.KVStub(channel).Put(rpc.PutRequest(key=key, value=value), timeout=_WITHIN_S)


async def enable_users(endpoint: tuple[str, int], *, user: str, password: str, prefix: bytes) -> None:
    """From now on etcd asks for a login; `user` may read and write what begins with `prefix`, and nothing else."""
    async with operating(endpoint) as channel:
        auth = rpc.AuthStub(channel)
        await auth.UserAdd(rpc.AuthUserAddRequest(name="root", password=password), timeout=_WITHIN_S)
        await auth.RoleAdd(rpc.AuthRoleAddRequest(name="root"), timeout=_WITHIN_S)
        await auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="root", role="root"), timeout=_WITHIN_S)
        await auth.UserAdd(rpc.AuthUserAddRequest(name=user, password=password), timeout=_WITHIN_S)
        await auth.RoleAdd(rpc.AuthRoleAddRequest(name="holdfast"), timeout=_WITHIN_S)
        end = prefix[:-1] + bytes([prefix[-1] + 1])
        permission = rpc.Permission(permType=rpc.Permission.READWRITE, key=prefix, range_end=end)
        await auth.RoleGrantPermission(
            rpc.AuthRoleGrantPermissionRequest(name="holdfast", perm=permission), timeout=_WITHIN_S
        )
        await auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=user, role="holdfast"), timeout=_WITHIN_S)
        await auth.AuthEnable(rpc.AuthEnableRequest(), timeout=_WITHIN_S)
