"""The layout holds: what may lie where, and what may import what.

import-linter (`make check`) follows imports through the tree. The guards here look where it does not: at folders, at
calls that need no import, and at what an import really loads.
"""

import ast
import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

ALLOWED_FOLDERS = {".ci", "benchmarks", "charts", "checkpoint", "docs", "elastic", "examples", "operator", "tests"}
COMPONENTS = [folder for folder in ("elastic", "checkpoint", "operator") if (ROOT / folder).is_dir()]
RUNTIME = ROOT / "elastic" / "holdfast"
LINES_MAX = 400

# What the contracts forbid is written once, there.
CONTRACTS: dict[str, dict[str, Any]] = {
    contract["id"]: contract for contract in PYPROJECT["tool"]["importlinter"]["contracts"]
}
IMPURE_CALLS = {"__import__", "input", "open", "print"}
# Modules that only an extra makes importable, and the package that shows whether it is there.
NEEDS_EXTRA = {"holdfast.stores.etcd": "aetcd", "holdfast_operator": "kubernetes"}

LOAD_EACH = """
import importlib, json, sys
loaded_torch = []
for module in json.loads(sys.argv[1]):
    importlib.import_module(module)
    if "torch" in sys.modules:
        loaded_torch.append(module)
        break
print(json.dumps(loaded_torch))
"""


