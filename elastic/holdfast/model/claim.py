"""Who speaks for a node."""

from dataclasses import dataclass

from holdfast.model.ids import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRecord:
    """claims/<node>, leased: the one live agent that may speak as this node."""

    node: NodeId
    incarnation: str
    host: str
    port: int
    pid: int
