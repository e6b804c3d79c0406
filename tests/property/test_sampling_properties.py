"""The keyed permutation, against what a permutation is."""

from hypothesis import given
from hypothesis import strategies as st

from holdfast.worker.sampling import microbatch_positions, sample_index, sample_indices

SEEDS = st.integers(min_value=-(2**70), max_value=2**70)


@given(seed=SEEDS, size=st.integers(1, 600), epoch=st.integers(0, 10**9))
def test_every_sample_comes_up_exactly_once_in_every_epoch(seed: int, size: int, epoch: int) -> None:
    indices = sample_indices(seed, range(epoch * size, (epoch + 1) * size), size)

    assert sorted(indices) == list(range(size))


@given(seed=SEEDS, size=st.integers(1, 2**48), positions=st.sets(st.integers(0, 2**60), min_size=1, max_size=20))
def test_an_index_lies_in_the_dataset_and_depends_on_its_position_alone(
    seed: int, size: int, positions: set[int]
) -> None:
    forward = {position: sample_index(seed, position, size) for position in sorted(positions)}
    backward = {position: sample_index(seed, position, size) for position in sorted(positions, reverse=True)}

    assert forward == backward
    assert all(0 <= index < size for index in forward.values())


@given(seed=SEEDS, size=st.integers(2**33, 2**34), start=st.integers(0, 2**32))
def test_large_datasets_show_no_sample_twice_in_an_epoch(seed: int, size: int, start: int) -> None:
    indices = sample_indices(seed, range(start, start + 200), size)

    assert len(set(indices)) == 200


@given(step=st.integers(0, 10**9), microbatches=st.integers(1, 50), microbatch=st.integers(1, 50))
def test_a_steps_microbatches_are_its_slice_of_the_stream(step: int, microbatches: int, microbatch: int) -> None:
    global_batch = microbatches * microbatch
    positions = [
        position
        for index in range(microbatches)
        for position in microbatch_positions(step, index, global_batch=global_batch, microbatch=microbatch)
    ]

    assert positions == list(range(step * global_batch, (step + 1) * global_batch))
