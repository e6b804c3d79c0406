"""What tests of several parts share."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from harness.copies import Nodes


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    async with AsyncExitStack() as stack:
        yield Nodes(stack)
