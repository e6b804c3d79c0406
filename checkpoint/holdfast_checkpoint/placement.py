"""Which node keeps a copy of which layer for others, and which node uploads it: pure functions of who holds what.

Every agent works it out by itself from the same plan and gets the same answer, so that nobody has to tell anybody.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace

# A copy moves off a node by itself only if that bears over so many times what the other would: what lies well enough
# stays where it is.
_UNEVEN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Copying:
    """`target` pulls `layer` from `source`, which holds it live."""

    layer: int
    source: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """`copyings` of each layer, in the order in which the targets were chosen; layers with enough live replicas have
    none. `short`: of which layers how many copies could not be put into a failure domain of their own."""

    copyings: Mapping[int, tuple[Copying, ...]] = field(default_factory=dict)
    short: Mapping[int, int] = field(default_factory=dict)

    def pulled_by(self, node: str) -> Mapping[str, tuple[int, ...]]:
        """Of each source of `node`, the layers it pulls from there, ascending."""
        return self._others(node, to_node=True)

    def pulled_from(self, node: str) -> Mapping[str, tuple[int, ...]]:
        """Of each node that pulls from `node`, the layers, ascending."""
        return self._others(node, to_node=False)

    def _others(self, node: str, *, to_node: bool) -> Mapping[str, tuple[int, ...]]:
        layers: dict[str, list[int]] = defaultdict(list)
        for layer in sorted(self.copyings):
            for copying in self.copyings[layer]:
                own, other = (copying.target, copying.source) if to_node else (copying.source, copying.target)
                if own == node:
                    layers[other].append(layer)
        return {other: tuple(layers[other]) for other in sorted(layers)}


def peer_copies(
    holders: Mapping[int, Sequence[str]],
    domains: Mapping[str, str],
    layer_bytes: Sequence[int],
    copies: int,
    before: Placement | None = None,
) -> Placement:
    """Where further copies go, so that each layer lies in `copies` failure domains besides that of its first holder.

    `holders`: of each layer, the nodes on which it is live, whose copies count. `domains`: the failure domain of every
    node that lives, also of those that hold nothing yet. With fewer domains than are wanted, other nodes of the same
    domains make up the number as far as there are any. Copies of the placement `before` stay where they are still of
    use. Biggest layers first, each to the node that bears the fewest bytes, ties by name.
    """
    nodes = _Nodes(domains)
    layers = {layer: _Layer(layer_bytes[layer], holders[layer], domains, copies) for layer in holders}
    order = sorted(layers, key=lambda layer: (-layers[layer].size, layer))
    if before is not None:
        for layer in order:
            _keep(layers[layer], before.copyings.get(layer, ()), nodes)
    for layer in order:
        _fill(layers[layer], nodes)
    while _even_out([layers[layer] for layer in order], nodes):
        pass  # ends: each move makes the sum of the squares of the loads smaller
    return Placement(
        copyings=_with_sources(order, layers),
        short={layer: layers[layer].short for layer in sorted(layers) if layers[layer].short},
    )


def upload_shares(holders: Mapping[int, Sequence[str]], layer_bytes: Sequence[int]) -> Mapping[str, tuple[int, ...]]:
    """Which layers each node uploads, ascending: every layer once, by a node that holds it live, bytes spread evenly.

    No layer could be handed to another of its holders so that the busier of the two gets less to do.
    """
    load: dict[str, int] = {node: 0 for layer in sorted(holders) for node in sorted(holders[layer])}
    taken: dict[int, str] = {}
    # Those with the least choice first, then the biggest: what comes last can still even out what came before.
    for layer in sorted(holders, key=lambda layer: (len(set(holders[layer])), -layer_bytes[layer], layer)):
        taken[layer] = min(holders[layer], key=lambda node: (load[node], node))
        load[taken[layer]] += layer_bytes[layer]
    moved = True
    while moved:  # ends: each move makes the sorted list of loads smaller
        moved = False
        for layer in sorted(holders, key=lambda layer: (-layer_bytes[layer], layer)):
            size, now = layer_bytes[layer], taken[layer]
            best = min(holders[layer], key=lambda node: (load[node], node))
            if load[best] + size < load[now]:
                load[now], load[best], taken[layer], moved = load[now] - size, load[best] + size, best, True
    shares: dict[str, list[int]] = {node: [] for node in sorted(load)}
    for layer in sorted(taken):
        shares[taken[layer]].append(layer)
    return {node: tuple(share) for node, share in shares.items()}


class _Layer:
    """One layer's copies while they are being placed."""

    def __init__(self, size: int, holders: Sequence[str], domains: Mapping[str, str], copies: int) -> None:
        self.size = size
        self.holders = sorted(set(holders))
        self.wanted = copies + 1 if holders else 0
        self.targets: list[str] = []
        self.short = 0
        self.domains = {domains[node] for node in self.holders}

    @property
    def nodes(self) -> Iterator[str]:
        yield from self.holders
        yield from self.targets

    @property
    def needs_domains(self) -> int:
        return self.wanted - len(self.domains)

    @property
    def needs_nodes(self) -> int:
        return self.wanted - len(self.holders) - len(self.targets)


