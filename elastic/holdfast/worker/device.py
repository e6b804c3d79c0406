"""The accelerator of a slot."""

import ctypes
import os
import random
import sys

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


class Randomness:
    """All generators that a user's code on `device` draws from without asking: torch's, Python's, numpy's."""

    def __init__(self, device: torch.device) -> None:
        # Those of this device and of the CPU; torch.manual_seed would seed those of all devices.
        self._generators = [torch.default_generator]
        if device.type == "cuda":
            torch.cuda.init()
            self._generators.append(torch.cuda.default_generators[device.index])

    def seed(self, seed: int) -> None:
        """`seed`: 63 bits."""
        for generator in self._generators:
            generator.manual_seed(seed)
        _seed_beside_torch(seed)


def seed_all(seed: int) -> None:
    """All generators of all devices, and those of Python and numpy. `seed`: 63 bits."""
    torch.manual_seed(seed)
    _seed_beside_torch(seed)


def _seed_beside_torch(seed: int) -> None:
    random.seed(seed)
    numpy = sys.modules.get("numpy")  # who has not imported it does not draw from it
    if numpy is not None:
        numpy.random.seed(seed & 0xFFFFFFFF)
