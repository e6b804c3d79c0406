"""`ckpt show`: all that a manifest says."""

from collections.abc import Callable
from typing import Any

from harness.storage.making import (
    blob_of,
    flip_byte,
    folders_of,
    storage_of,
)

Holdfast = Callable[..., tuple[int, str, str]]
Ckpt = Callable[..., Any]


def test_show_tells_all_that_the_manifest_says(url: str, ckpt: Ckpt, holdfast: Holdfast) -> None:
    shown = ckpt("show", url, "--step", 20)

    assert (shown["step"], shown["samples"], shown["job"], shown["generation"]) == (20, 160, "small", 1)
    assert shown["identity"]["optimizer"] == {"name": "Adam", "lr": 0.1}
    assert [blob["name"] for blob in shown["blobs"]] == ["first", "middle", "last"]
    assert [blob["bytes"] for blob in shown["blobs"]] == [
        blob_of(url, shown["folder"], layer).stat().st_size for layer in range(3)
    ]
    text = holdfast("ckpt", "show", url, "--step", 20)[1]
    assert "optimizer.lr = 0.1" in text
    assert all(blob["digest"] in text for blob in shown["blobs"])


def test_show_of_a_broken_manifest_exits_with_1(url: str, holdfast: Holdfast) -> None:
    flip_byte(storage_of(url) / folders_of(url)[-1] / "manifest.json", 40)

    code, _, error = holdfast("ckpt", "show", url)

    assert code == 1
    assert folders_of(url)[-1] in error
    assert "corrupt" in error
