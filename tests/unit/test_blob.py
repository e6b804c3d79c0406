"""A blob on disk: what is written comes back, whatever memory the tensors lie in."""

from pathlib import Path

import torch

from holdfast_checkpoint.blob import read_blob, write_blob


def test_tensors_that_share_memory_are_written_each_whole(tmp_path: Path) -> None:
    base = torch.arange(8.0)
    tensors = {
        "alone": torch.ones(3),
        "base": base,
        "empty": torch.empty(0),
        "none": torch.empty(0, 2),
        "part": base[2:5],
        "turned": base.view(2, 4).t(),
        "view": base.view(1, 8),
    }
    write_blob(tmp_path / "a", tensors, {"layer": "x"})

    read = read_blob(tmp_path / "a")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
