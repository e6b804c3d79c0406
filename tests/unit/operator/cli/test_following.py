"""Lines of all pods, each once, until all is said, whatever breaks meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from holdfast.errors import JobFailedError, UserError
from holdfast_operator.cli import following
from holdfast_operator.cli.cluster import Cluster, Object
from holdfast_operator.cli.following import Wanted


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_LOOK_S", 0.001)


class OnePod:
    """Its log is three lines; the stream breaks off after each, but for those it has told before."""

    pods = "/pods"

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.job_is_gone = False

    async def job(self, name: str) -> Object:
        if self.job_is_gone:
            raise UserError("a: there is no ElasticJob of that name")
        return {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}

    async def pods_of(self, job: str) -> list[Object]:
        state: Object = {"running": {}} if len(self.asked) < 3 else {"terminated": {}}
        status = {"containerStatuses": [{"name": "holdfast", "state": state}]}
        return [{"metadata": {"name": "a-0", "uid": "u"}, "status": status}]

    async def lines(self, path: str, **query: str) -> AsyncIterator[str]:
        self.asked.append(query)
        told = len(self.asked)
        # From the second on, as the kubelet understands it.
        for number in range(1, told + 1):
            yield f"2026-01-01T00:00:00.{number}00000000Z line {number}"
        if told < 3:
            raise JobFailedError("the cluster does not answer")


class Endless(OnePod):
    """A log that never ends, of a job that goes away."""

    async def lines(self, path: str, **query: str) -> AsyncIterator[str]:
        self.job_is_gone = True
        await asyncio.sleep(60)
        yield ""


async def test_a_stream_that_breaks_off_is_taken_up_where_it_did() -> None:
    cluster, written = OnePod(), list[tuple[str, str]]()
    wanted = Wanted(job="a", follow=True, tail=5)
    async with asyncio.timeout(5):
        await following._follow(cast(Cluster, cluster), wanted, lambda *line: written.append(line))
    assert written == [("a-0", f"line {number}") for number in (1, 2, 3)]
    first, second, third = cluster.asked
    assert (first["tailLines"], "sinceTime" in first) == ("5", False)
    assert ("tailLines" in second, second["sinceTime"]) == (False, "2026-01-01T00:00:00.100000000Z")
    assert third["sinceTime"] == "2026-01-01T00:00:00.200000000Z"


async def test_that_the_job_is_gone_is_said_as_it_is() -> None:
    wanted = Wanted(job="a", follow=True)
    with pytest.raises(UserError, match="there is no ElasticJob"):
        async with asyncio.timeout(5):
            await following._follow(cast(Cluster, Endless()), wanted, lambda *_: None)
