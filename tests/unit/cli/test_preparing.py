"""What a job is given to plan with: a profile that was measured, or what is known without."""

from pathlib import Path

import pytest

from holdfast.cli.inspected import inspect_program
from holdfast.cli.known_profiles import fingerprint, keep_profile
from holdfast.cli.preparing import Wish, prepare
from holdfast.control.job import job_of
from holdfast.errors import SpecError, UserError
from holdfast.model.wire import decode, encode
from holdfast.planner.profile import LayerProfile, Link, Profile
from holdfast.planner.profile_json import profile_to_json
from holdfast.planner.search import plan
from holdfast.spec import load_spec

FIRST, LAST = (
    LayerProfile(
        name=name,
        forward_s=0.01,
        backward_s=backward_s,
        param_bytes=1000,
        state_bytes=3000,
        activation_bytes=500,
        output_bytes=100,
    )
    for name, backward_s in (("first", 0.08), ("last", 0.02))
)
LINK = Link(bytes_per_s=1e9, latency_s=1e-4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def measured(spec: Path) -> Profile:
    """As if it had been measured here."""
    inspected = inspect_program(load_spec(spec, {}), spec.parent)
    return Profile(fingerprint=fingerprint(inspected), layers=(FIRST, LAST), between_nodes=LINK, within_node=LINK)


def test_without_a_measurement_sizes_are_known_and_costs_are_relative(spec: Path) -> None:
    profile = prepare(Wish(spec=spec)).profile

    assert not profile.is_measured
    first, last = profile.layers
    assert (first.param_bytes, first.state_bytes, first.output_bytes) == (80, 240, 2 * 4 * 4)
    assert first.activation_bytes >= 2 * 4 * 4, "its input is kept for its backward"
    assert first.forward_s / last.forward_s == pytest.approx(4.0), "as many times the flops"


def test_what_was_measured_here_counts_for_a_job_that_runs_here(spec: Path) -> None:
    keep_profile(measured(spec))

    assert prepare(Wish(spec=spec)).profile == measured(spec)
    assert not prepare(Wish(spec=spec, is_here=False)).profile.is_measured


def test_a_file_counts_for_any_job_and_is_refused_if_it_is_of_another_program(spec: Path, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text(profile_to_json(measured(spec)))
    assert prepare(Wish(spec=spec, profile=file, is_here=False)).profile == measured(spec)

    file.write_text(profile_to_json(Profile(fingerprint="", layers=(FIRST,), between_nodes=LINK, within_node=LINK)))
    with pytest.raises(UserError, match="is of another Program"):
        prepare(Wish(spec=spec, profile=file))


def test_the_coordinator_reads_the_same_profile_from_the_jobs_record(spec: Path, tmp_path: Path) -> None:
    keep_profile(measured(spec))
    prepared = prepare(Wish(spec=spec))
    record = prepared.job_record(tmp_path)

    job = job_of(decode(type(record), encode(record)))
    assert job.profile == measured(spec)
    assert plan(prepared.request(2)).plan.describe() == "2x1"


def test_memory_counts_gradients_and_activations_before_anything_starts(spec: Path) -> None:
    state = sum(layer.state_bytes for layer in prepare(Wish(spec=spec)).profile.layers)
    with pytest.raises(SpecError, match="layout: the model does not fit: nodes 1"):
        prepare(Wish(spec=spec, overrides={"layout.memory_per_slot_bytes": state}))
