"""The accelerator of a slot."""

import ctypes
import os

import torch

from holdfast.errors import SpecError


def choose_device(wanted: str, index: int, *, repeatable: bool) -> torch.device:
    """The device of slot `index` of this node, for a spec that says cpu, cuda or auto.

    `repeatable`: kernels whose sums depend on timing are replaced by ones that always give the same bits (torch warns
    where it has none). On the CPU this holds as long as the number of threads does.

    Raises:
        SpecError: cuda is wanted and there is none.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SpecError("device: cuda is wanted, but this node has no usable GPU; say cpu, or auto")
    device = torch.device("cuda", index % torch.cuda.device_count())
    torch.cuda.set_device(device)
    if repeatable:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cuda.matmul.allow_tf32 = False
    return device


def give_back_freed(device: torch.device) -> None:
    """Return memory that was freed to the system. Of a GPU's the caching allocator takes better care.

    PyTorch's tensors are aligned, and a freed aligned block fits no second one of its size before glibc 2.38: what is
    kept grows. Takes milliseconds; pages that are needed again cost a fault each.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
    if device.type == "cpu" and trim is not None:
        trim(0)


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that random operations on `device` draw from."""
    if device.type == "cuda":
        torch.cuda.init()
        return torch.cuda.default_generators[device.index]
    return torch.default_generator
