"""One set of nodes that all reach each other."""

from itertools import combinations
from random import Random

from holdfast.control.reach import apart_of, choose
from holdfast.model.ids import NodeId


def nodes(names: str) -> frozenset[NodeId]:
    return frozenset(map(NodeId, names))


def said(**unreachable: str) -> dict[NodeId, frozenset[NodeId]]:
    return {NodeId(node): nodes(others) for node, others in unreachable.items()}


def test_two_are_apart_as_soon_as_one_of_them_says_so() -> None:
    assert apart_of(said(a="b"), nodes("abc")) == said(a="b", b="a")


def test_what_is_said_of_or_by_those_that_are_not_there_does_not_count() -> None:
    assert apart_of(said(a="x", x="b", b="b"), nodes("ab")) == {}


def test_the_larger_half_is_chosen_whole() -> None:
    halves = apart_of(said(a="cde", b="cde"), nodes("abcde"))

    assert choose(nodes("abcde"), halves, len) == nodes("cde")


def test_who_is_apart_from_nobody_is_always_in() -> None:
    assert choose(nodes("abxyz"), apart_of(said(a="b"), nodes("ab")), len) >= nodes("xyz")


def test_of_equals_the_lowest_names_are_chosen_so_that_every_leader_chooses_the_same() -> None:
    assert choose(nodes("abcd"), apart_of(said(c="ab", d="ab"), nodes("abcd")), len) == nodes("ab")


def test_a_ring_of_cuts_has_a_choice_too() -> None:
    assert len(choose(nodes("abcde"), apart_of(said(a="b", b="c", c="d", d="e", e="a"), nodes("abcde")), len)) == 2


def test_halves_of_thousands_are_two_candidates() -> None:
    names = [NodeId(f"n{n:04d}") for n in range(2000)]
    apart = apart_of({node: frozenset(names[:900]) for node in names[900:]}, names)

    assert choose(names, apart, len) == frozenset(names[900:])


def test_what_is_chosen_is_the_best_of_all_sets_that_reach_each_other() -> None:
    rng = Random(3)
    for _ in range(200):
        everyone = nodes("abcdefg"[: rng.randint(1, 7)])
        apart = apart_of(
            {node: frozenset(n for n in everyone if rng.random() < 0.25) for node in sorted(everyone)}, everyone
        )
        best = max(
            len(some)
            for size in range(len(everyone) + 1)
            for some in combinations(sorted(everyone), size)
            if not any(b in apart.get(a, ()) for a, b in combinations(some, 2))
        )
        chosen = choose(everyone, apart, len)
        assert len(chosen) == best
        assert not any(b in apart.get(a, ()) for a, b in combinations(sorted(chosen), 2))