def sources(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING:`, functions' bodies included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield other
                yield from at_run_time(other)
            continue
        yield node
        yield from at_run_time(node)


def roots_imported(source: str) -> set[str]:
    """The top-level packages that `source` imports at run time, anywhere in it."""
    roots: set[str] = set()
    for node in at_run_time(ast.parse(source)):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            roots.add(node.module.partition(".")[0])
    return roots


def names_called(source: str) -> set[str]:
    calls = (node for node in at_run_time(ast.parse(source)) if isinstance(node, ast.Call))
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


def modules_in(package: str) -> list[str]:
    """`package` and every module below it that can be imported here, without importing any."""
    component = next(folder for folder in COMPONENTS if (ROOT / folder / package.partition(".")[0]).is_dir())
    base = ROOT / component
    path = base / Path(*package.split("."))
    if path.with_suffix(".py").is_file():
        return [package]
    assert (path / "__init__.py").is_file(), f"{package} is neither a module nor a package of {base}"
    below = (found.relative_to(base).with_suffix("") for found in sources(path))
    names = {".".join(found.parts).removesuffix(".__init__") for found in below if found.name != "__main__"}
    absent = [name for name, extra in NEEDS_EXTRA.items() if importlib.util.find_spec(extra) is None]
    return sorted(name for name in names if not any(f"{name}.".startswith(f"{needy}.") for needy in absent))


def rooms_placed() -> set[str]:
    """The rooms that the exhaustive contract gives a layer."""
    assert CONTRACTS["rooms"]["exhaustive"] is True
    return {name.strip(" ()") for layer in CONTRACTS["rooms"]["layers"] for name in layer.split("|")}


def test_the_top_level_holds_only_the_folders_of_the_design() -> None:
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        answer = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: nothing tells the project's folders from others")
    folders = {path.partition("/")[0] for path in answer.stdout.split("\0") if "/" in path}
    assert folders <= ALLOWED_FOLDERS, f"not in the design: {sorted(folders - ALLOWED_FOLDERS)}"


@pytest.mark.parametrize("component", ["elastic", "checkpoint", "operator"])
def test_a_component_folder_is_no_package_itself(component: str) -> None:
    # A package `operator` would shadow the standard library's, a package `checkpoint` a user's own.
    assert not (ROOT / component / "__init__.py").exists()


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_holds_one_package_that_is_shipped_and_checked(component: str) -> None:
    packages = [init.parent.name for init in (ROOT / component).glob("*/__init__.py")]
    assert len(packages) == 1, f"{component}/ holds {packages}; one importable package is right"
    tool = PYPROJECT["tool"]
    assert f"{component}/{packages[0]}" in tool["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert component in tool["hatch"]["build"]["dev-mode-dirs"]
    assert component in tool["mypy"]["files"]
    assert packages[0] in tool["importlinter"]["root_packages"]


def test_every_folder_of_the_runtime_is_a_package() -> None:
    folders = {path.parent for path in sources(RUNTIME)}
    missing = sorted(relative(folder) for folder in folders if not (folder / "__init__.py").is_file())
    assert not missing, f"without __init__.py, and so unseen by the contracts: {missing}"


def test_every_room_of_the_runtime_is_placed_in_a_layer() -> None:
    rooms = {path.parent.name for path in RUNTIME.glob("*/__init__.py")} | {path.stem for path in RUNTIME.glob("*.py")}
    unplaced = sorted(rooms - {"__init__"} - rooms_placed())
    assert not unplaced, f"give each a layer in pyproject.toml, [tool.importlinter]: {unplaced}"


@pytest.mark.parametrize("room", CONTRACTS["pure"]["source_modules"])
def test_a_pure_room_takes_the_outside_world_as_arguments(room: str) -> None:
    forbidden = set(CONTRACTS["pure"]["forbidden_modules"])
    allowed = {tuple(line.split(" -> ")) for line in CONTRACTS["pure"]["ignore_imports"]}
    (component,) = (folder for folder in COMPONENTS if (ROOT / folder / room.partition(".")[0]).is_dir())
    found = []
    for path in sources(ROOT / component / Path(*room.split("."))):
        source = path.read_text(encoding="utf-8")
        impure = (roots_imported(source) & forbidden) | (names_called(source) & IMPURE_CALLS)
        module = ".".join(path.relative_to(ROOT / component).with_suffix("").parts)
        found += [f"{module}: {name}" for name in sorted(impure) if (module, name) not in allowed]
    assert not found


@pytest.mark.parametrize("package", CONTRACTS["no-torch"]["source_modules"])
def test_a_torchless_room_loads_no_torch(package: str) -> None:
    command = [sys.executable, "-c", LOAD_EACH, json.dumps(modules_in(package))]
    paths = [str(ROOT / component) for component in COMPONENTS]
    answer = subprocess.run(
        command, env={"PYTHONPATH": ":".join(paths)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == [], "the first module that loads torch"


def test_nothing_that_is_shipped_pickles() -> None:
    forbidden = set(CONTRACTS["no-pickle"]["forbidden_modules"])
    found = [
        f"{relative(path)}: {sorted(picklers)}"
        for path in sources(*(ROOT / component for component in COMPONENTS))
        if (picklers := roots_imported(path.read_text(encoding="utf-8")) & forbidden)
    ]
    assert not found


def test_no_file_grows_past_one_idea() -> None:
    lengths = {
        relative(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources(*(ROOT / component for component in COMPONENTS))
    }
    long = {name: lines for name, lines in lengths.items() if lines > LINES_MAX}
    assert not long, f"over {LINES_MAX} lines; a second idea is hiding in it: {long}"


@pytest.mark.parametrize(
    ("source", "roots"),
    [
        ("import time", {"time"}),
        ("from os.path import join", {"os"}),
        ("def f():\n    import asyncio.subprocess as s", {"asyncio"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", {"typing"}),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import torch", {"torch"}),
    ],
)
def test_the_guard_sees_every_run_time_import(source: str, roots: set[str]) -> None:
    assert roots_imported(source) == roots


@pytest.mark.parametrize("benchmark", sorted((ROOT / "benchmarks").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_a_benchmark_begins_by_leaving_its_folder_where_operator_py_would_hide_pythons_own(benchmark: Path) -> None:
    _, *statements = ast.parse(benchmark.read_text(encoding="utf-8")).body

    assert ast.unparse(statements[0]) == "import sys"
    assert ast.unparse(statements[1]).startswith("sys.path.insert(0, sys.path.pop(0)")
