"""What workers leave for each other in a c10d store, sealed with a key that only the job's workers have, and how ranks
that met by it know each other.

A TCPStore answers whoever reaches its port. Here every key is a keyed hash of its name, every value is enciphered and
carries a proof that it was written under that name by one of the job; what anybody else writes is refused, and ends the
generation.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_PROOF_BYTES = 32
_NAME_BYTES = 16
_NONCE_BYTES = 16
_CHALLENGE_BYTES = 32


class ForgedEntryError(RuntimeError):
    """Somebody without the job's key wrote to the store; gloo passes it on as it does a lost connection."""


class StrangerError(RuntimeError):
    """Somebody without the job's key took a rank's connection."""


class SealedStore(dist.Store):
    """`store` with the entries of one generation's groups sealed. It has what backends need to find each other."""

    def __init__(self, store: dist.Store, key: bytes, scope: str) -> None:
        super().__init__()
        self._store, self._key, self._scope = store, key, scope.encode()

    def set(self, key: str, value: bytes | str) -> None:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        data = value.encode() if isinstance(value, str) else bytes(value)
        said = nonce + self._cipher(key, nonce, data)
        put(self._store, self._name(key), self._mac("value", key, said) + said)

    def get(self, key: str) -> bytes:
        sealed = self._store.get(self._name(key))
        proof, said = sealed[:_PROOF_BYTES], sealed[_PROOF_BYTES:]
        if len(said) < _NONCE_BYTES or not hmac.compare_digest(proof, self._mac("value", key, said)):
            raise ForgedEntryError("an entry of the c10d store was not written by a worker of this job")
        return self._cipher(key, said[:_NONCE_BYTES], said[_NONCE_BYTES:])

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        names = [self._name(key) for key in keys]
        if timeout is None:
            self._store.wait(names)
        else:
            self._store.wait(names, timeout)

    def check(self, keys: list[str]) -> bool:
        return self._store.check([self._name(key) for key in keys])

    def delete_key(self, key: str) -> bool:
        return self._store.delete_key(self._name(key))

    def set_timeout(self, timeout: timedelta) -> None:
        self._store.set_timeout(timeout)

    def has_extended_api(self) -> bool:
        return False

    def proof(self, sender: int, receiver: int, challenge: bytes) -> bytes:
        """That rank `sender`, which was asked by rank `receiver`, has the key."""
        return self._mac("peer", f"{sender} to {receiver}", challenge)

    def _name(self, key: str) -> str:
        return self._mac("name", key, b"")[:_NAME_BYTES].hex()

    def _cipher(self, key: str, nonce: bytes, data: bytes) -> bytes:
        """There and back: `data` and a stream that only this key and nonce give."""
        stream = hashlib.shake_256(self._mac("cipher", key, nonce)).digest(len(data))
        return bytes(a ^ b for a, b in zip(data, stream, strict=True))

    def _mac(self, purpose: str, key: str, data: bytes) -> bytes:
        made = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (purpose.encode(), self._scope, key.encode(), data):
            made.update(len(part).to_bytes(8, "big"))
            made.update(part)
        return made.digest()


Exchange = Callable[[Sequence[tuple[int, Tensor]], Sequence[tuple[int, Tensor]]], None]


def introduce(exchange: Exchange, rank: int, size: int, store: SealedStore) -> None:
    """Every rank of a new group has every other answer a challenge, which only who has the key can.

    gloo takes whoever connects to its port and names a number. Who connects reads the address from the sealed store, so
    it speaks to whom it means; who was connected to knows by the answer. Collective; two messages between any two.

    Raises:
        StrangerError: one of them has not the key.
    """
    peers = [peer for peer in range(size) if peer != rank]
    ours, theirs = {peer: secrets.token_bytes(_CHALLENGE_BYTES) for peer in peers}, _blank(peers, _CHALLENGE_BYTES)
    exchange([(peer, _tensor(ours[peer])) for peer in peers], list(theirs.items()))
    answers = {peer: store.proof(rank, peer, theirs[peer].numpy().tobytes()) for peer in peers}
    answered = _blank(peers, _PROOF_BYTES)
    exchange([(peer, _tensor(answers[peer])) for peer in peers], list(answered.items()))
    for peer in peers:
        if not hmac.compare_digest(answered[peer].numpy().tobytes(), store.proof(peer, rank, ours[peer])):
            raise StrangerError(f"whoever connected as rank {peer} of the group is no worker of this job")


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _blank(peers: Sequence[int], size: int) -> dict[int, Tensor]:
    return {peer: torch.empty(size, dtype=torch.uint8) for peer in peers}


def put(store: dist.Store, key: str, value: bytes) -> None:
    """What torch's stubs leave out: a value may be any bytes."""
    write: Any = store.set
    write(key, value)
