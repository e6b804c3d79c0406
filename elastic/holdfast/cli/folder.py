"""The folder of a run: found free before anything starts, cleared of an earlier run only where that was asked for."""

import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.errors import ProtocolError, StoreUnavailableError, UserError
from holdfast.stores.address import parse_store
from holdfast.telemetry.files import EVENTS, NODES, REPORT, RUN, RunFiles
from holdfast.telemetry.logs import JsonFormatter
from holdfast_checkpoint.final import LAYERS, MARKS

_SECRET = ".secret"
# What a run leaves; nothing else in the folder is ever touched.
_LEFT = (
    *(REPORT, RUN, EVENTS, NODES, _SECRET, MARKS),
    *("weights.safetensors", "optimizer.safetensors", LAYERS, "logs"),
)
_CONNECT_S = 1.0


def choose_folder(out: Path | None, name: str) -> Path:
    """`out`, or runs/NAME-TIME that is not there yet."""
    if out is not None:
        return out
    stamped = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    numbered = (stamped.with_name(f"{stamped.name}-{number}") for number in range(2, 1000))
    return stamped if not stamped.exists() else next(path for path in numbered if not path.exists())


def check_free(out: Path, *, replace: bool, option: str) -> None:
    """`option` is how the user asks to `replace` what is there.

    Raises:
        UserError: something that would be lost, or a run that is still going, is in the way.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; should be a folder, or a new name")
    held = [name for name in _LEFT if (out / name).exists()]
    if is_live(out):
        raise UserError(f"--out {out}: a run is going on there; wait for its end, or choose another folder")
    if held and not replace:
        raise UserError(
            f"--out {out}: holds an earlier run ({', '.join(held[:3])}); choose another folder, "
            f"or replace that run with {option}"
        )


def clear(out: Path) -> None:
    """Make the folder, without what an earlier run left in it.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        _remove(out)
        (out / "logs").mkdir()
    except OSError as error:
        raise UserError(f"--out {out}: {error}") from error


@contextmanager
def replacing(out: Path, aside: str) -> Iterator[None]:
    """A cleared folder for the block; what an earlier run left in it lies in the folder `aside` of it meanwhile.

    It goes for good when the block ends, and is put back where it raises, unless the block cannot know what it did
    (StoreUnavailableError, or it was interrupted): then both stay.

    Raises:
        UserError: the folder cannot be made or written.
    """
    earlier = [name for name in _LEFT if (out / name).exists()]
    try:
        if earlier:
            (out / aside).mkdir()
        for name in earlier:
            (out / name).rename(out / aside / name)
    except OSError as error:
        raise UserError(f"--out {out}: {error}") from error
    try:
        clear(out)
        yield
    except StoreUnavailableError:
        raise  # the job may stand: both runs stay
    except Exception:  # whatever it is, the earlier run goes back before it is told
        _remove(out)
        for name in earlier:
            (out / aside / name).rename(out / name)
        if earlier:
            (out / aside).rmdir()
        raise
    shutil.rmtree(out / aside, ignore_errors=True)


def _remove(out: Path) -> None:
    for name in _LEFT:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


def is_live(out: Path) -> bool:
    """Whether the run's own store answers; of a submitted job, only the store it is in could tell."""
    if is_submitted(out):
        return False
    files = RunFiles(out)
    try:
        info = files.read_run()
    except ProtocolError:
        return False  # of another version; nothing of this one runs there
    if info is None or (out / REPORT).exists():
        return False
    return any(map(_answers, parse_store(info.store).endpoints))


def _answers(endpoint: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(endpoint, timeout=_CONNECT_S):
            return True
    except OSError:
        return False


def is_submitted(out: Path) -> bool:
    """Whether the folder is that of a job whose agents are started by others."""
    return (out / MARKS).exists()


def write_secret(out: Path, secret: str) -> None:
    """For whoever may read this user's files: `holdfast drain`."""
    descriptor = os.open(out / _SECRET, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret)


def secret_path(out: Path) -> Path:
    return out / _SECRET


def remove_secret(out: Path) -> None:
    (out / _SECRET).unlink(missing_ok=True)


@contextmanager
def logging_to(out: Path, job: str) -> Iterator[None]:
    """The launcher's own log goes to logs/launcher.log, beside those of the nodes."""
    handler = logging.FileHandler(out / "logs" / "launcher.log", encoding="utf-8")
    handler.setFormatter(JsonFormatter(job=job))
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        handler.close()
