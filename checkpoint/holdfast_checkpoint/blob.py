"""A blob: the named tensors of one layer as a safetensors file, written whole or not at all."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def write_blob(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `tensors` (on any device, some of which may share memory) to `path`.

    Readers never see part of a file: it is written beside its place and renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    save_file(_apart(tensors), partial, dict(metadata))
    partial.chmod(0o666 & ~_umask())  # safetensors writes for the owner alone
    partial.replace(path)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous and on the CPU; of those that share memory, which safetensors refuses, all but the first as a copy."""
    apart: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    return apart


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def read_blob(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in sorted(file.keys())}


def read_metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def tensors_sha256(items: Iterable[tuple[str, Tensor]]) -> str:
    """Hash of name, dtype, shape and bytes of each tensor, in the order given (callers sort by name)."""
    digest = hashlib.sha256()
    for name, tensor in items:
        digest.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        data: Any = tensor.contiguous().view(-1).view(torch.uint8).numpy()  # numpy's stubs do not say it is a buffer
        digest.update(data)
    return digest.hexdigest()
