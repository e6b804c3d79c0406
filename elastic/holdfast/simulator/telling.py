"""Words for the transcript."""

from holdfast.model.messages import Broken, Committed, Finished, FromWorker, Parked, Running, Start, Stop, ToWorker
from holdfast.simulator.held import show


def describe(message: ToWorker | FromWorker) -> str:
    match message:
        case Stop(generation=generation, abort=abort):
            return f"Stop({generation}{', abort' if abort else ''})"
        case Start(start=start):
            return f"Start({start.generation}, {start.action}, {show(start.version)})"
        case Committed(commit=commit):
            return f"Committed({message.generation}, step {commit.step})"
        case Parked() | Running() | Broken() | Finished():
            return f"{type(message).__name__}({message.generation})"
        case _:
            return type(message).__name__
