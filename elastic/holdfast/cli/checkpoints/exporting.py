"""`holdfast ckpt export`: a checkpoint's layers in a single file, for programs that know nothing of Holdfast."""

from dataclasses import dataclass
from pathlib import Path

from holdfast.cli.checkpoints.choosing import Choice, choose, open_repository
from holdfast.cli.checkpoints.screen import byte_progress, print_json
from holdfast.cli.checkpoints.texts import size_text
from holdfast.errors import HoldfastError, UserError
from holdfast_checkpoint.remote import Repository

_SAFETENSORS, _TORCH = ".safetensors", (".pt", ".pth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The file to write; its suffix says in which format."""

    path: Path
    with_optimizer: bool
    overwrite: bool

    def check(self) -> None:
        """Raises: UserError: it cannot be written, or something is there."""
        if self.path.suffix not in {_SAFETENSORS, *_TORCH}:
            raise UserError(f"--to: {self.path} given; should end in {_SAFETENSORS} or {_TORCH[0]}")
        if not self.path.absolute().parent.is_dir():
            raise UserError(f"--to: {self.path} given, and there is no such folder as {self.path.parent}")
        if self.path.is_dir():
            raise UserError(f"--to: {self.path} is a folder; should be a file in it")
        if self.path.exists() and not self.overwrite:
            raise UserError(f"--to: {self.path} is there already; choose another name, or replace it with --overwrite")


def export_checkpoint(choice: Choice, target: Target, *, as_json: bool) -> None:
    """Raises:
    UserError: the target cannot be written.
    HoldfastError: writing it failed.
    CheckpointError: there is no such checkpoint, or it is broken; then there is no file.
    """
    target.check()
    repository = open_repository(choice.url)
    found = choose(repository, choice)
    try:
        _export(repository, found.folder, target)
    except OSError as error:
        raise HoldfastError(f"--to: {target.path} cannot be written: {error}") from error
    size = target.path.stat().st_size
    if as_json:
        what = "all" if target.with_optimizer else "weights"
        told = {"folder": found.folder, "step": found.step, "path": str(target.path), "bytes": size, "what": what}
        print_json({"url": repository.url} | told)
    else:
        print(f"{target.path}: step {found.step:,} of {repository.url}, {size_text(size)}")


def _export(repository: Repository, folder: str, target: Target) -> None:
    from holdfast_checkpoint.loading import export_bytes, export_safetensors, export_torch

    write = export_safetensors if target.path.suffix == _SAFETENSORS else export_torch
    total = export_bytes(repository, folder, with_optimizer=target.with_optimizer)
    with byte_progress(target.path.name, total) as written:
        write(repository, folder, target.path, with_optimizer=target.with_optimizer, on_bytes=written)
