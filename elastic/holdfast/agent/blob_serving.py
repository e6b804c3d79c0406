"""Gives peers the copies in this node's RAM: which there are (/snapshots), and each one's bytes (/blobs).

Bytes go from the copy's memory to the socket within the kernel (sendfile), at a bounded rate, and behind training's own
traffic. Over TLS they are encrypted on the way, piece by piece. The answer's signature binds it to the blob's digest,
by which who receives it finds what an accident changed; who must fear changes made on the wire uses TLS.
"""

import asyncio
import contextlib
import logging
import mmap
import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass

from aiohttp import web

from holdfast.agent.contact import watch_over
from holdfast.agent.http import STANDS_FOR_BODY, Handler
from holdfast.agent.news import News
from holdfast.agent.offers import BLOBS, SNAPSHOTS, Offer, Question, Version, read_range
from holdfast.agent.pacing import Pacer
from holdfast.errors import ProtocolError
from holdfast.model.ids import NodeId
from holdfast_checkpoint.errors import CorruptError
from holdfast_checkpoint.ram import Copy, RamTier
from holdfast_checkpoint.sparing import newest_whole

log = logging.getLogger(__name__)
# Between two looks at whether the receiver still takes anything; so much over TLS is encrypted at once.
_PIECE_BYTES, _TLS_PIECE_BYTES = 8 << 20, 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingLimits:
    """`bytes_s`: of all streams together that are not urgent; None: as fast as it goes."""

    bytes_s: int | None = None
    streams: int = 8  # at once; as many again that are urgent
    poll_s: float = 20.0  # for how long a question is held, while there is nothing new
    turn_s: float = 5.0  # for how long a request waits for its turn
    stalled_s: float = 30.0  # for so long a receiver may take no piece


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    incarnation: str  # of who says so
    version: Version
    layers: frozenset[int]


