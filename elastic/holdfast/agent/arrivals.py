"""Layers that this node is about to have: a peer that asks for one of them waits for it here."""

from collections.abc import Collection

from holdfast.agent.news import News


class Arrivals:
    """One an agent. What comes and goes is of the newest start that it has seen."""

    def __init__(self) -> None:
        self._generation = 0
        self._expected: set[int] = set()
        self._news = News()

    def expect(self, generation: int, layers: Collection[int]) -> None:
        """A start has begun, and these are fetched for it."""
        self._generation, self._expected = generation, set(layers)
        self._news.tell()

    def ended(self, generation: int, layer: int) -> None:
        """It is here, or it is not to be had."""
        if generation == self._generation:
            self._expected.discard(layer)
            self._news.tell()

    def may_come(self, generation: int, layer: int) -> bool:
        """Also where who asks has seen a start that is still on its way here."""
        return generation > self._generation or (generation == self._generation and layer in self._expected)

    async def wait(self) -> None:
        """Until something has come or gone."""
        await self._news.wait()
