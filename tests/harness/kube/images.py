"""Directories of this machine that stand for the container images of Holdfast."""

import sys
from pathlib import Path

from harness.kube.containers import Image

CHECKOUT = Path(__file__).resolve().parents[3]
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


def system_image() -> Image:
    """This machine's own programs, and no more."""
    return Image()


def holdfast_image(*entrypoint: str, arguments: tuple[str, ...] = ()) -> Image:
    """This checkout, with the environment that runs the tests; user and variables as in our Dockerfiles."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{_SYSTEM_PATH}",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/tmp",
    }
    paths = set(Path(path).resolve() for path in (CHECKOUT, sys.prefix, sys.base_prefix))
    return Image(
        # What lies in another of them, or in the system's own folder, shows anyway.
        paths=tuple(path for path in paths if not {*paths, Path("/usr")} & {*path.parents} and path != Path("/usr")),
        entrypoint=entrypoint,
        arguments=arguments,
        environment=environment,
        workdir=str(CHECKOUT),
        user=65532,
    )
