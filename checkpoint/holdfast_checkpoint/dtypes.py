"""Torch's dtypes by their safetensors names, and tensors as the bytes they consist of."""

from typing import Any

import torch
from torch import Tensor

_TORCH = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "U16": torch.uint16, "I16": torch.int16, "F16": torch.float16,
    "BF16": torch.bfloat16, "U32": torch.uint32, "I32": torch.int32, "F32": torch.float32, "U64": torch.uint64,
    "I64": torch.int64, "F64": torch.float64, "C64": torch.complex64,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _TORCH.items()}


def name_of(dtype: torch.dtype, what: str) -> str:
    """Raises: ValueError: safetensors has no such dtype; `what` is for the message."""
    if dtype not in _NAMES:
        raise ValueError(f"{what} has dtype {dtype}, which safetensors cannot hold; use one of {', '.join(_TORCH)}")
    return _NAMES[dtype]


def is_known(name: str) -> bool:
    return name in _TORCH


def dtype_of(name: str) -> torch.dtype:
    """Of one that is known."""
    return _TORCH[name]


def item_bytes(name: str) -> int:
    return _TORCH[name].itemsize


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor, to read and to write. The caller keeps the tensor alive."""
    if tensor.numel() == 0:
        return memoryview(b"")
    # Not view(-1), which keeps odd strides of dims of size 1, as slices have them.
    flat = tensor.detach().as_strided((tensor.numel(),), (1,)).view(torch.uint8)
    data: Any = flat.numpy()  # numpy's stubs do not say it is a buffer
    return memoryview(data).cast("B")


def is_plain_memory(tensor: Tensor) -> bool:
    """Whether `bytes_of` works: contiguous, strided, on the CPU, no conjugation or negation pending."""
    return (
        tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and tensor.is_contiguous()
        and not tensor.is_conj()
        and not tensor.is_neg()
    )
