"""Members that wait for the storage which a start restores from: for how long, is not theirs to say."""

from dataclasses import dataclass, field

from holdfast.model.ids import NodeId
from holdfast.model.records import NodeAck


@dataclass(slots=True)
class Waits:
    """Of one generation."""

    nodes: set[NodeId] = field(default_factory=set)
    ended_s: float = 0.0  # when the last one that waited did so no more

    def told(self, ack: NodeAck, now_s: float) -> None:
        if ack.waits:
            self.nodes.add(ack.node)
        elif ack.node in self.nodes:
            self.nodes.discard(ack.node)
            self.ended_s = now_s
