"""Which saves of a script are whole in the memory of its machines, which are safe, and who holds what.

Rule: every agent works it out by itself from the same records, so that all give up the same saves. A save is given up
once a later one is safe, never before.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from holdfast.model.ids import NodeId
from holdfast.model.keeping import HeldSave, KeeperRecord
from holdfast.model.records import Version
from holdfast_checkpoint.placement import Placement, peer_copies


def age(version: Version) -> tuple[int, int]:
    """Greater for what was saved later: a script may go back to an earlier step."""
    return version.generation, version.step


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """Of one script. `saves`: of each version, what each node holds."""

    saves: Mapping[Version, Mapping[NodeId, HeldSave]]
    domains: Mapping[str, str]  # of every node that lives

    def whole(self) -> tuple[Version, ...]:
        """Versions of which every layer is somewhere, the manifest included; oldest first."""
        return tuple(sorted((version for version in self.saves if self._is_whole(version)), key=age))

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
        held = self.saves.get(version, {})
        own = [node for node in sorted(held) if layer in held[node].own]
        lent = [node for node in sorted(held) if layer in held[node].lent and layer not in held[node].own]
        return (*own, *lent)

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
        held = self.saves.get(version, {})
        found = {layer for save in held.values() for layer in (*save.own, *save.lent)}
        return bool(held) and all(layer in found for layer in range(self._layers(version)))

    def _layers(self, version: Version) -> int:
        """How many it has, with the manifest."""
        return max(save.blobs for save in self.saves[version].values()) + 1


def holdings(records: Collection[KeeperRecord], script: str) -> Holdings:
    saves: dict[Version, dict[NodeId, HeldSave]] = {}
    for record in records:
        for save in record.held:
            if save.script == script:
                saves.setdefault(save.version, {})[record.node] = save
    return Holdings(saves=saves, domains={str(record.node): record.agent.domain for record in records})
