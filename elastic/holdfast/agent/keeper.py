"""The agent of a machine on which scripts run that are none of Holdfast's jobs: it keeps what they save in RAM, gives
copies to such agents of other machines and takes theirs, and finds them again for a script that starts anew.

It has no workers and coordinates nothing. What agents know of each other stands in the store, each one's record on its
lease; what is to be done follows from these records alone (`control.keeping`).
"""

import asyncio
import logging
import os
import signal
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from holdfast.agent.claiming import NodeClaim
from holdfast.agent.credentials import Credentials
from holdfast.agent.following import Following, by_revision, surely
from holdfast.agent.http import Handler, HttpPort, Listening
from holdfast.agent.leasing import NodeLease, boot_time_s
from holdfast.agent.main import allow_many_files, explain
from holdfast.agent.offers import BLOBS, COPIES, SNAPSHOTS
from holdfast.agent.peers import Peers
from holdfast.agent.roll import Roll
from holdfast.agent.room import Room
from holdfast.agent.script_socket import ScriptSocket
from holdfast.agent.shelf import Setting, Shelf
from holdfast.agent.tls import TlsFiles
from holdfast.errors import LeaseExpiredError, ProtocolError, StoreError
from holdfast.model.claim import ClaimRecord
from holdfast.model.ids import NodeId
from holdfast.model.keeping import KeeperKeys, KeeperRecord
from holdfast.model.keys import Keys
from holdfast.model.records import AgentRef
from holdfast.model.wire import decode, encode
from holdfast.ports.store import KeyValue, Put, Store
from holdfast.stores.address import StoreAccess, StoreAddress, open_store

log = logging.getLogger(__name__)
_REFRESH_S = 2.0
# What changes so soon after another is said, and heard, together; of many agents, which all read all, it takes longer.
_SAID_S, _HEARD_S = 0.05, 0.01
_A_NODE_S, _LONGER_MAX_S = 0.0005, 1.0
_FORGET_EVERY_S = 60.0
_SCRIPT = "/scripts/{script:[0-9a-f]{16}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperOptions:
    """What the command line says. `copies`: of each blob, on machines of other failure domains. `bandwidth`: bytes a
    second that copies may take of the network. `memory`: bytes to hold at most. `forget_s`: a save that is so old
    goes."""

    name: str
    address: StoreAddress
    access: StoreAccess
    node: NodeId
    host: str
    listening: Listening
    domain: str
    socket: Path
    secret: bytes = field(repr=False)
    memory: int
    copies: int = 1
    bandwidth: int | None = None
    lease_ttl_s: float = 10.0
    forget_s: float = 86_400.0
    tls: TlsFiles | None = None


def run_keeper(options: KeeperOptions) -> None:
    """Until SIGTERM or Ctrl-C. Raises: UserError, StoreError, HoldfastError: as `run_agent`."""
    allow_many_files()
    try:
        asyncio.run(_serve(options))
    except asyncio.CancelledError:
        log.info("keeper.stopped")
    except ExceptionGroup as group:  # of its tasks
        raise explain(group) from group


async def _serve(options: KeeperOptions) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    store = open_store(options.address, options.access)
    try:
        await Keeper(options, store).run()
    finally:
        await store.close()


