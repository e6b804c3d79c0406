"""`holdfast collect`: the layers that agents left of a submitted job become two files."""

import json
from pathlib import Path

from holdfast.cli.final_place import folder_of, open_place, storage_errors
from holdfast.cli.running import join
from holdfast.errors import JobFailedError, UserError
from holdfast.model.records import JobRecord
from holdfast.model.wire import decode
from holdfast_checkpoint.errors import CorruptError, NoCheckpointError
from holdfast_checkpoint.final import FinalPlace, layer_path


def collect(out: str, to: Path | None, *, as_json: bool) -> None:
    """Join the final layers of the job that wrote there last, and print their hashes. `to`: a folder for the result; by
    default `out` itself, which then must be one.

    Raises:
        UserError: no job was submitted with this place, or there is nowhere to write.
        JobFailedError: its layers are not all there.
    """
    place, folder = open_place(out), folder_of(out)
    if folder is None and to is None:
        raise UserError(f"{out}: is no folder; give one for the result with --to DIR")
    with storage_errors():
        submissions = place.submissions()
    if not submissions:
        raise UserError(f"{out}: no job was submitted with this place; should be the --out of a submitted job")
    into = to or folder
    assert into is not None
    is_there = folder is not None and into.absolute() == folder.absolute()
    if not is_there:
        _fetch(place, into, 0)
    record = _record(place, into, submissions)
    if not is_there:
        for layer in range(1, len(record.layer_names)):
            _fetch(place, into, layer)
    hashes, trouble = join(into, record.layer_names, record.id)
    if hashes is None:
        raise JobFailedError(trouble or "the final weights cannot be joined")
    weights, optimizer = hashes
    if as_json:
        print(json.dumps({"weights_sha256": weights, "optimizer_sha256": optimizer}))
    else:
        print(f"weights   {weights}\noptimizer {optimizer}\nin {into}")


def _fetch(place: FinalPlace, into: Path, layer: int) -> None:
    try:
        with storage_errors():
            place.fetch_layer(layer, into / layer_path(layer))
    except (NoCheckpointError, CorruptError) as error:
        raise JobFailedError(str(error)) from error
    except OSError as error:
        raise UserError(f"--to {into}: {error}") from error


def _record(place: FinalPlace, into: Path, submissions: tuple[str, ...]) -> JobRecord:
    """Of the submission whose layers lie there."""
    from holdfast.worker.final import submission_of  # here, because it imports torch

    try:
        written = submission_of(into)
    except OSError as error:
        raise JobFailedError(f"the final weights at {place.url} cannot be joined: {error}") from error
    with storage_errors():
        marked = place.marked(written) if written in submissions else None
    if marked is None:
        raise JobFailedError(f"the layers at {place.url} are of another job than those that were submitted with it")
    return decode(JobRecord, marked)
