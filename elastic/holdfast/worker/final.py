"""Writes a finished job's layers: one blob a layer, which the launcher then joins (`join_final`).

A layer's file may be written again after a loss; every version of it has the same bytes.
"""

import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from holdfast.errors import JobFailedError
from holdfast.worker.layers import HeldLayer
from holdfast_checkpoint.aside import call_aside
from holdfast_checkpoint.blob import read_blob, read_metadata, tensors_sha256, write_blob
from holdfast_checkpoint.errors import CheckpointError, FormatError, StorageBusyError
from holdfast_checkpoint.final import FinalPlace, layer_path

log = logging.getLogger(__name__)
_LOOK_S = 0.005
# A call that has not come back after so long is left behind, and made anew.
_HANGS_S = 600.0


class FinalWriter:
    """Of one worker. Whoever waits for the storage beats, so that nobody takes it for stuck, and an abort ends it."""

    def __init__(self, out: str, submission: str, patience_s: float) -> None:
        """`out`: a folder or URL; empty: they are kept nowhere. `patience_s`: how long a storage that does not take a
        layer is tried again."""
        self._out, self._submission, self._patience_s = out, submission, patience_s

    def write(self, layers: Sequence[HeldLayer], beat: Callable[[], None]) -> None:
        """One file a layer: weights (`model.`), optimizer state (`optim.`), scalars as metadata. `beat` may raise.

        Raises:
            JobFailedError: the place does not take them.
        """
        if not self._out:
            log.warning("final.nowhere", extra={"layers": len(layers)})
            return
        try:
            place = FinalPlace(self._out)
            with tempfile.TemporaryDirectory(prefix="final-") as scratch:
                for layer in layers:
                    beat()
                    path = Path(scratch) / layer_path(layer.index)
                    scalars = json.dumps(layer.scalars(), sort_keys=True)
                    metadata = {"layer": layer.name, "scalars": scalars, "submission": self._submission}
                    write_blob(path, layer.tensors(), metadata)
                    self._store(place, layer.index, path, beat)
                    path.unlink()
        except (CheckpointError, OSError) as error:
            raise JobFailedError(
                f"the final weights cannot be written to {self._out}: {error}; mend that and submit the job again: "
                "where there are checkpoints it goes on from the last one"
            ) from error

    def _store(self, place: FinalPlace, layer: int, path: Path, beat: Callable[[], None]) -> None:
        """Again and again for `patience_s`, while the storage fails for now. Raises: StorageError."""
        until_s = time.monotonic() + self._patience_s
        while True:
            try:
                _put(place, layer, path, beat, min(_HANGS_S, self._patience_s))
                return
            except StorageBusyError as error:
                if time.monotonic() >= until_s:
                    raise
                log.warning("final.not_written", extra={"layer": layer, "error": str(error)})


def _put(place: FinalPlace, layer: int, path: Path, beat: Callable[[], None], within_s: float) -> None:
    given_up, until_s = threading.Event(), time.monotonic() + within_s
    call = call_aside(partial(place.put_layer, layer, path, given_up), "storage-final")
    try:
        while not call.done():
            beat()
            if time.monotonic() >= until_s:
                raise StorageBusyError(f"{place.url} has not come to an end with layer {layer} in {within_s:g} s")
            time.sleep(_LOOK_S)
    finally:
        given_up.set()
    call.result()


def join_final(out: Path, layer_names: Sequence[str], submission: str = "") -> tuple[str, str]:
    """Join the layers' files into weights.safetensors and optimizer.safetensors; returns their hashes.

    Tensors are named `<layer>.<parameter>` and `<layer>.<parameter>.<key>`; hashes are over the tensors sorted by
    name.

    Raises: FormatError: a layer is of another submission.
    """
    weights: dict[str, Tensor] = {}
    optimizer: dict[str, Tensor] = {}
    for index, layer in enumerate(layer_names):
        path = out / layer_path(index)
        if read_metadata(path).get("submission", "") != submission:
            raise FormatError(f"{path} was written by another job than the one that is collected")
        for name, tensor in read_blob(path).items():
            kind, _, rest = name.partition(".")
            if kind == "model":
                weights[f"{layer}.{rest}"] = tensor
            else:
                key, _, parameter = rest.partition(".")
                optimizer[f"{layer}.{parameter}.{key}"] = tensor
    write_blob(out / "weights.safetensors", weights, {})
    write_blob(out / "optimizer.safetensors", optimizer, {})
    return tensors_sha256(sorted(weights.items())), tensors_sha256(sorted(optimizer.items()))


def submission_of(out: Path) -> str:
    """Whose final layers lie in this folder, by the first of them. Raises: OSError: it is not there."""
    return read_metadata(out / layer_path(0)).get("submission", "")
