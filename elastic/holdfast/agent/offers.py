"""What agents ask each other about copies in RAM, and what they answer: GET /snapshots, GET /copies and GET /blobs.

/snapshots tells of the newest version that is whole, once it is another one than who asks has; /copies tells the digest
of one layer, or that it is on its way here; /blobs sends it.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlencode

from holdfast.errors import ProtocolError
from holdfast.model.ids import NodeId
from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.errors import FormatError

SNAPSHOTS = "/snapshots"
BLOBS = "/blobs/{layer:[0-9]{1,9}}/{step:[0-9]{1,18}}/{generation:[0-9]{1,18}}"
COPIES = "/copies/{layer:[0-9]{1,9}}/{step:[0-9]{1,18}}/{generation:[0-9]{1,18}}"
SCHEMA = 1
_VERSION = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})")
_OFFSET = re.compile(r"[0-9]{1,18}")
_LAYERS = re.compile(r"[0-9a-f]{1,3500}")  # a request's first line has 4 KiB at most


class Version(NamedTuple):
    """Of a layer's state; equal to the plain pair that holdfast_checkpoint has for it."""

    step: int
    generation: int

    def __str__(self) -> str:
        return f"{self.step}.{self.generation}"

    @staticmethod
    def read(text: str) -> "Version":
        """Raises: ProtocolError."""
        found = _VERSION.fullmatch(text)
        if found is None:
            raise ProtocolError(f"{text[:50]!r} is no version; should be <step>.<generation>")
        return Version(int(found[1]), int(found[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """An incarnation of `node` asks for `layers`. It holds all of version `after`, and `kept` is the last it was told:
    it is answered once either has changed."""

    node: NodeId
    incarnation: str
    layers: frozenset[int]
    after: Version | None = None
    kept: Version | None = None

    @property
    def target(self) -> str:
        """Path and query."""
        versions = {"after": self.after, "kept": self.kept}
        who = {"node": self.node, "incarnation": self.incarnation}
        told = {name: str(version) for name, version in versions.items() if version is not None}
        return f"{SNAPSHOTS}?{urlencode({**who, 'layers': _to_mask(self.layers), **told})}"

    @staticmethod
    def read(query: Mapping[str, str]) -> "Question":
        """Raises: ProtocolError: a field is missing or malformed."""
        after, kept = query.get("after"), query.get("kept")
        return Question(
            node=NodeId(query.get("node", "")),
            incarnation=query.get("incarnation", ""),
            layers=_from_mask(query.get("layers", "")),
            after=Version.read(after) if after is not None else None,
            kept=Version.read(kept) if kept is not None else None,
        )


def blob_target(
    layer: int, version: Version, start: int, stop: int, *, urgent: bool = False, doubted: bool = False
) -> str:
    """For bytes [start, stop) of the blob. `urgent`: somebody waits for them, so they are not held back; `doubted`: of
    what came before some was corrupt, so the copy is read through before it is sent."""
    flags = {name: 1 for name, said in (("urgent", urgent), ("doubted", doubted)) if said}
    return f"/blobs/{layer}/{version.step}/{version.generation}?{urlencode({'start': start, 'stop': stop, **flags})}"


def read_range(query: Mapping[str, str], size: int) -> tuple[int, int]:
    """[start, stop) of a blob of `size` bytes. Raises: ProtocolError: it has no such bytes."""
    texts = query.get("start", ""), query.get("stop", "")
    if not all(_OFFSET.fullmatch(text) for text in texts) or not int(texts[0]) < int(texts[1]) <= size:
        raise ProtocolError(f"bytes [{texts[0][:20]}, {texts[1][:20]}): should lie within a blob of {size} bytes")
    return int(texts[0]), int(texts[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The newest version of which all the layers asked for are whole here, and their digests; `digests` is empty where
    who asks has it already. `kept`: the newest version known to be whole everywhere, with its copies."""

    version: Version | None
    kept: Version | None
    digests: Mapping[int, Digest] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "version": str(self.version) if self.version is not None else None,
            "kept": str(self.kept) if self.kept is not None else None,
            "layers": {str(layer): asdict(self.digests[layer]) for layer in sorted(self.digests)},
        }

    @staticmethod
    def read(data: bytes) -> "Offer":
        """Raises: ProtocolError."""
        try:
            body = json.loads(data)
            if body["schema"] != SCHEMA:
                raise ProtocolError(f"an offer of schema {body['schema']}, and this version reads {SCHEMA}")
            return Offer(
                version=_version(body["version"]),
                kept=_version(body["kept"]),
                digests={int(layer): _digest(digest) for layer, digest in body["layers"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FormatError) as error:
            raise ProtocolError(f"not an offer of copies: {error!r}") from error


def _version(text: str | None) -> Version | None:
    return Version.read(text) if text is not None else None


def _digest(body: Mapping[str, Any]) -> Digest:
    size, chunk_bytes, chunks = body["size"], body["chunk_bytes"], tuple(body["chunks"])
    if type(size) is not int or type(chunk_bytes) is not int or not all(isinstance(chunk, str) for chunk in chunks):
        raise ProtocolError("a digest's size and chunk_bytes should be integers, and its chunks texts")
    if chunk_bytes < 1:
        raise ProtocolError(f"a digest's chunk_bytes is {chunk_bytes}; should be 1 or more")
    return Digest(size=size, chunks=chunks, chunk_bytes=chunk_bytes)


def _to_mask(layers: Collection[int]) -> str:
    """A bit for each layer: short enough for a request's first line, however the layers are scattered."""
    mask = 0
    for layer in layers:
        mask |= 1 << layer
    return f"{mask:x}"


def _from_mask(text: str) -> frozenset[int]:
    if _LAYERS.fullmatch(text) is None or not (mask := int(text, 16)):
        raise ProtocolError(f"layers {text[:50]!r}: should be a mask of bits in hexadecimal, with one set at least")
    return frozenset(bit for bit in range(mask.bit_length()) if mask >> bit & 1)


def copy_target(layer: int, version: Version, fetched_for: int | None) -> str:
    """`fetched_for`: the generation for whose start the other is to fetch the layer itself; the answer waits for it."""
    query = f"?{urlencode({'for': fetched_for})}" if fetched_for is not None else ""
    return f"/copies/{layer}/{version.step}/{version.generation}{query}"


def read_fetched_for(query: Mapping[str, str]) -> int | None:
    """Raises: ProtocolError."""
    text = query.get("for")
    if text is None:
        return None
    if not _OFFSET.fullmatch(text):
        raise ProtocolError(f"for={text[:20]!r}: should be the number of a generation")
    return int(text)


def digest_json(digest: Digest | None) -> dict[str, Any]:
    """None: the layer is on its way."""
    return {"coming": True} if digest is None else asdict(digest)


def read_digest(data: bytes) -> Digest | None:
    """Of one blob; None: it is on its way. Raises: ProtocolError."""
    try:
        body = json.loads(data)
        return None if body.get("coming") is True else _digest(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FormatError) as error:
        raise ProtocolError(f"not a digest: {error!r}") from error
