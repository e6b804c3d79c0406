"""What an agent is started with: explicit argument, then environment, then default."""

from dataclasses import dataclass
from pathlib import Path

from holdfast.model.ids import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """One node of one job. `secret` comes from the environment or a file, never from an argument."""

    job: str
    store_host: str
    store_port: int
    node: NodeId
    host: str
    domain: str
    slots: int
    scratch: Path  # sockets and heartbeats; made and removed by the agent
    secret: bytes
