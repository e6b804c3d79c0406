"""The transportation problem: what goes from where to where, at the least total cost.

For places and slots by the thousand, of which few kinds differ: an assignment of each would take hours.
"""

from collections.abc import Sequence

Flow = dict[tuple[int, int], int]


def transport(supply: Sequence[int], demand: Sequence[int], costs: Sequence[Sequence[int]]) -> Flow:
    """How much goes from each source to each sink, as (source, sink): amount. `costs[source][sink]` of one piece.

    All demand is met; there must be as much supply. Successive shortest paths (Ahuja, Magnanti and Orlin, Network
    Flows, 1993, section 9.7): each path ends at a sink that still wants, and may push back what was sent before.
    """
    left, wanted = list(supply), list(demand)
    flow: Flow = {}
    for sink in range(len(demand)):
        while wanted[sink]:
            path = _cheapest_path(sink, left, costs, flow)
            amount = min(wanted[sink], left[path[-1][0]])
            amount = min([amount, *(flow[source, after] for source, after in _pushed_back(path))])
            _send(path, amount, flow)
            left[path[-1][0]] -= amount
            wanted[sink] -= amount
    return {edge: amount for edge, amount in sorted(flow.items()) if amount}


# A path from a sink back to a source with supply left: (source, sink) pairs, from the sink that wants on.
_Path = list[tuple[int, int]]


def _cheapest_path(wanting: int, left: Sequence[int], costs: Sequence[Sequence[int]], flow: Flow) -> _Path:
    """By Bellman and Ford, since what is pushed back has negative cost. No sum of a cycle is negative."""
    to_sink: dict[int, int] = {wanting: 0}
    to_source: dict[int, int] = {}
    sink_of: dict[int, int] = {}  # the sink that a source would send to
    source_of: dict[int, int] = {}  # the source that a sink would be given up by
    changed = [wanting]
    while changed:
        reached: list[int] = []
        for sink in changed:
            for source, line in enumerate(costs):
                cost = to_sink[sink] + line[sink]
                if source not in to_source or cost < to_source[source]:
                    to_source[source], sink_of[source] = cost, sink
                    reached.append(source)
        changed = []
        for source in sorted(set(reached)):
            for sink in range(len(costs[source])):
                if sink == wanting or not flow.get((source, sink)):
                    continue
                cost = to_source[source] - costs[source][sink]
                if sink not in to_sink or cost < to_sink[sink]:
                    to_sink[sink], source_of[sink] = cost, source
                    changed.append(sink)
    source = min((source for source, pieces in enumerate(left) if pieces), key=lambda source: to_source[source])
    path = [(source, sink_of[source])]
    while path[-1][1] != wanting:
        giving = source_of[path[-1][1]]
        path.append((giving, sink_of[giving]))
    return path[::-1]


def _pushed_back(path: _Path) -> _Path:
    """What each source but the last on the path sends to the sink of the next one, and would not any more."""
    return [(source, path[at + 1][1]) for at, (source, _) in enumerate(path[:-1])]


def _send(path: _Path, amount: int, flow: Flow) -> None:
    for edge in path:
        flow[edge] = flow.get(edge, 0) + amount
    for edge in _pushed_back(path):
        flow[edge] -= amount
