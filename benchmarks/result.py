"""Results: a row per measure, with its figures and how they compare."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .load import Sample
from .rounds import Spread, ratios, spread


@dataclass(frozen=True, slots=True)
class Figure:
    """What one contender reached, round by round."""

    title: str
    unit: str
    rounds: Sequence[float]
    samples: Sequence[Sample] = ()

    @property
    def spread(self) -> Spread:
        """Median, least and most."""
        return spread(self.rounds)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "title": self.title,
            "unit": self.unit,
            **self.spread.to_json(),
            "rounds": list(self.rounds),
            "samples": [sample.to_json() for sample in self.samples],
        }


@dataclass(frozen=True, slots=True)
class Goal:
    """How a ratio should be."""

    kind: Literal["at least", "at most"]
    value: float

    def reached(self, ratio: float) -> bool:
        """Whether a ratio is so."""
        return ratio >= self.value if self.kind == "at least" else ratio <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.kind == 'at least' else '≤'} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One contender's figure beside another's."""

    measure: str
    ours: Figure
    theirs: Figure
    goal: Goal | None = None

    @property
    def ratio(self) -> Spread:
        """The median, least and most of the ratios, round by round."""
        return ratios(self.ours.rounds, self.theirs.rounds)

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached, if there is one."""
        return None if self.goal is None else self.goal.reached(self.ratio.median)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "measure": self.measure,
            "ours": self.ours.to_json(),
            "theirs": self.theirs.to_json(),
            "ratio": self.ratio.to_json(),
            "goal": None if self.goal is None else {"kind": self.goal.kind, "value": self.goal.value},
            "reached": self.reached,
        }


@dataclass(slots=True)
class Row:
    """One measure, all that was seen of it, and what a reader has to know."""

    name: str
    title: str
    comparisons: list[Comparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: Whatever else was measured.
    extra: dict[str, Any] = field(default_factory=dict)
    #: Kind of operation → contender → samples, one for each number in flight.
    curves: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "name": self.name,
            "title": self.title,
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "notes": self.notes,
            "curves": {
                kind: {name: [sample.to_json() for sample in samples] for name, samples in curve.items()}
                for kind, curve in self.curves.items()
            },
            **self.extra,
        }


def rates(title: str, samples: Sequence[Sample], unit: str = "/s") -> Figure:
    """The figure of some samples' rates."""
    return Figure(title, unit, [sample.rate for sample in samples], samples)


def medians(title: str, samples: Sequence[Sample]) -> Figure:
    """The figure of some samples' median times."""
    return Figure(title, "ms", [sample.p50 for sample in samples], samples)
