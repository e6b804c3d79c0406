"""The manifest of a checkpoint: JSON, written last; a checkpoint without one was never committed.

Its own checksum is in it, so that a flipped byte in a manifest is found as surely as one in a blob.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import xxhash

from holdfast_checkpoint.digest import ALGORITHM, Digest
from holdfast_checkpoint.errors import CorruptError, FormatError

FORMAT = "holdfast-checkpoint"
SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobEntry:
    """One layer. `path` is relative to the manifest's folder."""

    layer: int
    name: str
    path: str
    digest: Digest

    @property
    def size(self) -> int:
        """Bytes."""
        return self.digest.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """State after `step` committed steps. `blobs`: one for each layer of the model, in the model's order."""

    step: int
    generation: int  # in which the step was committed
    run: str  # of one submission of a job: generations of two runs do not compare
    job: str
    samples: int  # consumed so far: the data position
    created: str  # ISO 8601, UTC
    identity: Mapping[str, Any]  # what must be the same to go on from here, see `identity`
    spec: Mapping[str, Any]  # of the job that wrote it, for people
    blobs: tuple[BlobEntry, ...]
    loss: float | None = None  # of the last step
    versions: Mapping[str, str] = field(default_factory=dict)  # of holdfast and torch

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(blob.size for blob in self.blobs)

    @property
    def fingerprint(self) -> str:
        """Of `identity`; equal for runs that may go on from each other's checkpoints."""
        return xxhash.xxh3_128_hexdigest(_canonical(self.identity))


def to_json(manifest: Manifest) -> bytes:
    body = {"format": FORMAT, "schema": SCHEMA, "digest": ALGORITHM, "fingerprint": manifest.fingerprint}
    body |= asdict(manifest)
    checksum = xxhash.xxh3_128_hexdigest(_canonical(body))
    return json.dumps(body | {"checksum": checksum}, indent=1, sort_keys=True).encode() + b"\n"


def from_json(data: bytes, where: str) -> Manifest:
    """`where` is for messages.

    Raises:
        CorruptError: not what was written.
        FormatError: not a manifest, or of a newer schema.
    """
    try:
        body: Any = json.loads(data)
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise FormatError(f"{where} is not a Holdfast manifest")
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{where} is corrupt: it is not JSON any more") from error
    checksum = body.pop("checksum", None)
    if checksum != xxhash.xxh3_128_hexdigest(_canonical(body)):
        raise CorruptError(f"{where} is corrupt: its checksum is another one")
    if body.pop("schema") != SCHEMA:
        raise FormatError(f"{where} is of another schema than {SCHEMA}; use the Holdfast that wrote it, or a newer one")
    try:
        del body["format"], body["digest"], body["fingerprint"]
        blobs = tuple(_entry(blob) for blob in body.pop("blobs"))
        return Manifest(**body, blobs=blobs)
    except (KeyError, TypeError) as error:
        raise FormatError(f"{where}: {error!r}") from error


def _entry(blob: Mapping[str, Any]) -> BlobEntry:
    digest = dict(blob["digest"])
    made = Digest(**(digest | {"chunks": tuple(digest["chunks"])}))
    return BlobEntry(**(dict(blob) | {"digest": made}))


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
