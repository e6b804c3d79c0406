"""Which node reads a layer from the checkpoint for all that want it, and whom the others ask. Pure.

Every agent works it out by itself from the same start. Each layer is read once, the bytes spread evenly over the nodes;
from there it goes down a tree, so that no node has to send it to all others.
"""

from collections.abc import Mapping, Sequence

from holdfast.model.ids import NodeId
from holdfast.model.records import Restore
from holdfast_checkpoint.placement import upload_shares

# So many ask one. With more, who reads sends for longer; with fewer, the last wait for more who come before them.
_ASKED_BY = 3


def lines(restores: Sequence[Restore], layer_bytes: Sequence[int]) -> Mapping[int, tuple[NodeId, ...]]:
    """Of each layer that only the checkpoint has: the nodes that want it, who reads it first."""
    wanted: dict[int, set[NodeId]] = {}
    for restore in restores:
        if not restore.sources:
            wanted.setdefault(restore.layer, set()).add(restore.target.node)
    nodes = {layer: sorted(wanting) for layer, wanting in wanted.items()}
    shares = upload_shares(nodes, layer_bytes)
    reader = {layer: node for node, layers in shares.items() for layer in layers}
    found = {}
    for layer, wanting in sorted(nodes.items()):
        place = wanting.index(NodeId(reader[layer]))
        found[layer] = (*wanting[place:], *wanting[:place])
    return found


def asked(line: Sequence[NodeId], node: NodeId) -> tuple[NodeId, ...]:
    """Whom `node` asks, one after the other; nobody: it reads itself."""
    place, found = line.index(node), []
    while place > 0:
        place = (place - 1) // _ASKED_BY
        found.append(line[place])
    return tuple(found)
