"""`holdfast ckpt show`: what the manifest of a checkpoint says."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape

from holdfast.cli.checkpoints.choosing import Choice, choose, open_repository
from holdfast.cli.checkpoints.screen import print_json, print_table, table
from holdfast.cli.checkpoints.texts import age_s, count_text, duration_text, moment_text, size_text
from holdfast_checkpoint.manifest import Manifest

# Of the identity, as text.
_ENTRIES_MAX, _VALUE_MAX = 60, 100


def show_checkpoint(choice: Choice, *, as_json: bool) -> None:
    """Raises: CheckpointError."""
    repository = open_repository(choice.url)
    folder = choose(repository, choice).folder
    manifest = repository.read_manifest(folder)
    if as_json:
        print_json({"url": repository.url, "folder": folder} | described(manifest))
        return
    print("\n".join(_lines(folder, manifest)))
    shown = table(">layer", "name", ">size", "path", "digest")
    for blob in manifest.blobs:
        shown.add_row(
            str(blob.layer), escape(blob.name), size_text(blob.size), escape(blob.path), escape(blob.digest.text)
        )
    print_table(shown)


def described(manifest: Manifest) -> dict[str, Any]:
    """All that the manifest holds, as JSON, but one digest a blob instead of one a chunk."""
    return {
        "step": manifest.step,
        "generation": manifest.generation,
        "run": manifest.run,
        "job": manifest.job,
        "samples": manifest.samples,
        "loss": manifest.loss,
        "created": manifest.created,
        "bytes": manifest.size,
        "fingerprint": manifest.fingerprint,
        "identity": dict(manifest.identity),
        "spec": dict(manifest.spec),
        "versions": dict(manifest.versions),
        "blobs": [
            {"layer": blob.layer, "name": blob.name, "path": blob.path, "bytes": blob.size, "digest": blob.digest.text}
            for blob in manifest.blobs
        ],
    }


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of all that is no mapping with something in it, in its order."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _lines(folder: str, manifest: Manifest) -> Iterator[str]:
    age = age_s(manifest.created, time.time())
    ago = f" ({duration_text(age)} ago)" if age is not None else ""
    facts = [
        ("folder", folder),
        ("job", manifest.job),
        ("step", f"{manifest.step:,} in generation {manifest.generation}"),
        ("run", manifest.run),
        ("samples", f"{manifest.samples:,}"),
        ("created", f"{moment_text(manifest.created)} UTC{ago}"),
        ("size", f"{size_text(manifest.size)} in {count_text(len(manifest.blobs), 'layer')}"),
        ("fingerprint", manifest.fingerprint),
    ]
    if manifest.loss is not None:
        facts.insert(5, ("loss", f"{manifest.loss:.6g}"))
    if manifest.versions:
        facts.append(("written by", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())))
    yield from (f"{name:<12} {value}" for name, value in facts)
    if manifest.identity:
        yield "to go on from here, these must be the same:"
        yield from _identity(manifest)


def _identity(manifest: Manifest) -> Iterator[str]:
    """What another tool saved may list every tensor here."""
    entries = list(flattened(manifest.identity))
    for path, value in entries[:_ENTRIES_MAX]:
        text = str(value)
        yield f"  {path} = {text if len(text) <= _VALUE_MAX else text[: _VALUE_MAX - 3] + '...'}"
    if len(entries) > _ENTRIES_MAX:
        yield f"  and {len(entries) - _ENTRIES_MAX} more; --json shows all"