class Serving:
    """One an agent, on its event loop. `changed` is called whenever `ram` holds more or other copies."""

    def __init__(
        self,
        ram: RamTier,
        limits: ServingLimits,
        on_copied: Callable[[NodeId, Version, frozenset[int]], None],
        on_corrupt: Callable[[Copy], None],
    ) -> None:
        """`on_copied`: a peer says that it holds these layers of that version whole. `on_corrupt`: a copy here turned
        out to be corrupt, and was dropped."""
        self._ram, self._limits, self._on_copied, self._on_corrupt = ram, limits, on_copied, on_corrupt
        self._kept: Version | None = None
        self._news = News()
        self._copied: dict[NodeId, _Held] = {}
        self._pacer = Pacer(limits.bytes_s)
        self._turns = {urgent: asyncio.Semaphore(limits.streams) for urgent in (False, True)}

    def routes(self) -> Mapping[str, Handler]:
        """What to register, for peers alone."""
        return {SNAPSHOTS: self.offer, BLOBS: self.stream}

    def changed(self) -> None:
        self._news.tell()

    def keep(self, kept: Version) -> None:
        """The newest version known to be whole everywhere; peers are told."""
        self._kept = kept
        self._news.tell()

    def holders(self, version: Version, layer: int) -> frozenset[NodeId]:
        """The peers that said they hold it."""
        return frozenset(
            node for node, held in self._copied.items() if held.version == version and layer in held.layers
        )

    def forget(self, gone: Collection[tuple[NodeId, str]]) -> None:
        """Incarnations of nodes that are no longer members: what they said they hold is lost. Another agent may have
        come under the same name, and what that one said stays."""
        for node, incarnation in gone:
            held = self._copied.get(node)
            if held is not None and held.incarnation == incarnation:
                del self._copied[node]

    async def offer(self, request: web.Request) -> web.StreamResponse:
        """Answers once there is something new, and at the latest after a while."""
        try:
            question = Question.read(request.query)
        except ProtocolError as error:
            return web.json_response({"error": str(error)}, status=400)
        self._note(question)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.poll_s):
                while not self._has_news(question):
                    await self._news.wait()
        return web.json_response(self._offer(question).to_json())

    def _note(self, question: Question) -> None:
        if question.after is None:
            self._copied.pop(question.node, None)
            return
        held = _Held(incarnation=question.incarnation, version=question.after, layers=question.layers)
        if self._copied.get(question.node) != held:
            self._copied[question.node] = held
            self._on_copied(question.node, question.after, question.layers)

    def _has_news(self, question: Question) -> bool:
        newest = self._newest(question.layers)
        return self._kept != question.kept or (newest is not None and newest != question.after)

    def _offer(self, question: Question) -> Offer:
        newest = self._newest(question.layers)
        if newest is None or newest == question.after:
            return Offer(version=newest, kept=self._kept)
        found = {layer: self._ram.find(layer, *newest) for layer in question.layers}
        digests = {layer: copies[0].digest for layer, copies in found.items() if copies}
        whole = len(digests) == len(question.layers)  # else its worker began to overwrite it just now
        return Offer(version=newest if whole else None, kept=self._kept, digests=digests if whole else {})

    def _newest(self, layers: frozenset[int]) -> Version | None:
        newest = newest_whole(self._ram.versions(), layers)
        return Version(*newest) if newest is not None else None

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """A blob, or a part of it. 404: not here (any more); 410: it was, and is corrupt; 503: too many others."""
        layer, step, generation = (int(request.match_info[name]) for name in ("layer", "step", "generation"))
        urgent = "urgent" in request.query
        try:
            async with self._turn(urgent=urgent):
                copies = self._ram.find(layer, step, generation)
                if not copies:
                    return _refusal(404, f"layer {layer}, step {step}, generation {generation} is not in RAM here")
                start, stop = read_range(request.query, copies[0].digest.size)
                if "doubted" in request.query and not await self._is_sound(copies[0]):
                    return _refusal(410, f"{copies[0]} was corrupt; it is dropped")
                return await self._send(request, copies[0], range(start, stop), urgent=urgent)
        except ProtocolError as error:
            return _refusal(400, str(error))
        except TimeoutError:
            return _refusal(503, f"{self._limits.streams} streams are sent already; ask again in a while")

    @contextlib.asynccontextmanager
    async def _turn(self, *, urgent: bool) -> AsyncIterator[None]:
        """Raises: TimeoutError: it did not come."""
        turns = self._turns[urgent]
        async with asyncio.timeout(self._limits.turn_s):
            await turns.acquire()
        try:
            yield
        finally:
            turns.release()

    async def _is_sound(self, copy: Copy) -> bool:
        """Read it all: what came over there was not what was sent off here, or this never was what it should be."""
        try:
            await asyncio.to_thread(self._ram.verify, copy)
        except FileNotFoundError:
            return True  # dropped in the meantime; not to be found when it is sent
        except CorruptError as error:
            log.error("snapshot.corrupt", extra={"origin": copy.origin, "layer": copy.layer, "error": str(error)})
            self._ram.drop(copy)
            self._on_corrupt(copy)
            return False
        return True

    async def _send(self, request: web.Request, copy: Copy, part: range, *, urgent: bool) -> web.StreamResponse:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the peer is gone")
        response = web.StreamResponse()
        response.content_length, response.content_type = len(part), "application/octet-stream"
        response.force_close()  # what was set on the connection ends with it
        request[STANDS_FOR_BODY] = copy.digest.text.encode()
        watch_over(transport)
        with self._pacer.paced(transport, urgent=urgent):
            try:
                with copy.file.hold() as fd:
                    await response.prepare(request)
                    await self._pour(transport, response, fd, part)
            except (TimeoutError, OSError, RuntimeError) as error:
                # The head has gone out: all there is to say is that no more comes.
                log.info("blob.unsent", extra={"peer": request.remote, "layer": copy.layer, "error": repr(error)})
                transport.abort()
        return response

    async def _pour(self, transport: asyncio.Transport, response: web.StreamResponse, fd: int, part: range) -> None:
        """Raises: TimeoutError: the receiver takes nothing."""
        loop = asyncio.get_running_loop()
        if transport.get_extra_info("sslcontext") is None:
            with os.fdopen(fd, "rb", closefd=False) as file:
                for start in part[::_PIECE_BYTES]:
                    count = min(_PIECE_BYTES, part.stop - start)
                    async with asyncio.timeout(self._limits.stalled_s):
                        await loop.sendfile(transport, file, start, count, fallback=False)
            return
        with mmap.mmap(fd, part.stop, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view:
            for start in part[::_TLS_PIECE_BYTES]:
                piece = bytes(view[start : min(start + _TLS_PIECE_BYTES, part.stop)])
                async with asyncio.timeout(self._limits.stalled_s):
                    await response.write(piece)


def _refusal(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)
