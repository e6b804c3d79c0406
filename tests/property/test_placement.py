"""Placement of copies and of uploads, against what a dumb implementation finds by trying."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from hypothesis import given
from hypothesis import strategies as st

from holdfast_checkpoint.placement import Placement, peer_copies, upload_shares

NODES = [f"n{number}" for number in range(7)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    holders: Mapping[int, Sequence[str]]
    domains: Mapping[str, str]
    layer_bytes: Sequence[int]
    copies: int

    def place(self, before: Placement | None = None) -> Placement:
        return peer_copies(self.holders, self.domains, self.layer_bytes, self.copies, before)


@st.composite
def cases(draw: st.DrawFn, layers: int | None = None) -> Case:
    count = draw(st.integers(1, 8)) if layers is None else layers
    domains = draw(st.dictionaries(st.sampled_from(NODES), st.sampled_from("wxyz"), min_size=1))
    alive = st.sampled_from(sorted(domains))
    return Case(
        holders={layer: draw(st.lists(alive, min_size=1, max_size=3, unique=True)) for layer in range(count)},
        domains=domains,
        layer_bytes=draw(st.lists(st.integers(1, 20), min_size=count, max_size=count)),
        copies=draw(st.integers(0, 3)),
    )


def check(case: Case, placed: Placement) -> None:
    """What must hold of any placement, whatever came before."""
    in_all = set(case.domains.values())
    for layer, holders in case.holders.items():
        made = placed.copyings.get(layer, ())
        targets = [copying.target for copying in made]
        live = {case.domains[node] for node in holders}
        after = live | {case.domains[node] for node in targets}
        wanted = min(case.copies + 1, len(in_all))
        assert len(after) == max(len(live), wanted), "in as many domains as can be had, and in no more"
        assert placed.short.get(layer, 0) == max(0, case.copies + 1 - max(len(in_all), len(live)))
        assert len(set(targets) | set(holders)) == len(targets) + len(holders), "no node twice"
        if layer in placed.short:
            nodes = min(case.copies + 1, len(case.domains))
            least = len(holders) + len(after) - len(live)
            assert len(targets) + len(holders) == max(nodes, least), "other nodes make up the number"
        else:
            assert len(targets) == len(after) - len(live), "no copy beyond what is wanted"
        assert all(copying.source in holders and copying.layer == layer for copying in made)


@given(cases())
def test_every_layer_gets_the_copies_it_wants_where_there_are_domains_enough(case: Case) -> None:
    check(case, case.place())


@given(cases(layers=5), st.data())
def test_copies_are_as_many_and_as_far_apart_after_any_changes(case: Case, data: st.DataObject) -> None:
    placed = case.place()
    for _ in range(3):
        case = data.draw(cases(layers=5))
        placed = case.place(placed)
        check(case, placed)


@given(cases())
def test_the_same_question_has_the_same_answer_in_whatever_order_it_is_put(case: Case) -> None:
    turned = Case(
        holders={layer: case.holders[layer][::-1] for layer in reversed(range(len(case.holders)))},
        domains=dict(sorted(case.domains.items(), reverse=True)),
        layer_bytes=case.layer_bytes,
        copies=case.copies,
    )
    assert turned.place() == case.place()


@given(cases())
def test_nothing_moves_where_nothing_changed(case: Case) -> None:
    placed = case.place()
    assert case.place(placed) == placed


@given(cases(), st.data())
def test_a_node_that_leaves_moves_copies_only_off_nodes_that_bear_more_than_others(
    case: Case, data: st.DataObject
) -> None:
    placed = case.place()
    gone = data.draw(st.sampled_from(sorted(case.domains)))
    left = {node: domain for node, domain in case.domains.items() if node != gone}
    holders = {layer: [node for node in nodes if node != gone] for layer, nodes in case.holders.items()}
    if not all(holders.values()):
        return
    after = Case(holders=holders, domains=left, layer_bytes=case.layer_bytes, copies=case.copies)
    found = after.place(placed)
    check(after, found)
    borne = loads(case, placed)
    for layer in case.holders.keys() - placed.short.keys() - found.short.keys():
        stayed = {copying.target for copying in found.copyings.get(layer, ())}
        for node in {copying.target for copying in placed.copyings.get(layer, ())} - {gone} - stayed:
            least = min(borne[other] for other in left)
            assert borne[node] > least or len(holders[layer]) < len(case.holders[layer]), "a move that is of use"


def loads(case: Case, placed: Placement) -> Counter[str]:
    found: Counter[str] = Counter(dict.fromkeys(case.domains, 0))
    for made in placed.copyings.values():
        for copying in made:
            found[copying.target] += case.layer_bytes[copying.layer]
    return found


@given(st.integers(2, 6), st.lists(st.integers(1, 20), min_size=1, max_size=12))
def test_where_every_node_could_take_any_copy_loads_differ_by_one_layer_at_most(nodes: int, sizes: list[int]) -> None:
    domains = {f"n{number}": f"d{number}" for number in range(nodes)} | {"holder": "alone"}
    case = Case(
        holders={layer: ["holder"] for layer in range(len(sizes))}, domains=domains, layer_bytes=sizes, copies=1
    )
    found = [load for node, load in loads(case, case.place()).items() if node != "holder"]
    assert max(found) - min(found) <= max(sizes)


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, unique=True), min_size=1, max_size=7), st.data())
def test_uploads_cover_every_layer_once_and_are_as_even_as_handing_on_makes_them(
    holders: list[list[str]], data: st.DataObject
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 20), min_size=len(holders), max_size=len(holders)))
    shares = upload_shares(dict(enumerate(holders)), sizes)
    assert sorted(layer for share in shares.values() for layer in share) == list(range(len(holders)))
    assert all(node in holders[layer] for node, share in shares.items() for layer in share)
    load = {node: sum(sizes[layer] for layer in share) for node, share in shares.items()}
    for node, share in shares.items():
        for layer in share:
            assert all(load[other] + sizes[layer] >= load[node] for other in holders[layer] if other != node)
    assert max(load.values()) <= 2 * best_makespan(holders, sizes)


def best_makespan(holders: Sequence[Sequence[str]], sizes: Sequence[int]) -> int:
    """By trying every assignment."""
    makespans = []
    for chosen in product(*holders):
        load: Counter[str] = Counter()
        for node, size in zip(chosen, sizes, strict=True):
            load[node] += size
        makespans.append(max(load.values()))
    return min(makespans)


@given(st.integers(1, 5), st.integers(1, 20))
def test_equal_layers_that_all_hold_are_uploaded_in_equal_shares(nodes: int, layers: int) -> None:
    names = [f"n{number}" for number in range(nodes)]
    shares = upload_shares(dict.fromkeys(range(layers), names), [7] * layers)
    counts = sorted(len(share) for share in shares.values())
    assert all(b - a <= 1 for a, b in pairwise([counts[0], counts[-1]]))
