"""Rounds: contenders take turns, so that what disturbs the machine for a while disturbs all of them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

T = TypeVar("T")

Measure = Callable[[], Awaitable[T]]


def turns(contenders: Sequence[str], rounds: int) -> list[tuple[int, str]]:
    """Who is measured when: every round has all of them, and each round begins with another one."""
    order: list[tuple[int, str]] = []
    for number in range(rounds):
        start = number % len(contenders)
        order += [(number, name) for name in (*contenders[start:], *contenders[:start])]
    return order


async def interleave(
    contenders: Mapping[str, Measure[T]], rounds: int, *, on_turn: Callable[[str], None] = lambda _: None
) -> dict[str, list[T]]:
    """Measure all contenders in turns; the n-th results of all belong together."""
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for number, name in turns(list(contenders), rounds):
        on_turn(f"{name}, round {number + 1} of {rounds}")
        results[name].append(await contenders[name]())
    return results


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some figures, and how far they lie apart."""

    median: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """As plain data."""
        return {"median": self.median, "low": self.low, "high": self.high}


def spread(figures: Sequence[float]) -> Spread:
    """Of one figure or more."""
    return Spread(median(figures), min(figures), max(figures))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Of what belongs together, pair by pair: a disturbance that hits both of a pair cancels out."""
    return spread([our / their for our, their in zip(ours, theirs, strict=True)])
