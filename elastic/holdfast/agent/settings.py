"""What an agent is started with: explicit argument, then environment, then default."""

from dataclasses import dataclass, field
from pathlib import Path

from holdfast.agent.fork_server import RunningServer
from holdfast.agent.http import Listening
from holdfast.agent.tls import TlsFiles
from holdfast.model.ids import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """One node of one job. `secret` comes from the environment or a file, never from an argument."""

    job: str
    node: NodeId
    host: str  # at which peers reach this node's agent and workers
    listening: Listening
    domain: str
    slots: int
    scratch: Path  # sockets and heartbeats, for this user alone; made and removed by whoever starts the agent
    secret: bytes = field(repr=False)
    tls: TlsFiles | None = None
    ram: Path | None = None  # on tmpfs: where copies in RAM outlive the agent; None: they do not
    zygote: RunningServer | None = None  # one that runs already; None: start one


def node_id(text: str) -> NodeId:
    """Raises: ValueError: a node's name must fit into a key."""
    if not text or any(c not in "abcdefghijklmnopqrstuvwxyz0123456789.-" for c in text):
        raise ValueError(f"node {text!r}: use a-z, 0-9, '.' and '-'")
    return NodeId(text)
