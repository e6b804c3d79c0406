"""Proofs of knowing the job's secret: on every request between agents, and on every answer.

A request is signed over its method, target and body, the time and a nonce; an answer over its status and body and the
request's nonce. So a stranger can neither ask, nor steer, nor answer a probe in an agent's place, and what was
overheard cannot be said again. Keys for each purpose are derived from the secret, which itself is never sent.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.errors import ProtocolError, UserError

SCHEME = "Holdfast"
PROOF_HEADER = "Holdfast-Proof"
# How far the clocks of two machines may be apart.
WINDOW_S = 300.0
SECRET_BYTES_MIN = 16
# Only those who know the secret can fill it. Of each member come contacts, and probes whenever communication breaks.
_NONCES_MIN, _NONCES_A_MEMBER = 200_000, 1_000
_AUTHORIZATION = re.compile(SCHEME + r" ([0-9]{1,16}) ([0-9a-f]{32}) ([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a request carries as `Authorization`, and what its answer must be bound to."""

    authorization: str
    nonce: str


class Credentials:
    """Of one job; `clock` gives seconds since 1970."""

    def __init__(self, secret: bytes, job: str, clock: Callable[[], float] = time.time) -> None:
        """Raises: UserError: the secret is too short to keep anybody out."""
        if len(secret) < SECRET_BYTES_MIN:
            raise UserError(
                f"the job's secret has {len(secret)} bytes; should have at least {SECRET_BYTES_MIN}, "
                "such as what `openssl rand -hex 32` prints"
            )
        self._clock = clock
        self._request_key = derive(secret, "request", job)
        self._answer_key = derive(secret, "answer", job)
        # Who holds it may read /status and /metrics, and nothing else.
        self.read_token = derive(secret, "read", job).hex()
        # For what workers leave in each other's stores.
        self.worker_key = derive(secret, "worker", job)
        self._nonces_max = _NONCES_MIN
        self._seen: set[str] = set()
        self._seen_by_age: deque[tuple[float, str]] = deque()

    def expect(self, members: int) -> None:
        """How many agents will ask: that many requests more are kept in mind."""
        self._nonces_max = max(_NONCES_MIN, _NONCES_A_MEMBER * members)

    def sign(self, method: str, target: str, body: bytes = b"") -> Signature:
        """`target`: path and query as they are sent."""
        time_ms, nonce = str(int(self._clock() * 1000)), secrets.token_hex(16)
        proof = _mac(self._request_key, method.encode(), target.encode(), time_ms.encode(), nonce.encode(), body)
        return Signature(authorization=f"{SCHEME} {time_ms} {nonce} {proof}", nonce=nonce)

    def verify(self, authorization: str, method: str, target: str, body: bytes = b"") -> str:
        """The request's nonce, which its answer is bound to.

        Raises:
            ProtocolError: not signed with this job's secret, too old, or seen before.
        """
        found = _AUTHORIZATION.fullmatch(authorization)
        if found is None:
            raise ProtocolError("the request is not signed")
        time_ms, nonce, proof = found.groups()
        parts = (method.encode(), target.encode(errors="surrogateescape"), time_ms.encode(), nonce.encode(), body)
        if not hmac.compare_digest(proof, _mac(self._request_key, *parts)):
            raise ProtocolError("the request is not signed with this job's secret")
        now_s = self._clock()
        behind_s = now_s - int(time_ms) / 1000
        if abs(behind_s) > WINDOW_S:
            raise ProtocolError(f"the request is dated {behind_s:.0f} s ago; clocks may differ by {WINDOW_S:.0f} s")
        self._note(nonce, now_s)
        return nonce

    def answer(self, nonce: str, status: int, body: bytes) -> str:
        """The proof that goes with an answer."""
        return _mac(self._answer_key, nonce.encode(), str(status).encode(), body)

    def verify_answer(self, proof: str, nonce: str, status: int, body: bytes) -> None:
        """Raises: ProtocolError: whoever answered does not know the secret."""
        if not hmac.compare_digest(proof.encode(), self.answer(nonce, status, body).encode()):
            raise ProtocolError("the answer is not signed with this job's secret")

    def may_read(self, authorization: str) -> bool:
        """Whether it is the bearer token for people and for Prometheus."""
        return hmac.compare_digest(authorization.encode(errors="replace"), f"Bearer {self.read_token}".encode())

    def _note(self, nonce: str, now_s: float) -> None:
        """A nonce counts for as long as its request would be taken: dated at most a window ahead, and one behind."""
        while self._seen_by_age and self._seen_by_age[0][0] < now_s - 2 * WINDOW_S:
            self._seen.discard(self._seen_by_age.popleft()[1])
        if nonce in self._seen:
            raise ProtocolError("the request was seen before")
        if len(self._seen) >= self._nonces_max:
            raise ProtocolError("more signed requests than an agent keeps in mind")
        self._seen.add(nonce)
        self._seen_by_age.append((now_s, nonce))


def derive(secret: bytes, purpose: str, job: str) -> bytes:
    """A key for one purpose of one job."""
    return hmac.digest(secret, f"holdfast {purpose}:{job}".encode(), hashlib.sha256)


def _mac(key: bytes, *parts: bytes) -> str:
    """Lengths go in with the parts, so that no two lists of parts read the same."""
    made = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        made.update(len(part).to_bytes(8, "big"))
        made.update(part)
    return made.hexdigest()
