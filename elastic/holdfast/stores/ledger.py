"""What makes a write asked twice take effect once: the server's replies that a client may still ask for again.

Rule: a reply is kept until the client says that the call is settled, so a client's share stays about what it
has in flight.
"""

from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class _Session:
    settled: int = 0
    replies: dict[int, bytes] = field(default_factory=dict)


class Ledger:
    """Replies by session (one client, over all its connections) and call id.

    Of sessions, the `sessions_max` most recently used are kept: a client would have to be cut off while
    that many others write for its retry to be taken for a new call.
    """

    def __init__(self, *, sessions_max: int = 10_000) -> None:
        self._sessions_max = sessions_max
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def settle(self, session: str, settled: int) -> None:
        """Forget the replies below `settled`; the client said that it will not ask for them."""
        held = self._sessions.setdefault(session, _Session())
        self._sessions.move_to_end(session)
        while len(self._sessions) > self._sessions_max:
            self._sessions.popitem(last=False)
        if settled > held.settled:
            held.settled = settled
            held.replies = {call_id: reply for call_id, reply in held.replies.items() if call_id >= settled}

    def is_settled(self, session: str, call_id: int) -> bool:
        """True for a late copy, from a connection the client has left, of a call it has done with."""
        return call_id < self._sessions[session].settled

    def recall(self, session: str, call_id: int) -> bytes | None:
        return self._sessions[session].replies.get(call_id)

    def record(self, session: str, call_id: int, reply: bytes) -> None:
        self._sessions[session].replies[call_id] = reply
