"""What holds for all tests."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is said by benchmarks; on a busy machine it says nothing.
settings.register_profile("holdfast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("holdfast")

TESTS = Path(__file__).parent
# Tests that share what is made once, though they are in several files.
TOGETHER = {"networks": ("kube", "chaos/test_partitions.py"), "operator": ("integration/operator",)}


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """With several processes the tests of a file stay in one, for its fixtures' sake."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item.path)))


def _group(file: Path) -> str:
    place = file.relative_to(TESTS)
    names = (name for name, parts in TOGETHER.items() if any(place.is_relative_to(part) for part in parts))
    return next(names, str(place))
