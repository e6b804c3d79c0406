"""What holds for all tests."""

from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is said by benchmarks; on a busy machine it says nothing.
settings.register_profile("drawn", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# One commit, one verdict: the same examples in every run. `make fuzz` draws others; what it finds becomes an @example.
settings.register_profile("holdfast", settings.get_profile("drawn"), derandomize=True)
settings.load_profile("holdfast")

# Tests that share what is made once, though they are in several files.
TOGETHER = {"networks": ("tests/kube", "tests/chaos/test_partitions.py"), "operator": ("tests/integration/operator",)}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """With several processes the tests of a file stay in one, for its fixtures' sake, and so do files in TOGETHER."""
    from xdist.scheduler import LoadFileScheduling  # not there without the plug-in

    class Together(LoadFileScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            file = PurePosixPath(nodeid.partition("::")[0])
            groups = (name for name, parts in TOGETHER.items() if any(file.is_relative_to(part) for part in parts))
            return next(groups, str(file))

    return Together(config, log)
