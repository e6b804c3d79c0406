"""Writes a finished job's layers: one blob a layer, which the launcher then joins (`join_final`).

A layer's file may be written again after a loss; every version of it has the same bytes.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from holdfast.worker.layers import HeldLayer
from holdfast_checkpoint.blob import read_blob, tensors_sha256, write_blob

_FOLDER = "layers"


def write_final(out: str, layers: Sequence[HeldLayer], before_each: Callable[[], None]) -> None:
    """One file a layer under `out`/layers: weights (`model.`), optimizer state (`optim.`), scalars as metadata."""
    for layer in layers:
        before_each()
        path = Path(out) / _FOLDER / f"{layer.index:05d}.safetensors"
        metadata = {"layer": layer.name, "scalars": json.dumps(layer.scalars(), sort_keys=True)}
        write_blob(path, layer.tensors(), metadata)


def join_final(out: Path, layer_names: Sequence[str]) -> tuple[str, str]:
    """Join the layers' files into weights.safetensors and optimizer.safetensors; returns their hashes.

    Tensors are named `<layer>.<parameter>` and `<layer>.<parameter>.<key>`; hashes are over the tensors sorted by
    name.
    """
    weights: dict[str, Tensor] = {}
    optimizer: dict[str, Tensor] = {}
    for index, layer in enumerate(layer_names):
        for name, tensor in read_blob(out / _FOLDER / f"{index:05d}.safetensors").items():
            kind, _, rest = name.partition(".")
            if kind == "model":
                weights[f"{layer}.{rest}"] = tensor
            else:
                key, _, parameter = rest.partition(".")
                optimizer[f"{layer}.{parameter}.{key}"] = tensor
    write_blob(out / "weights.safetensors", weights, {})
    write_blob(out / "optimizer.safetensors", optimizer, {})
    return tensors_sha256(sorted(weights.items())), tensors_sha256(sorted(optimizer.items()))
