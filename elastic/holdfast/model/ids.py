"""Names of things. Ids are plain strings and integers on the wire and distinct types in the code."""

from dataclasses import dataclass
from typing import NewType

NodeId = NewType("NodeId", str)
WorkerId = NewType("WorkerId", str)


@dataclass(frozen=True, slots=True, order=True)
class SlotId:
    """One accelerator of one node; ordered by node, then index."""

    node: NodeId
    index: int

    def __str__(self) -> str:
        return f"{self.node}/{self.index}"
