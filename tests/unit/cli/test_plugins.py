"""`holdfast k8s` is a plug-in: the runtime does not know it, and does not need it."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer

from holdfast.cli import plugins

Holdfast = Callable[..., tuple[int, str, str]]


def test_commands_of_the_operator_are_there(holdfast: Holdfast) -> None:
    code, output, _ = holdfast("k8s", "--help")
    assert code == 0
    for command in ("submit", "status", "logs", "drain", "events", "suspend", "resume", "scale"):
        assert command in output


def test_loading_them_loads_no_client_of_kubernetes() -> None:
    script = (
        "import sys, holdfast.cli.main, holdfast_operator.cli.app; "
        "print([m for m in ('torch', 'pydantic', 'aiohttp', 'kubernetes') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "kubernetes.py").write_text("raise ImportError('there is none')\n")
    script = "import sys; from holdfast.cli.main import main; sys.argv = ['holdfast', 'k8s', 'status']; main()"
    ended = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert (
        ended.stderr == "holdfast: error: holdfast k8s needs the Kubernetes client: pip install 'holdfast[operator]'\n"
    )


def test_without_a_kubeconfig_it_says_what_to_give(holdfast: Holdfast, tmp_path: Path) -> None:
    code, _, error = holdfast("k8s", "status", "--kubeconfig", tmp_path / "none")
    assert code == 2
    assert f"kubeconfig {tmp_path / 'none'}: " in error
    assert "--kubeconfig and --context" in error


def test_one_that_cannot_be_loaded_says_so_and_keeps_nobody_from_the_others(
    holdfast: Holdfast, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()

    @app.command()
    def fine() -> None:
        typer.echo("fine")

    points = [
        EntryPoint(name="gone", value="no.such.module:app", group=plugins.GROUP),
        EntryPoint(name="odd", value="json:dumps", group=plugins.GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    plugins.add_plugins(app)
    monkeypatch.setattr("holdfast.cli.main.app", app)
    assert holdfast("fine")[:2] == (0, "fine\n")
    for name, why in (("gone", "No module named 'no'"), ("odd", "json:dumps is no typer app")):
        code, _, error = holdfast(name)
        assert code == 2
        assert f"holdfast {name}: cannot be loaded: " in error
        assert why in error
