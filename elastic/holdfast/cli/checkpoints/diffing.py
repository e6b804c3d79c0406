"""`holdfast ckpt diff`: what two checkpoints do not share, and how far apart their numbers are."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.markup import escape

from holdfast.cli.checkpoints.choosing import Choice, choose, open_repository
from holdfast.cli.checkpoints.comparing import (
    Change,
    LayerComparison,
    Side,
    bytes_to_read,
    compare_layers,
    identity_changes,
)
from holdfast.cli.checkpoints.screen import byte_progress, print_json, print_table, table
from holdfast.cli.checkpoints.texts import count_text
from holdfast.cli.exits import EXIT_COMPLETED, EXIT_FAILED
from holdfast.errors import UserError

_SHOWN_MAX = 40  # characters of a scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What was found; `layers` are all, also those that are the same."""

    a: Side
    b: Side
    identity: dict[str, tuple[Any, Any]]
    layers: tuple[LayerComparison, ...]

    @property
    def changes(self) -> tuple[Change, ...]:
        return tuple(change for layer in self.layers for change in layer.changes)

    @property
    def is_same(self) -> bool:
        return not self.identity and not self.changes


def pair_of(urls: list[str], steps: list[int], folders: list[str]) -> tuple[Choice, Choice]:
    """`URL --step A --step B`, `URL --folder A --folder B`, or `URL URL`, both of the same step if one is given.

    Raises: UserError: anything else.
    """
    is_one_url = len(urls) == 1
    given = len(steps) + len(folders)
    if len(urls) > 2 or (steps and folders) or given > 2 or (is_one_url and given < 2):
        raise UserError(
            f"diff: {len(urls)} URLs with {len(steps)} --step and {len(folders)} --folder given; should be URL with "
            "--step twice or --folder twice, or two URLs with at most one or two --step or --folder"
        )
    step_a, step_b = (steps[0], steps[-1]) if steps else (None, None)
    folder_a, folder_b = (folders[0], folders[-1]) if folders else (None, None)
    return Choice(url=urls[0], step=step_a, folder=folder_a), Choice(url=urls[-1], step=step_b, folder=folder_b)


def diff_checkpoints(choices: tuple[Choice, Choice], *, tells_by_code: bool, as_json: bool) -> int:
    """Print how they differ; the exit code, which tells whether they do if `tells_by_code`. Raises: CheckpointError."""
    a, b = (_open(choice) for choice in choices)
    title = f"{a.manifest.step} and {b.manifest.step}"
    with byte_progress(f"steps {title}", bytes_to_read(a, b)) as read:
        layers = tuple(compare_layers(a, b, read))
    difference = Difference(a=a, b=b, identity=identity_changes(a.manifest, b.manifest), layers=layers)
    if as_json:
        print_json(described(difference))
    else:
        _print(difference)
    return EXIT_FAILED if tells_by_code and not difference.is_same else EXIT_COMPLETED


def described(difference: Difference) -> dict[str, Any]:
    """As JSON. `max_abs` is null where a NaN or an infinity is on one side only."""
    return {
        "a": _side(difference.a),
        "b": _side(difference.b),
        "same": difference.is_same,
        "identity": {path: {"a": a, "b": b} for path, (a, b) in difference.identity.items()},
        "layers": [
            {
                "layer": layer.layer,
                "same": not layer.changes,
                "changes": [_change(change) for change in layer.changes],
            }
            for layer in difference.layers
        ],
    }


def _open(choice: Choice) -> Side:
    repository = open_repository(choice.url)
    folder = choose(repository, choice).folder
    return Side(repository=repository, folder=folder, manifest=repository.read_manifest(folder))


def _side(side: Side) -> dict[str, Any]:
    return {"url": side.repository.url, "folder": side.folder, "step": side.manifest.step}


def _change(change: Change) -> dict[str, Any]:
    told: dict[str, Any] = {"name": change.name, "what": change.what}
    if change.apart is not None:
        found = change.apart
        return told | {"items": found.items, "differing": found.differing, "max_abs": found.max_abs}
    return told | ({"a": change.a, "b": change.b} if change.a is not None or change.b is not None else {})


def _print(difference: Difference) -> None:
    print("\n".join(_lines(difference)))
    if difference.changes:
        shown = table("layer", "tensor", "differs in", ">items", ">max abs")
        for change in difference.changes:
            shown.add_row(*(escape(text) for text in _row(change)))
        print_table(shown)


def _lines(difference: Difference) -> Iterator[str]:
    for name, side in (("a", difference.a), ("b", difference.b)):
        yield f"{name}: step {side.manifest.step:,}, {side.folder} in {side.repository.url}"
    yield from (f"identity {path}: {a} in a, {b} in b" for path, (a, b) in difference.identity.items())
    changed, layers = sum(bool(layer.changes) for layer in difference.layers), len(difference.layers)
    if difference.is_same:
        yield f"the same, bit for bit, in {count_text(layers, 'layer')}"
    else:
        places = count_text(len(difference.changes), "place")
        yield f"{changed} of {count_text(layers, 'layer')} differ, in {places}"


def _row(change: Change) -> tuple[str, str, str, str, str]:
    found = change.apart
    if found is not None:
        largest = f"{found.max_abs:.3g}" if math.isfinite(found.max_abs) else "not finite"
        return change.layer, change.name, change.what, f"{found.differing:,} of {found.items:,}", largest
    what = change.what
    if change.a is not None or change.b is not None:
        what += f": {_short(change.a)} in a, {_short(change.b)} in b"
    return change.layer, change.name or "-", what, "-", "-"


def _short(text: str | None) -> str:
    if text is None:
        return "nothing"
    return text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 3]}..."
