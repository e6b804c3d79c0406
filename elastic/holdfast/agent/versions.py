"""What must be installed in the same version on all machines of a job: agents must understand each other, and its bits
are those of one PyTorch."""

from importlib.metadata import PackageNotFoundError, version

from holdfast import __version__
from holdfast.errors import VersionError

Versions = tuple[tuple[str, str], ...]


def versions_here() -> Versions:
    """(package, version) on this machine, found without importing any."""
    try:
        torch = version("torch").partition("+")[0]  # builds for different devices take part in one job
    except PackageNotFoundError:
        torch = "none"
    return ("holdfast", __version__), ("torch", torch)


def check_versions(versions: Versions) -> None:
    """Raises: VersionError: `versions`, with which the job was submitted, are not those of this machine."""
    here = dict(versions_here())
    for package, wanted in versions:
        if here.get(package) != wanted:
            raise VersionError(
                f"the job was submitted with {package} {wanted}, this machine has {here.get(package)}; "
                "install the same version on all machines"
            )