class Keeper:
    """One a machine."""

    def __init__(self, options: KeeperOptions, store: Store) -> None:
        self._options, self._store, self._keys = options, store, KeeperKeys(name=options.name)
        self._incarnation = uuid.uuid4().hex[:12]
        self._peers = Peers(Credentials(options.secret, self._keys.job), options.tls)
        self._http = HttpPort(options.listening, self._peers, self._alive, self._status, None, for_peers=self._routes())
        self._socket = ScriptSocket(options.socket, self._shelf)
        self._roll = Roll(options.node, self._peers, self._read_anew)
        self._setting = Setting(
            node=options.node,
            peers=self._peers,
            copies=options.copies,
            bandwidth=options.bandwidth,
            changed=lambda: self._changed.set(),
            roll=self._roll,
            room=Room(
                options.memory,
                lambda: (shelf.ram for shelf in self._shelves.values()),
                lambda: len(encode(self._record())),
            ),
        )
        self._claim = NodeClaim(store, Keys(job=self._keys.job), self._peers, options.lease_ttl_s)
        self._lease = NodeLease(
            store,
            options.lease_ttl_s,
            options.lease_ttl_s,
            lambda _: None,  # nothing here waits for a permit
            lambda why: log.warning("keeper.alone", extra={"reason": why}),
        )
        self._shelves: dict[str, Shelf] = {}
        self._serving: dict[str, asyncio.Task[None]] = {}  # of each shelf
        self._others: dict[str, tuple[int, KeeperRecord]] = {}  # and the revision of each
        self._said: tuple[int, KeeperRecord] | None = None  # under which lease
        self._changed, self._heard = asyncio.Event(), asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Until cancelled. Raises: UserError: another agent has the node's name, or what is to be bound is not free."""
        self._socket.open()
        try:
            await self._http.open()
            try:
                await self._register()
                await self._keep()
            finally:
                await self._http.close()
        finally:
            self._socket.close()

    async def _keep(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for work, name in (
                    (self._lease.keep(self._register_anew), "lease"),
                    (self._lease.watch(), "lease-age"),
                    (self._follow(), "follow"),
                    (self._publish(), "publish"),
                    (self._tell_in_time(), "tell"),
                    (self._socket.run(), "scripts"),
                    (self._forget(), "forget"),
                ):
                    self._tasks.create_task(work, name=name)
                log.info("keeper.ready", extra={"socket": str(self._options.socket), "port": self._http.port})
        finally:
            for shelf in self._shelves.values():
                shelf.close()
            await self._let_go()

    async def _register(self) -> None:
        asked_s = boot_time_s()
        lease = await self._lease.take()
        options = self._options
        claim = ClaimRecord(
            node=options.node, incarnation=self._incarnation, host=options.host, port=self._http.port, pid=os.getpid()
        )
        await self._claim.take(claim, lease)
        self._lease.use(lease, asked_s)

    async def _register_anew(self) -> None:
        while True:
            try:
                await self._register()
                break
            except LeaseExpiredError:
                log.warning("lease.expired", extra={"lease": self._lease.id})
        self._changed.set()

    async def _forget(self) -> None:
        """For ever: what nobody has saved anew for long goes."""
        while True:
            await asyncio.sleep(_FORGET_EVERY_S)
            for shelf in list(self._shelves.values()):
                shelf.forget(time.time() - self._options.forget_s)
            self._clear_away()

    def _clear_away(self) -> None:
        """Shelves of scripts of which nothing is left anywhere; one that is asked for again is made anew."""
        for script in [script for script, shelf in self._shelves.items() if shelf.is_idle]:
            self._shelves.pop(script).close()
            self._serving.pop(script).cancel()

    async def _publish(self) -> None:
        """For ever: say what is held here, whenever it has changed."""
        while True:
            self._changed.clear()
            if (self._lease.id, self._record()) != self._said:
                try:
                    self._said = await surely(self._say, "keeper")
                    # Only now, so that what one agent takes for whole, all others see as well.
                    self._tell_shelves()
                except LeaseExpiredError:
                    self._lease.lose()  # `_register_anew` comes back here
                except (StoreError, ValueError) as error:
                    # The store will never take it: what is held stays, and the next that is said may be shorter.
                    log.error("keeper.refused", extra={"node": self._options.node, "error": str(error)})
            await self._changed.wait()
            await asyncio.sleep(_SAID_S + self._longer_s())

    async def _say(self) -> tuple[int, KeeperRecord]:
        """What is held by now, each time that it is tried anew."""
        said = self._lease.id, self._record()
        put = Put(key=self._keys.keeper(self._options.node), value=encode(said[1]), lease=said[0])
        await self._store.transact([], [put])
        return said

    def _longer_s(self) -> float:
        return min(_A_NODE_S * len(self._others), _LONGER_MAX_S)

    async def _follow(self) -> None:
        """What others hold."""
        following = Following(self._store, self._keys.keepers, self._see)
        for kv in by_revision((await following.read()).kvs):
            self._see(kv.key, kv)
        await following.run()

    async def _read_anew(self) -> None:
        """All that others have said until now, also where the watch is behind; what is known, if the store is away."""
        try:
            async with asyncio.timeout(_REFRESH_S):
                snapshot = await self._store.get_prefix(self._keys.keepers)
        except (StoreError, TimeoutError) as error:
            log.warning("store.unavailable", extra={"for": "keepers", "error": str(error)})
            return
        for key in self._others.keys() - {kv.key for kv in snapshot.kvs}:
            self._see(key, None)
        for kv in by_revision(snapshot.kvs):
            self._see(kv.key, kv)
        self._tell_shelves()

    def _see(self, key: str, kv: KeyValue | None) -> None:
        if key == self._keys.keeper(self._options.node):
            if kv is None and self._said is not None:
                self._lease.lose()  # taken for dead: it says that it lives
            return
        try:
            if kv is None:
                self._others.pop(key, None)
            elif key not in self._others or kv.mod_revision > self._others[key][0]:
                self._others[key] = kv.mod_revision, decode(KeeperRecord, kv.value)
        except ProtocolError as error:
            log.error("keeper.malformed", extra={"key": key, "error": str(error)})
            return
        self._peers.credentials.expect(len(self._others) + 1)
        self._heard.set()

    async def _tell_in_time(self) -> None:
        """For ever: of many changes at once, all agents' at the end of a save, the shelves hear as of one."""
        while True:
            await self._heard.wait()
            await asyncio.sleep(_HEARD_S + self._longer_s())
            self._tell_shelves()

    def _tell_shelves(self) -> None:
        self._heard.clear()
        records = self._records()
        self._roll.see(records)
        for script in {save.script for record in records for save in record.held}:
            self._shelf(script)
        for shelf in list(self._shelves.values()):
            shelf.see(records)

    def _records(self) -> list[KeeperRecord]:
        """What all have said, this agent too; [] before it has."""
        return [*(record for _, record in self._others.values()), self._said[1]] if self._said is not None else []

    def _shelf(self, script: str) -> Shelf:
        """Of that script."""
        if script not in self._shelves:
            shelf = Shelf(script, self._setting)
            assert self._tasks is not None, "nobody asks before it runs"
            self._serving[script] = self._tasks.create_task(shelf.run(), name=f"script-{script}")
            self._shelves[script] = shelf
            shelf.see(self._records())
        return self._shelves[script]

    def _record(self) -> KeeperRecord:
        options = self._options
        agent = AgentRef(
            node=options.node,
            incarnation=self._incarnation,
            host=options.host,
            port=self._http.port,
            domain=options.domain,
        )
        held = tuple(save for script in sorted(self._shelves) for save in self._shelves[script].held())
        return KeeperRecord(agent=agent, held=held)

    def _routes(self) -> dict[str, Handler]:
        return {_SCRIPT + path: self._of_script(path) for path in (SNAPSHOTS, COPIES, BLOBS)}

    def _of_script(self, path: str) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            shelf = self._shelves.get(request.match_info["script"])
            if shelf is None:
                return web.json_response({"error": "nothing of that script is here"}, status=404)
            return await shelf.routes()[path](request)

        return handle

    def _alive(self) -> dict[str, Any]:
        return {"incarnation": self._incarnation, "workers": []}

    def _status(self) -> dict[str, Any]:
        record = self._record()
        return {
            "node": self._options.node,
            "agents": sorted([str(self._options.node), *(str(other.node) for _, other in self._others.values())]),
            "held": [
                {
                    "script": save.script,
                    "step": save.version.step,
                    "own_bytes": sum(save.own.values()),
                    "lent_bytes": sum(save.lent.values()),
                }
                for save in record.held
            ],
        }

    async def _let_go(self) -> None:
        """Others need not wait for the lease to run out."""
        try:
            async with asyncio.timeout(self._options.lease_ttl_s / 2):
                await self._store.revoke(self._lease.id)
        except (StoreError, TimeoutError) as error:
            log.info("keeper.lease_left", extra={"error": repr(error)})
