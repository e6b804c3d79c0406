"""Data order and seeds are functions of position alone, and stay what they are."""

import subprocess
import sys
from collections import Counter

from harness.calls import calls_of
from holdfast.worker.sampling import derive_seed, microbatch_positions, sample_index, sample_indices


def test_every_epoch_holds_each_sample_once_in_an_order_of_its_own() -> None:
    first = sample_indices(0, range(0, 100), 100)
    second = sample_indices(0, range(100, 200), 100)

    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second
    assert first != list(range(100))


def test_seeds_give_orders_of_their_own() -> None:
    assert sample_indices(0, range(50), 50) != sample_indices(1, range(50), 50)


def test_every_order_of_a_small_dataset_comes_up_about_equally_often() -> None:
    orders = Counter(tuple(sample_indices(seed, range(3), 3)) for seed in range(3_000))

    assert len(orders) == 6
    assert all(400 < count < 600 for count in orders.values())


def test_a_dataset_of_one_sample_works() -> None:
    assert sample_indices(3, range(5), 1) == [0] * 5


def test_positions_of_microbatches_tile_the_stream_without_gap_or_overlap() -> None:
    tiled = [
        position
        for step in range(3)
        for index in range(4)
        for position in microbatch_positions(step, index, global_batch=12, microbatch=3)
    ]

    assert tiled == list(range(36))


def test_seeds_are_63_bits_and_never_change_between_releases() -> None:
    # A job that is resumed by a newer release must go on with the same numbers.
    assert derive_seed(0, "dropout", 3, 1, "block-0") == 6906984135774846222
    assert sample_indices(7, range(5), 1_000) == [692, 712, 568, 316, 191]
    assert all(0 <= derive_seed(number) < 2**63 for number in range(1_000))


def test_parts_of_a_seed_are_kept_apart() -> None:
    parts: list[tuple[int | str, ...]] = [("ab", "c"), ("a", "bc"), ("abc",), (1, 23), (12, 3), ("1",), (1,), (-1,), ()]

    assert len({derive_seed(*part) for part in parts}) == len(parts)


def test_an_index_costs_a_few_calls_however_large_the_dataset() -> None:
    assert calls_of(lambda: sample_indices(0, range(2_000), 10**12)) / 2_000 < 20


def test_every_process_derives_the_same() -> None:
    code = "from holdfast.worker.sampling import *; print(derive_seed('x', 1), sample_index(1, 12345, 678))"
    # Hash randomization must not matter, nor what was asked before.
    elsewhere = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)

    assert elsewhere.stdout.split() == [str(derive_seed("x", 1)), str(sample_index(1, 12345, 678))]
