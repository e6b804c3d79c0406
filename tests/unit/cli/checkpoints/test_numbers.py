"""How far apart two runs of numbers are, for every dtype that a blob may hold."""

import math

import numpy as np
import pytest
import torch

from holdfast.cli.checkpoints.numbers import Apart, apart

TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip


def bytes_of(tensor: torch.Tensor) -> bytes:
    held: bytes = tensor.view(torch.uint8).numpy().tobytes()
    return held


@pytest.mark.parametrize("dtype", TORCH)
def test_the_largest_difference_is_that_which_torch_finds(dtype: str) -> None:
    torch.manual_seed(1)
    a = (torch.randn(1000) * 20).to(TORCH[dtype])
    b = (torch.randn(1000) * 20).to(TORCH[dtype])

    found = apart(bytes_of(a), bytes_of(b), dtype)

    distances = (a.double() - b.double()).abs()
    assert found.items == 1000
    assert found.max_abs == distances.max().item()
    assert found.differing == int((bits(a) != bits(b)).sum())


def bits(tensor: torch.Tensor) -> torch.Tensor:
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(kinds[tensor.element_size()])


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_every_8_bit_float_is_read_as_torch_reads_it(dtype: str) -> None:
    for code in range(256):
        number = torch.tensor([code], dtype=torch.uint8).view(TORCH[dtype]).double().item()
        found = apart(bytes([code]), bytes([0]), dtype)
        assert found.max_abs == (abs(number) if math.isfinite(number) else math.inf), code


def test_equal_bits_are_the_same_even_if_they_are_no_numbers() -> None:
    data = np.array([math.nan, math.inf, 1.0], dtype="<f4").tobytes()

    assert apart(data, data, "F32") == Apart(items=3)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_on_one_side_is_infinitely_far(odd: float) -> None:
    a, b = (np.array([first, 1.0], dtype="<f4").tobytes() for first in (odd, 1.0))

    assert apart(a, b, "F32") == Apart(items=2, differing=1, max_abs=math.inf)


def test_a_zero_with_a_sign_differs_bit_for_bit_and_by_nothing() -> None:
    a, b = (np.array([zero], dtype="<f8").tobytes() for zero in (0.0, -0.0))

    assert apart(a, b, "F64") == Apart(items=1, differing=1)


def test_complex_numbers_and_truth_values_are_compared_too() -> None:
    a, b = (np.array([number], dtype="<c8").tobytes() for number in (3 + 4j, 0j))

    assert apart(a, b, "C64").max_abs == 5
    assert apart(b"\x00\x01", b"\x01\x01", "BOOL") == Apart(items=2, differing=1, max_abs=1)


def test_parts_add_up() -> None:
    first, second = Apart(items=4, differing=1, max_abs=2.0), Apart(items=3, differing=3, max_abs=1.0)

    assert first + second == Apart(items=7, differing=4, max_abs=2.0)
