"""Where errors of the checkpoint library become errors of the command line, and so exit codes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.core import TyperGroup

from holdfast.errors import HoldfastError, UserError
from holdfast_checkpoint.errors import CheckpointError, MismatchError, NoCheckpointError, StorageDeniedError

# What the caller can mend by another URL, option or permission; all else is broken or out of reach.
_WRONG_INPUT = (NoCheckpointError, StorageDeniedError, MismatchError)


class CheckpointGroup(TyperGroup):
    """Every command in it may let a CheckpointError through: `main` then prints its message and exits with its code."""

    def invoke(self, ctx: Any) -> Any:
        """`ctx` is click's, of whichever click this typer brings.

        Raises: UserError: wrong input, exit code 2. HoldfastError: found broken or failed, exit code 1.
        """
        try:
            return super().invoke(ctx)
        except _WRONG_INPUT as error:
            raise UserError(str(error)) from error
        except CheckpointError as error:
            raise HoldfastError(str(error)) from error


@contextmanager
def wrong_input() -> Iterator[None]:
    """Around what is given by the caller alone, such as a URL that is opened. Raises: UserError."""
    try:
        yield
    except CheckpointError as error:
        raise UserError(str(error)) from error
