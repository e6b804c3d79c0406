"""The assignment problem: each row gets a column of its own, at the least total cost."""

from collections.abc import Sequence

# Importing scipy.optimize takes 0.3 to 0.4 s, and the agent that plans after a loss may not have it imported. Up to
# this many columns our own solver is done long before the import would be (random costs: 64 columns 2 ms, 192 columns
# 25 ms).
_OWN_COLUMNS_MAX = 256


def assign(costs: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The column of each row; no more rows than columns."""
    if not costs:
        return ()
    if len(costs[0]) > _OWN_COLUMNS_MAX:
        from scipy.optimize import linear_sum_assignment

        return tuple(int(column) for column in linear_sum_assignment(costs)[1])
    return shortest_paths(costs)


def shortest_paths(costs: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The Hungarian method by shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987).

    Rows enter one by one; each takes the cheapest alternating path to a free column, by Dijkstra over reduced costs:
    O(rows * rows * columns).
    """
    rows, columns = len(costs), len(costs[0])
    row_price = [0] * rows
    column_price = [0] * columns
    row_of = [-1] * columns
    for first in range(rows):
        distance: list[int | None] = [None] * columns
        previous = [-1] * columns
        open_columns = list(range(columns))
        closed: list[int] = []
        row, reached, column = first, 0, -1
        while True:
            line, price = costs[row], row_price[row] - reached
            best: int | None = None
            for candidate in open_columns:
                length = line[candidate] - price - column_price[candidate]
                known = distance[candidate]
                if known is None or length < known:
                    distance[candidate] = known = length
                    previous[candidate] = column
                if best is None or known < best:
                    best, nearest = known, candidate
            assert best is not None, f"{rows} rows do not fit {columns} columns"
            reached, column = best, nearest
            if row_of[column] < 0:
                break
            open_columns.remove(column)
            closed.append(column)
            row = row_of[column]
        row_price[first] += reached
        for done in closed:
            gain = reached - (distance[done] or 0)
            row_price[row_of[done]] += gain
            column_price[done] -= gain
        while column >= 0:
            before = previous[column]
            row_of[column] = first if before < 0 else row_of[before]
            column = before
    column_of = [-1] * rows
    for column, row in enumerate(row_of):
        if row >= 0:
            column_of[row] = column
    return tuple(column_of)
