"""The job spec: what is accepted, and that each wrong field is refused by path, value and remedy."""

from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import SpecError
from holdfast.spec import JobSpec, load_spec, parse_spec

MINIMAL: dict[str, Any] = {"name": "job", "program": {"entry": "train.py:program"}, "steps": 3}


def refusal(changes: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(MINIMAL, changes)
    return str(caught.value)


def test_three_fields_are_enough_and_the_rest_has_defaults() -> None:
    spec = parse_spec(MINIMAL)

    assert (spec.nodes.min, spec.nodes.max, spec.nodes.desired, spec.slots_per_node) == (1, None, None, 1)
    assert (spec.reduction, spec.block, spec.device) == ("canonical", 1, "cpu")
    assert (spec.layout.depth, spec.layout.memory_per_slot_bytes) == (None, None)
    assert (spec.timeouts.lease_ttl_s, spec.timeouts.join_settle_s) == (3.0, 0.2)
    assert spec.failures.worker_deaths_per_step == 3


def test_a_spec_survives_json() -> None:
    spec = parse_spec(MINIMAL, {"program.params": {"width": 8, "rate": 1e-3}, "nodes.max": 4})

    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("path", "value", "remedy"),
    [
        ("name", "Bad_Name", "should be a DNS label: a-z, 0-9 and '-', at most 63"),
        ("name", "a" * 64, "at most 63"),
        ("program.entry", "train.py", "should be module:function or path/file.py:function"),
        ("steps", 0, "should be greater than 0"),
        ("steps", "40", "should be a valid integer"),
        ("steps", 1.5, "should be a valid integer"),
        ("nodes", 3, "should be a mapping, `nodes: {min, max, desired}`"),
        ("program", "a:b", "should be a mapping, `program: {entry, params}`"),
        ("program.params.width", float("nan"), "should be a finite number"),
        ("nodes.min", 0, "should be greater than or equal to 1"),
        ("nodes.min", True, "should be a valid integer"),
        ("slots_per_node", 0, "should be greater than or equal to 1"),
        ("reduction", "fast", "should be 'canonical' or 'allreduce'"),
        ("block", 0, "should be greater than or equal to 1"),
        ("device", "tpu", "should be 'cpu', 'cuda' or 'auto'"),
        ("layout.depth", -1, "should be greater than or equal to 1"),
        ("layout.memory_per_slot_bytes", "8 Gb", "such as 8GiB"),
        ("layout.memory_per_slot_bytes", 1 << 61, "should be less than or equal to 1152921504606846976"),
        ("timeouts.lease_ttl_s", 0, "should be greater than 0"),
        ("timeouts.probe_s", float("inf"), "should be a finite number"),
        ("failures.worker_deaths_per_step", 0, "should be greater than or equal to 1"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path_the_value_and_what_would_be_right(
    path: str, value: object, remedy: str
) -> None:
    message = refusal({path: value})

    assert f"{path}: {value!r} given; " in message
    assert remedy in message


def test_every_wrong_field_is_listed_at_once() -> None:
    message = refusal({"steps": -1, "nodes.min": 0, "reduction": "fast"})

    assert all(f"\n  {path}: " in message for path in ("steps", "nodes.min", "reduction"))


@pytest.mark.parametrize(
    ("path", "meant"),
    [("stesp", "steps"), ("nodes.mim", "nodes.min"), ("timeouts.lease_ttl", "timeouts.lease_ttl_s")],
)
def test_an_unknown_field_is_refused_with_the_one_that_was_meant(path: str, meant: str) -> None:
    assert f"{path}: 3 given, but there is no such field; did you mean {meant}?" in refusal({path: 3})


def test_an_unknown_field_like_no_other_is_refused_with_those_that_exist() -> None:
    assert "nodes.xyz: 3 given, but there is no such field; known are min, max, desired" in refusal({"nodes.xyz": 3})


def test_a_missing_field_is_refused_with_what_it_is_for() -> None:
    with pytest.raises(SpecError, match=r"steps: missing; should be optimizer steps to commit"):
        parse_spec({"name": "job", "program": {"entry": "a:b"}})


@pytest.mark.parametrize(
    ("nodes", "line"),
    [
        ({"min": 4, "max": 2}, "nodes.max: 2 given; should be at least nodes.min, which is 4"),
        ({"min": 4, "desired": 2}, "nodes.desired: 2 given; should be at least nodes.min, which is 4"),
        ({"max": 4, "desired": 5}, "nodes.max: 4 given; should be at least nodes.desired, which is 5"),
    ],
)
def test_node_counts_out_of_order_are_refused(nodes: dict[str, int], line: str) -> None:
    assert line in refusal({"nodes": nodes})


def test_a_node_is_not_cut_off_before_its_lease_ends() -> None:
    line = "timeouts.orphan_s: 2.0 given; should be at least timeouts.lease_ttl_s, which is 3.0"

    assert line in refusal({"timeouts.orphan_s": 2.0})
    assert parse_spec(MINIMAL, {"timeouts.orphan_s": 3.0}).timeouts.orphan_s == 3.0


@pytest.mark.parametrize(
    ("text", "size"), [("8GiB", 8 * 2**30), ("512Mi", 2**29), ("2.5 GB", 2_500_000_000), ("100", 100), (7, 7)]
)
def test_memory_is_read_with_its_unit(text: object, size: int) -> None:
    assert parse_spec(MINIMAL, {"layout.memory_per_slot_bytes": text}).layout.memory_per_slot_bytes == size


def test_an_override_wins_and_leaves_its_neighbours(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("name: job\nprogram: {entry: a:b}\nsteps: 3\nnodes: {min: 2, max: 5}\nlayout:\n")

    spec = load_spec(file, {"steps": 9, "nodes.max": 7, "layout.depth": 2})

    assert (spec.steps, spec.nodes.min, spec.nodes.max, spec.layout.depth) == (9, 2, 7, 2)


def test_a_rate_without_a_dot_is_read_as_a_number(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("name: job\nprogram: {entry: a:b, params: {rate: 3e-4, big: 1E6, text: e5}}\nsteps: 3\n")

    assert load_spec(file).program.params == {"rate": 3e-4, "big": 1e6, "text": "e5"}


def test_numbers_are_yaml_12s_and_dates_are_text(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("name: 2024-02-30\nprogram: {entry: a:b, params: {at: 1:30, zero: 010, big: 1_000}}\nsteps: 0x10\n")

    spec = load_spec(file)

    assert (spec.name, spec.steps) == ("2024-02-30", 16)
    assert spec.program.params == {"at": "1:30", "zero": "010", "big": 1000}


def test_a_size_beyond_all_numbers_is_no_size() -> None:
    with pytest.raises(SpecError, match="such as 8GiB"):
        parse_spec(MINIMAL, {"layout.memory_per_slot_bytes": f"{'9' * 400}TB"})


def test_a_large_value_in_a_wrong_place_is_told_of_briefly() -> None:
    deep: object = ["x"] * 1000
    for _ in range(12):
        deep = [deep] * 10
    with pytest.raises(SpecError) as caught:
        parse_spec(MINIMAL, {"nonsense": deep})
    assert len(str(caught.value)) < 500


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 10)}]\n" for depth in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is not YAML"),
        ("steps: !!int abc\n", "is not YAML: a value is not what its tag says"),
        ("steps: !!bool maybe\n", "is not YAML: a value is not what its tag says"),
        (f"steps: {'9' * 5000}\n", "is not YAML: .* no number that can be read"),
        ("[" * 5000, "is not YAML: it is nested too deeply"),
        (BOMB, r"is not YAML: aliases \(\*name\) make 1,000,000 values or more"),
        ("a: &a [*a]\n", "is not YAML: aliases"),
        ("steps: 3\nname: a\nsteps: 4\n", r"the key 'steps' is given twice(.|\n)*line 3"),
        ("? [a, b]\n: 3\n", "is not YAML(.|\n)*unhashable key"),
        ("name: {? {a: 1} : 3}\n", "is not YAML(.|\n)*unhashable key"),
        ("- name\n", "the top level is list; should be a mapping"),
        ("", "the top level is NoneType; should be a mapping"),
        ("name: !!python/object/apply:os.getcwd []\n", "is not YAML"),
    ],
)
def test_a_file_that_is_no_spec_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)

    with pytest.raises(SpecError, match=message):
        load_spec(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"there is no file .*nowhere.yaml"):
        load_spec(tmp_path / "nowhere.yaml")


def test_every_field_is_described() -> None:
    def undescribed(model: Any) -> list[str]:
        own = [name for name, field in model.model_fields.items() if not field.description]
        below = [field.annotation for field in model.model_fields.values()]
        return own + [name for kind in below if hasattr(kind, "model_fields") for name in undescribed(kind)]

    assert undescribed(JobSpec) == []
