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
from typing import TypeVar

from torch import Tensor

from holdfast.errors import JobFailedError
from holdfast.worker.layers import HeldLayer
from holdfast_checkpoint.aside import call_aside
from holdfast_checkpoint.blob import read_blob, read_metadata, tensors_sha256, write_blob
from holdfast_checkpoint.errors import CheckpointError, FormatError, StorageBusyError
from holdfast_checkpoint.final import FinalPlace, layer_path

log = logging.getLogger(__name__)
T = TypeVar("T")
_LOOK_S = 0.005
_UNMARKED_S = 0.5
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
            while True:
                self._until_marked(place, beat)
                self._write_all(place, layers, beat)
                # What went away meanwhile, such as a folder of a server that was unmounted, may have left the layers
                # in the bare folder beneath: once it is back they are written there.
                if self._is_marked(place, beat):
                    return
        except (CheckpointError, OSError) as error:
            raise JobFailedError(
                f"the final weights cannot be written to {self._out}: {error}; mend that and submit the job again: "
                "where there are checkpoints it goes on from the last one"
            ) from error

    def _write_all(self, place: FinalPlace, layers: Sequence[HeldLayer], beat: Callable[[], None]) -> None:
        with tempfile.TemporaryDirectory(prefix="final-") as scratch:
            for layer in layers:
                beat()
                path = Path(scratch) / layer_path(layer.index)
                scalars = json.dumps(layer.scalars(), sort_keys=True)
                metadata = {"layer": layer.name, "scalars": scalars, "submission": self._submission}
                write_blob(path, layer.tensors(), metadata)
                put = partial(place.put_layer, layer.index, path)
                self._again(place, put, f"layer {layer.index}", beat)
                path.unlink()

    def _until_marked(self, place: FinalPlace, beat: Callable[[], None]) -> None:
        """Raises: StorageError: it is not in `patience_s`."""
        until_s = time.monotonic() + self._patience_s
        while not self._is_marked(place, beat):
            if time.monotonic() >= until_s:
                raise StorageBusyError(
                    f"{place.url} does not have the mark of submission {self._submission}: it is another place, seen "
                    "from here, than the one that the job was submitted with; is it mounted?"
                )
            log.warning("final.not_marked", extra={"url": place.url})
            _pause(beat)

    def _is_marked(self, place: FinalPlace, beat: Callable[[], None]) -> bool:
        """Also where there is no submission, as in a run on one machine. Raises: StorageError."""
        if not self._submission:
            return True
        return self._again(place, lambda _: place.marked(self._submission), "the mark", beat) is not None

    def _again(self, place: FinalPlace, call: Callable[[threading.Event], T], what: str, beat: Callable[[], None]) -> T:
        """`call` is given what tells it to end; anew for `patience_s`, while the storage fails for now.

        Raises: StorageError.
        """
        until_s = time.monotonic() + self._patience_s
        while True:
            try:
                return _within(place, call, what, min(_HANGS_S, self._patience_s), beat)
            except StorageBusyError as error:
                if time.monotonic() >= until_s:
                    raise
                log.warning("final.not_written", extra={"what": what, "error": str(error)})


def _within(
    place: FinalPlace, call: Callable[[threading.Event], T], what: str, within_s: float, beat: Callable[[], None]
) -> T:
    given_up, until_s = threading.Event(), time.monotonic() + within_s
    done = call_aside(partial(call, given_up), "storage-final")
    try:
        while not done.done():
            beat()
            if time.monotonic() >= until_s:
                raise StorageBusyError(f"{place.url} has not come to an end with {what} in {within_s:g} s")
            time.sleep(_LOOK_S)
    finally:
        given_up.set()
    return done.result()


def _pause(beat: Callable[[], None]) -> None:
    until_s = time.monotonic() + _UNMARKED_S
    while time.monotonic() < until_s:
        beat()
        time.sleep(_LOOK_S)


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
