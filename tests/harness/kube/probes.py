"""Asks a container how it does, as its probes and hooks say."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from harness.kube.containers import Running
from harness.kube.environment import Object


async def ask(handler: Object, container: Object, running: Running, address: str, timeout_s: float | None) -> str:
    """ "" if all is well, else what is wrong; `handler` is a probe or a hook."""
    match handler:
        case {"exec": {"command": command}}:
            code, output = await running.enter(command, timeout_s)
            return "" if code == 0 else f"exit code {code}: {output.strip()[-500:]}"
        case {"httpGet": wanted}:
            return await _http(wanted, f"{wanted.get('host', address)}:{_port(wanted['port'], container)}", timeout_s)
        case {"tcpSocket": wanted}:
            return await _tcp(wanted.get("host", address), _port(wanted["port"], container), timeout_s)
        case {"sleep": {"seconds": seconds}}:
            await asyncio.sleep(seconds)
            return ""
    raise ValueError(f"the test kubelet cannot ask {handler}")


async def keep_asking(
    probe: Object, once: Callable[[float], Awaitable[str]], tell: Callable[[bool], Awaitable[bool]]
) -> None:
    """Tells each time that enough answers in a row were alike, until it is told back that this will do."""
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    needed = {True: probe.get("successThreshold", 1), False: probe.get("failureThreshold", 3)}
    last, row = False, 0
    while True:
        is_well = not await once(probe.get("timeoutSeconds", 1))
        row = row + 1 if is_well is last else 1
        last = is_well
        if row >= needed[is_well] and await tell(is_well):
            return
        await asyncio.sleep(probe.get("periodSeconds", 10))


def _port(wanted: Any, container: Object) -> int:
    if isinstance(wanted, int):
        return wanted
    return next(int(port["containerPort"]) for port in container.get("ports", ()) if port.get("name") == wanted)


async def _http(wanted: Object, host: str, timeout_s: float | None) -> str:
    url = f"{wanted.get('scheme', 'HTTP').lower()}://{host}{wanted.get('path', '/')}"
    headers = {one["name"]: one["value"] for one in wanted.get("httpHeaders", ())}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, headers=headers, ssl=False) as reply,
        ):
            return "" if reply.status < 400 else f"HTTP probe failed with statuscode: {reply.status}"
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"Get {url!r}: {error!r}"


async def _tcp(host: str, port: int, timeout_s: float | None) -> str:
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        return f"dial tcp {host}:{port}: {error!r}"
    writer.close()
    return ""
