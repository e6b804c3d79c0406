"""Who holds copies of which layers for others, and who uploads what: by hand."""

from collections import Counter

import pytest

from holdfast_checkpoint.placement import Copying, Placement, peer_copies, upload_shares

RACKS = {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "c1": "c"}


def targets(placement: Placement) -> dict[int, list[str]]:
    return {layer: [copying.target for copying in made] for layer, made in placement.copyings.items()}


def test_a_layer_on_one_node_is_copied_into_another_domain() -> None:
    placed = peer_copies({0: ["a1"]}, RACKS, [10], copies=1)
    assert placed.copyings == {0: (Copying(layer=0, source="a1", target="b1"),)}
    assert placed.short == {}


def test_what_is_live_in_domains_enough_is_not_copied() -> None:
    assert peer_copies({0: ["a1", "b2"]}, RACKS, [10], copies=1) == Placement()


def test_replicas_that_share_a_domain_count_once() -> None:
    placed = peer_copies({0: ["a1", "a2"]}, RACKS, [10], copies=1)
    assert targets(placed) == {0: ["b1"]}


def test_every_copy_goes_to_a_domain_of_its_own() -> None:
    placed = peer_copies({0: ["a1"], 1: ["b1", "c1"]}, RACKS, [10, 10], copies=2)
    assert {RACKS[node] for node in targets(placed)[0]} == {"b", "c"}
    assert targets(placed)[1] in (["a1"], ["a2"])


def test_with_too_few_domains_other_nodes_make_up_the_number_and_that_is_said() -> None:
    placed = peer_copies({0: ["a1"]}, {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}, [10], copies=3)
    assert set(targets(placed)[0]) == {"b1", "a2", "b2"}
    assert placed.short == {0: 2}


def test_replicas_in_one_domain_are_enough_where_there_is_no_other() -> None:
    placed = peer_copies({0: ["a1", "a2"]}, {"a1": "a", "a2": "a", "a3": "a"}, [10], copies=1)
    assert placed == Placement(short={0: 1})


def test_a_node_alone_has_nowhere_to_copy_to() -> None:
    assert peer_copies({0: ["a1"]}, {"a1": "a"}, [10], copies=2) == Placement(short={0: 2})


def test_no_copies_wanted_are_none_made() -> None:
    assert peer_copies({0: ["a1"]}, RACKS, [10], copies=0) == Placement()


def test_bytes_are_spread_over_targets_and_over_sources() -> None:
    holders, sizes = {layer: ["a1", "a2"] for layer in range(4)}, [30, 20, 20, 30]
    placed = peer_copies(holders, {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}, sizes, copies=1)
    for side in ("source", "target"):
        borne: Counter[str] = Counter()
        for copying in (copying for made in placed.copyings.values() for copying in made):
            borne[getattr(copying, side)] += sizes[copying.layer]
        assert sorted(borne.values()) == [50, 50]


def test_a_lost_node_moves_only_its_own_copies() -> None:
    domains = {f"n{number}": f"d{number}" for number in range(8)}
    holders = {layer: [f"n{layer}"] for layer in range(8)}
    before = peer_copies(holders, domains, [10] * 8, copies=1)
    gone = targets(before)[0][0]
    left = {node: domain for node, domain in domains.items() if node != gone}
    moved = {layer: nodes if nodes != [gone] else ["n0"] for layer, nodes in holders.items()}
    after = peer_copies(moved, left, [10] * 8, copies=1, before=before)
    kept = [layer for layer in range(8) if targets(before)[layer] != [gone] and targets(before)[layer] != moved[layer]]
    assert kept
    assert {layer: targets(after)[layer] for layer in kept} == {layer: targets(before)[layer] for layer in kept}


def test_a_copy_is_dropped_once_the_layer_is_live_elsewhere() -> None:
    before = peer_copies({0: ["a1"]}, RACKS, [10], copies=1)
    assert peer_copies({0: ["a1", "c1"]}, RACKS, [10], copies=1, before=before) == Placement()


def test_a_copy_whose_node_now_holds_the_layer_live_goes_elsewhere() -> None:
    before = peer_copies({0: ["a1"]}, RACKS, [10], copies=1)
    assert targets(peer_copies({0: ["b1"]}, RACKS, [10], copies=1, before=before)) == {0: ["a1"]}


def test_a_copy_in_the_same_domain_moves_out_once_another_domain_is_there() -> None:
    before = peer_copies({0: ["a1"]}, {"a1": "a", "a2": "a", "a3": "a"}, [10], copies=1)
    assert targets(before) == {0: ["a2"]}
    after = peer_copies({0: ["a1"]}, {"a1": "a", "a2": "a", "a3": "a", "b1": "b"}, [10], copies=1, before=before)
    assert (targets(after), after.short) == ({0: ["b1"]}, {})


def test_copies_that_must_share_a_domain_stay_where_they_are() -> None:
    domains = {"a1": "a", "a2": "a", "a3": "a", "a4": "a"}
    before = Placement(copyings={0: (Copying(layer=0, source="a1", target="a4"),)})
    assert targets(peer_copies({0: ["a1"]}, domains, [10], copies=1, before=before)) == {0: ["a4"]}


def test_a_node_that_joins_takes_a_share_from_those_that_bear_much() -> None:
    domains = {"n0": "d0", "n1": "d1"}
    holders = {layer: ["n0"] for layer in range(12)}
    before = peer_copies(holders, domains, [10] * 12, copies=1)
    after = peer_copies(holders, domains | {"n2": "d2"}, [10] * 12, copies=1, before=before)
    moved = [layer for layer in range(12) if targets(after)[layer] == ["n2"]]
    assert 2 <= len(moved) <= 6, "some, and no more than it would have had from the start"


def test_each_node_finds_what_it_pulls_and_who_pulls_from_it() -> None:
    placed = peer_copies({0: ["a1"], 1: ["a1"], 2: ["b1"]}, {"a1": "a", "b1": "b"}, [10, 10, 10], copies=1)
    assert placed.pulled_by("b1") == {"a1": (0, 1)}
    assert placed.pulled_by("a1") == {"b1": (2,)}
    assert placed.pulled_from("a1") == {"b1": (0, 1)}


def test_uploads_are_shared_among_the_holders() -> None:
    holders = {layer: ["a", "b"] for layer in range(4)}
    assert upload_shares(holders, [10, 10, 10, 10]) == {"a": (0, 2), "b": (1, 3)}


def test_who_alone_holds_a_layer_uploads_it_and_others_take_the_rest() -> None:
    assert upload_shares({0: ["a"], 1: ["a", "b"], 2: ["a", "b"]}, [20, 10, 10]) == {"a": (0,), "b": (1, 2)}


@pytest.mark.parametrize("depth", [1, 100, 10_000])
def test_ten_thousand_nodes_are_placed(depth: int) -> None:
    """Would take minutes if it were quadratic; the suite's own limit on a test finds that."""
    domains = {f"n{number:05}": f"d{number // 4}" for number in range(10_000)}
    nodes = sorted(domains)
    layers = max(depth, 40)
    holders = {layer: nodes[layer * depth // layers :: depth] for layer in range(layers)}
    placed = peer_copies(holders, domains, [1000] * layers, copies=2)
    again = peer_copies(holders, domains, [1000] * layers, copies=2, before=placed)
    assert again == placed
    assert len(placed.copyings) == (layers if depth == 10_000 else 0)
    assert sum(len(share) for share in upload_shares(holders, [1000] * layers).values()) == layers
