"""The command `holdfast-operator`: what is wrong is told before anything starts."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from holdfast_operator.main import app


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"KUBECONFIG": "/nowhere", **environment})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--log-level", "loud"], r"--log-level 'loud': unknown; should be one of debug, info, warning, error"),
        (["--lease-seconds", "0"], r"lease: retry 0\.0 s.*each should be less than the next"),
        (["--kubeconfig", "/nowhere/at-all"], r"--kubeconfig /nowhere/at-all: cannot be used"),
        (["--workers", "0"], r"Invalid value for '--workers' \(env var: 'HOLDFAST_OPERATOR_WORKERS'\)"),
    ],
)
def test_wrong_input_is_named_and_ends_it_with_2(arguments: list[str], words: str) -> None:
    result = run("--port", "0", *arguments)
    assert result.exit_code == 2
    assert re.search(words, re.sub(r"\s+", " ", result.output)), result.output


def test_every_option_has_an_environment_variable(tmp_path: Path) -> None:
    result = run(HOLDFAST_OPERATOR_LOG_LEVEL="loud")
    assert (result.exit_code, "--log-level 'loud'" in result.output) == (2, True)
