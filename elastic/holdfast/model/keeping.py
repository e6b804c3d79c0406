"""What agents that keep the saves of scripts say of themselves in the store: keepers/<node>, leased."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast.model.ids import NodeId
from holdfast.model.records import AgentRef, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSave:
    """One save of a script, as far as a node holds it: the bytes of each layer that its own script made (`own`), and of
    those that it took over (`lent`). Layers are the blobs by number and, as layer `blobs`, the manifest."""

    script: str
    version: Version
    blobs: int
    own: Mapping[int, int] = field(default_factory=dict)
    lent: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperRecord:
    """Where its agent listens, and all that it holds."""

    agent: AgentRef
    held: tuple[HeldSave, ...] = ()

    @property
    def node(self) -> NodeId:
        return self.agent.node


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperKeys:
    """Of the machines that keep for each other under one name. No job's name has a colon."""

    name: str

    @property
    def job(self) -> str:
        """What stands in a job's place: for keys, and for what is derived from the secret."""
        return f"script:{self.name}"

    @property
    def keepers(self) -> str:
        return f"jobs/{self.job}/keepers/"

    def keeper(self, node: NodeId) -> str:
        return f"{self.keepers}{node}"
