"""Which saves of a script are whole in the memory of its machines, which are safe, and who holds what.

Rule: every agent works it out by itself from the same records, so that all give up the same saves. A save is given up
once a later one is safe, never before.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from holdfast.model.ids import NodeId
from holdfast.model.keeping import HeldSave, KeeperRecord
from holdfast.model.records import Version
from holdfast_checkpoint.placement import Placement, peer_copies


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """Of one script. `saves`: of each version, what each node holds."""

    saves: Mapping[Version, Mapping[NodeId, HeldSave]]
    domains: Mapping[str, str]  # of every node that lives
    # By version and layer, gathered once: there may be thousands of each.
    _holders: Mapping[Version, Mapping[int, Sequence[NodeId]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_holders", {version: _by_layer(held) for version, held in self.saves.items()})

    def whole(self) -> tuple[Version, ...]:
        """Versions of which every layer is somewhere, the manifest included; oldest first."""
        return tuple(sorted((version for version in self.saves if self._is_whole(version)), key=attrgetter("age")))

    def is_safe(self, version: Version, copies: int) -> bool:
        """Whether each layer of it lies in `copies` failure domains besides its first, as far as there are so many."""
        wanted = min(copies + 1, len(set(self.domains.values())))
        return self._is_whole(version) and all(
            len({self.domains[node] for node in self.holders(version, layer)}) >= wanted
            for layer in range(self._layers(version))
        )

    def newest_safe(self, copies: int) -> Version | None:
        return next((version for version in reversed(self.whole()) if self.is_safe(version, copies)), None)

    def holders(self, version: Version, layer: int) -> tuple[NodeId, ...]:
        """Those whose script made it first."""
        return tuple(self._holders.get(version, {}).get(layer, ()))

    def placed(self, version: Version, copies: int) -> Placement:
        """Where copies of a whole version go. What only was lent to the living counts as theirs."""
        holders: dict[int, list[str]] = {}
        sizes: list[int] = []
        for layer in range(self._layers(version)):
            nodes = self.holders(version, layer)
            held = self.saves[version]
            own = [str(node) for node in nodes if layer in held[node].own]
            holders[layer] = own or [str(node) for node in nodes]
            first = held[nodes[0]]
            sizes.append(first.own[layer] if own else first.lent[layer])
        return peer_copies(holders, self.domains, sizes, copies)

    def _is_whole(self, version: Version) -> bool:
        found = self._holders.get(version, {})
        return bool(self.saves.get(version)) and all(layer in found for layer in range(self._layers(version)))

    def _layers(self, version: Version) -> int:
        """How many it has, with the manifest."""
        return max(save.blobs for save in self.saves[version].values()) + 1


def _by_layer(held: Mapping[NodeId, HeldSave]) -> Mapping[int, Sequence[NodeId]]:
    """Of each layer, the nodes that have it; first those whose script made it."""
    found: dict[int, list[NodeId]] = defaultdict(list)
    nodes = sorted(held)
    for node in nodes:
        for layer in held[node].own:
            found[layer].append(node)
    for node in nodes:
        for layer in held[node].lent:
            if layer not in held[node].own:
                found[layer].append(node)
    return dict(found)


def holdings(records: Collection[KeeperRecord], script: str) -> Holdings:
    saves: dict[Version, dict[NodeId, HeldSave]] = {}
    for record in records:
        for save in record.held:
            if save.script == script:
                saves.setdefault(save.version, {})[record.node] = save
    return Holdings(saves=saves, domains={str(record.node): record.agent.domain for record in records})
