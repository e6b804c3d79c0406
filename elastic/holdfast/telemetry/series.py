"""Times and losses by step, in some 20 bytes a step: a run of days has millions of them."""

from array import array
from collections.abc import Iterator

_STEPS = 128  # a page; steps are told mostly one after the other, but any may come at any time


class _Page:
    __slots__ = ("losses", "times_s", "told")

    def __init__(self) -> None:
        self.told = bytearray(_STEPS)
        self.times_s = array("d", bytes(8 * _STEPS))
        self.losses = array("d", bytes(8 * _STEPS))


class Series:
    """A step told again replaces what was told of it. Iterates over (step, time, loss) by step."""

    def __init__(self) -> None:
        self._pages: dict[int, _Page] = {}
        self._count = 0
        self.first = 0  # of the steps told; 0: there is none
        self.last = 0

    def add(self, step: int, time_s: float, loss: float) -> None:
        number, index = divmod(step, _STEPS)
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = _Page()
        self.first = min(self.first, step) if self._count else step
        self.last = max(self.last, step)
        self._count += not page.told[index]
        page.told[index], page.times_s[index], page.losses[index] = 1, time_s, loss

    def forget_before(self, step: int) -> None:
        """Pages that hold nothing from `step` on are gone, as if they had never been told."""
        for number in [number for number in self._pages if (number + 1) * _STEPS <= step]:
            self._count -= sum(self._pages.pop(number).told)
        if self._pages:
            oldest = min(self._pages)
            self.first = oldest * _STEPS + self._pages[oldest].told.index(1)
        else:
            self.first = self.last = 0

    def time_s(self, step: int) -> float | None:
        page, index = self._pages.get(step // _STEPS), step % _STEPS
        return page.times_s[index] if page is not None and page.told[index] else None

    def loss(self, step: int) -> float | None:
        page, index = self._pages.get(step // _STEPS), step % _STEPS
        return page.losses[index] if page is not None and page.told[index] else None

    def last_until(self, limit: float) -> int:
        """The last step told that is not beyond `limit`; 0: there is none."""
        if self.last <= limit:
            return self.last
        for number in sorted(self._pages, reverse=True):
            told = self._pages[number].told
            steps = (number * _STEPS + index for index in reversed(range(_STEPS)) if told[index])
            found = next((step for step in steps if step <= limit), None)
            if found is not None:
                return found
        return 0

    def __contains__(self, step: int) -> bool:
        page = self._pages.get(step // _STEPS)
        return page is not None and bool(page.told[step % _STEPS])

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[int, float, float]]:
        for number in sorted(self._pages):
            page = self._pages[number]
            for index in range(_STEPS):
                if page.told[index]:
                    yield number * _STEPS + index, page.times_s[index], page.losses[index]
