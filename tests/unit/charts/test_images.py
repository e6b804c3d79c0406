"""The images: certain bases, no root, nothing but what is needed; and the operator starts with its own list alone."""

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from harness.chart import CHART, ROOT

OPERATOR, WORKER = ROOT / "operator" / "Dockerfile", ROOT / "elastic" / "Dockerfile"
each_image = pytest.mark.parametrize("path", [OPERATOR, WORKER], ids=["operator", "worker"])

# What the distribution needs and the operator does not: of the data plane, and only workers and agents have it.
NOT_FOR_THE_OPERATOR = {"fsspec", "numpy", "safetensors", "scipy", "torch", "xxhash"}

# Imports every module of the operator, and what it loads late, while packages that its image lacks cannot be imported.
IMPORT_ALL = """
import importlib, json, sys
absent = set(json.loads(sys.argv[2]))
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"{name}: not in the operator's image", name=name)
sys.meta_path.insert(0, Absent())
for module in json.loads(sys.argv[1]):
    importlib.import_module(module)
"""


@dataclass(frozen=True, slots=True)
class Step:
    instruction: str
    argument: str


def steps_of(path: Path) -> list[Step]:
    """With continued lines joined."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [Step(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def last_stage(steps: list[Step]) -> list[Step]:
    first = max(number for number, step in enumerate(steps) if step.instruction == "FROM")
    return steps[first:]


def arguments_of(steps: list[Step], instruction: str) -> list[str]:
    return [step.argument for step in steps if step.instruction == instruction]


def defaults_of(steps: list[Step]) -> dict[str, str]:
    pairs = (argument.partition("=") for argument in arguments_of(steps, "ARG"))
    return {name: default.strip('"') for name, _, default in pairs}


@each_image
def test_every_base_is_of_a_certain_version_and_can_be_given_by_digest(path: Path) -> None:
    steps = steps_of(path)
    bases = [argument.split()[0] for argument in arguments_of(steps, "FROM")]
    assert len(bases) == 2, "what builds is not shipped"
    for base in bases:
        name = re.fullmatch(r"\$\{(\w+)\}", base)
        assert name, f"{base} cannot be given as an argument"
        assert re.fullmatch(r"[a-z/.-]+:\d+\.\d+\.\d+-[a-z-]+", defaults_of(steps)[name[1]])


@each_image
def test_it_runs_as_nobody_in_particular(path: Path) -> None:
    users = arguments_of(last_stage(steps_of(path)), "USER")
    # By number, or the kubelet cannot tell that it is not root; the same as in the chart's pods.
    assert users == ["65532:65532"]
    last = last_stage(steps_of(path))
    assert [step.instruction for step in last][-2:] in (["USER", "ENTRYPOINT"], ["USER", "CMD"])


@each_image
def test_it_installs_certain_versions_and_no_secret(path: Path) -> None:
    steps = steps_of(path)
    for command in arguments_of(steps, "RUN"):
        assert not re.search(r"curl|wget|sudo|apt|\b(ADD)\b", command), command
        if re.search(r"\bpip\b.* install\b", command):
            assert re.search(r"--constraint constraints\.txt|--no-deps", command), command
    assert not arguments_of(steps, "ADD")
    names = [
        *defaults_of(steps),
        *(name for line in arguments_of(steps, "ENV") for name in re.findall(r"(\w+)=", line)),
    ]
    assert not [name for name in names if re.search(r"PASS|TOKEN|SECRET|KEY|CREDENTIAL", name, re.IGNORECASE)]


def ignored(path: str) -> bool:
    """As Docker reads .dockerignore: the last pattern that fits decides."""
    result = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip().removeprefix("!").removeprefix("**/")
        if line.strip() and not line.startswith("#"):
            fits = fnmatch(path, pattern) or fnmatch(path.split("/")[0], pattern) or fnmatch(Path(path).name, pattern)
            result = not line.startswith("!") if fits else result
    return result


def copied(steps: list[Step]) -> Iterator[str]:
    for argument in arguments_of(steps, "COPY"):
        if not argument.startswith("--from"):
            yield from argument.split()[:-1]


@each_image
def test_what_it_copies_is_there_and_goes_into_the_build(path: Path) -> None:
    sources = list(copied(steps_of(path)))
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source


@pytest.mark.parametrize("path", [".git", ".venv", "tests", "runs", "secret", "elastic/holdfast/__pycache__", "a.pyc"])
def test_what_no_image_is_made_of_stays_outside(path: str) -> None:
    assert ignored(path)


def test_the_worker_has_the_torch_that_was_tested_and_the_examples() -> None:
    steps = steps_of(WORKER)
    assert defaults_of(steps)["TORCH"] == f"torch=={pins('constraints.txt')['torch']}"
    assert arguments_of(last_stage(steps), "WORKDIR") == ["/opt/holdfast"]
    assert "examples examples" in arguments_of(last_stage(steps), "COPY")


def test_the_chart_and_the_images_agree_on_their_user() -> None:
    helpers = (CHART / "templates" / "_helpers.tpl").read_text(encoding="utf-8")
    assert set(re.findall(r"(?:runAsUser|runAsGroup|fsGroup): (\d+)", helpers)) == {"65532"}


# The operator's own list ----------------------------------------------------------------------------------------


def pins(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(name: str, extras: tuple[str, ...] = ()) -> Iterator[str]:
    """Names of what a distribution asks for here, extras included."""
    for text in importlib.metadata.requires(name) or []:
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield normal(wanted.name)


def test_the_operator_s_list_has_the_versions_that_were_tested() -> None:
    tested = pins("constraints.txt")
    assert {name: tested.get(name) for name in pins("operator/requirements.txt")} == pins("operator/requirements.txt")


def test_the_operator_s_list_is_complete_and_has_nothing_to_spare() -> None:
    listed = set(pins("operator/requirements.txt"))
    wanted = set(needed("holdfast", ("operator", "etcd"))) - NOT_FOR_THE_OPERATOR
    while more := {below for name in wanted for below in needed(name)} - wanted:
        wanted |= more
    assert listed == wanted


def test_the_operator_imports_nothing_that_its_image_lacks() -> None:
    base = ROOT / "operator"
    found = (path.relative_to(base).with_suffix("") for path in sorted((base / "holdfast_operator").rglob("*.py")))
    names = [".".join(path.parts).removesuffix(".__init__") for path in found if path.name != "__main__"]
    # `holdfast k8s` is for people's machines; the store on etcd is loaded when a job is first seen.
    modules = [name for name in names if ".cli" not in name] + ["holdfast.stores.etcd.store"]
    listed = set(pins("operator/requirements.txt")) | {"holdfast"}
    owners = importlib.metadata.packages_distributions()
    absent = [package for package, owner in owners.items() if not {normal(name) for name in owner} & listed]
    assert set(absent) >= {"torch", "numpy", "scipy"}
    paths = ":".join(str(ROOT / folder) for folder in ("elastic", "checkpoint", "operator"))
    command = [sys.executable, "-c", IMPORT_ALL, json.dumps(modules), json.dumps(absent)]
    answer = subprocess.run(
        command, env={"PYTHONPATH": paths}, capture_output=True, text=True, timeout=120, check=False
    )
    assert answer.returncode == 0, answer.stderr
