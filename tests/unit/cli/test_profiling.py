"""`holdfast profile`: measured in processes of its own, kept, and refused where the user's code fails."""

from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.planner.profile_json import profile_from_json

Holdfast = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.slow
def test_it_measures_once_and_writes_what_can_be_read(holdfast: Holdfast, spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    code, output, errors = holdfast("profile", spec, "-o", out, "--set", "program.params.width=8")

    assert code == 0, errors
    assert f"written to {out}" in output
    profile = profile_from_json(out.read_text(), str(out))
    first, last = profile.layers
    # Linear(4, 8) and Linear(8, 1), float32, with SGD, which keeps no state.
    assert (first.name, first.param_bytes, first.state_bytes, first.output_bytes) == ("first", 160, 160, 64)
    assert (last.param_bytes, last.state_bytes, last.output_bytes) == (36, 36, 8)
    assert first.activation_bytes >= 2 * 4 * 4  # its input
    assert all(layer.forward_s > 0 and layer.backward_s > 0 and layer.update_s > 0 for layer in profile.layers)
    assert profile.load_s > 0
    assert 0 < profile.crowded_speed <= 1
    assert 1e6 < profile.within_node.bytes_per_s < 1e12

    again = tmp_path / "again.json"
    code, output, _ = holdfast("profile", spec, "-o", again, "--set", "program.params.width=8", "--bandwidth", "1GB")
    assert "measured before" in output
    known = profile_from_json(again.read_text(), str(again))
    assert known.layers == profile.layers
    assert (known.between_nodes.bytes_per_s, known.within_node) == (1e9, profile.within_node)


@pytest.mark.slow
def test_what_the_users_code_raises_is_told_with_its_traceback(holdfast: Holdfast, spec: Path) -> None:
    program = spec.with_name("small.py")
    # On the meta device, where a spec is checked, it does not show.
    program.write_text(
        program.read_text().replace("build=lambda: nn.Linear(width, 1)", "build=lambda: Fussy()")
        + """
class Fussy(nn.Linear):
    def __init__(self):
        super().__init__(4, 1)
    def forward(self, x):
        if not x.is_meta:
            raise RuntimeError("not today")
        return super().forward(x)
"""
    )
    code, _, errors = holdfast("profile", spec)

    assert code == 2
    assert "not today" in errors
    assert "Fussy" in errors or "small.py" in errors


@pytest.mark.parametrize("bandwidth", ["fast", "0"])
def test_a_wrong_bandwidth_is_refused(holdfast: Holdfast, spec: Path, cache: Path, bandwidth: str) -> None:
    code, _, errors = holdfast("profile", spec, "--bandwidth", bandwidth)

    assert code == 2
    assert f"--bandwidth {bandwidth}" in errors
    assert "such as 1.2GB" in errors


def test_a_folder_that_is_not_there_is_named(holdfast: Holdfast, spec: Path, tmp_path: Path) -> None:
    code, _, errors = holdfast("profile", spec, "-o", tmp_path / "none" / "profile.json")

    assert code == 2
    assert f"there is no folder {tmp_path / 'none'}" in errors