class _Nodes:
    """Bytes that each node bears, and who bears the fewest.

    Heaps hold entries that may be out of date, and are cleaned where they are looked at: each change adds one.
    """

    def __init__(self, domains: Mapping[str, str]) -> None:
        self.domains = domains
        self.load = dict.fromkeys(sorted(domains), 0)
        self._in_domain: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for node in self.load:
            self._in_domain[domains[node]].append((0, node))
        self.domain_count = len(self._in_domain)
        self._best = [(*entries[0], domain) for domain, entries in sorted(self._in_domain.items())]
        heapify(self._best)

    def add(self, node: str, size: int) -> None:
        domain = self.domains[node]
        self.load[node] += size
        entries = self._in_domain[domain]
        if entries[0][1] == node:
            heapreplace(entries, (self.load[node], node))
        else:
            heappush(entries, (self.load[node], node))
        heappush(self._best, (*self._first(domain), domain))

    def least(self, avoid: Collection[str]) -> str | None:
        """Who bears the fewest bytes, of the nodes outside of the domains to `avoid`."""
        passed: dict[str, tuple[int, str, str]] = {}
        found = None
        while self._best and found is None:
            size, node, domain = self._best[0]
            if (size, node) != self._first(domain):
                heappop(self._best)
            elif domain in avoid:
                passed[domain] = heappop(self._best)
            else:
                found = node
        for entry in passed.values():
            heappush(self._best, entry)
        return found

    def least_within(self, layer: _Layer) -> str | None:
        """Who bears the fewest bytes, of all nodes without a copy; those first whose domain has the fewest copies."""
        has = set(layer.nodes)
        copies: dict[str, int] = defaultdict(int)
        for node in has:
            copies[self.domains[node]] += 1
        free = [(copies[domain], *entry) for domain in sorted(self._in_domain) if (entry := self._free(domain, has))]
        return min(free)[2] if free else None

    def _free(self, domain: str, has: Collection[str]) -> tuple[int, str] | None:
        """The first entry that is not of these nodes."""
        entries, passed, found = self._in_domain[domain], [], None
        while entries and found is None:
            if self._is_stale(entries[0]):
                heappop(entries)
            elif entries[0][1] in has:
                passed.append(heappop(entries))
            else:
                found = entries[0]
        for entry in passed:
            heappush(entries, entry)
        return found

    def _first(self, domain: str) -> tuple[int, str]:
        entries = self._in_domain[domain]
        while self._is_stale(entries[0]):
            heappop(entries)
        return entries[0]

    def _is_stale(self, entry: tuple[int, str]) -> bool:
        return self.load[entry[1]] != entry[0]


def _keep(layer: _Layer, before: Sequence[Copying], nodes: _Nodes) -> None:
    """Of the copies that there were, those in a domain of their own. Others come back by `_fill`, if at all: once there
    are domains enough they are not wanted."""
    for copying in before:
        domain = nodes.domains.get(copying.target)
        if domain is not None and domain not in layer.domains and layer.needs_domains > 0:
            _take(layer, copying.target, nodes)
    for copying in before:
        lives = copying.target in nodes.domains and copying.target not in set(layer.nodes)
        # So many have to share a domain, once `_fill` has used up those that are free.
        if lives and layer.needs_nodes > nodes.domain_count - len(layer.domains) and layer.needs_domains > 0:
            _take(layer, copying.target, nodes)


def _fill(layer: _Layer, nodes: _Nodes) -> None:
    while layer.needs_domains > 0 and (node := nodes.least(layer.domains)) is not None:
        _take(layer, node, nodes)
    layer.short = max(0, layer.needs_domains)
    while layer.short and layer.needs_nodes > 0 and (other := nodes.least_within(layer)) is not None:
        _take(layer, other, nodes)


def _take(layer: _Layer, node: str, nodes: _Nodes) -> None:
    layer.targets.append(node)
    layer.domains.add(nodes.domains[node])
    nodes.add(node, layer.size)


def _even_out(layers: Sequence[_Layer], nodes: _Nodes) -> bool:
    """Move copies off nodes that bear far more than another that could take them: one that has just joined, say.
    Returns whether any moved."""
    moved = False
    for layer in layers:
        if layer.short:
            continue  # there is no choice of domains
        for place, node in enumerate(layer.targets):
            others = layer.domains - {nodes.domains[node]}
            best = nodes.least(others)
            if best is not None and nodes.load[node] > _UNEVEN * (nodes.load[best] + layer.size):
                nodes.add(node, -layer.size)
                nodes.add(best, layer.size)
                layer.targets[place], moved = best, True
                layer.domains = others | {nodes.domains[best]}
    return moved


def _with_sources(order: Sequence[int], layers: Mapping[int, _Layer]) -> Mapping[int, tuple[Copying, ...]]:
    """Each copy comes from the holder that has the fewest bytes to send."""
    sent: dict[str, int] = defaultdict(int)
    copyings: dict[int, tuple[Copying, ...]] = {}
    for layer in order:
        made = []
        for target in layers[layer].targets:
            source = min(layers[layer].holders, key=lambda node: (sent[node], node))
            sent[source] += layers[layer].size
            made.append(Copying(layer=layer, source=source, target=target))
        if made:
            copyings[layer] = tuple(made)
    return {layer: copyings[layer] for layer in sorted(copyings)}
