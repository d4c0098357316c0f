"""What came of a run: for people as Markdown, for programs as JSON."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from .timeline import Injection, Standstill


@dataclass
class Report:
    """A run and its verdict."""

    seed: str
    #: What it was asked for: minutes, kinds, and how much of everything.
    options: dict[str, Any]
    #: The machine, and the versions of what ran.
    machine: dict[str, str] = field(default_factory=dict)
    #: What is wrong, each in words. Empty: the run has passed.
    findings: list[str] = field(default_factory=list)
    #: Seconds of load.
    seconds: float = 0.0
    operations: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    #: Of those that are transactions.
    transactions: Counter[str] = field(default_factory=Counter)
    keys: int = 0
    #: Places that the checker tried.
    steps: int = 0
    #: Of the log.
    events: int = 0
    refusals: int = 0
    #: Transactions that were committed.
    receipts: int = 0
    #: Dead letters that were expected.
    letters: int = 0
    injections: list[Injection] = field(default_factory=list)
    standstills: list[Standstill] = field(default_factory=list)
    #: Without any fault, before the first one.
    calm: Standstill | None = None
    #: While faults were mixed.
    mixed: Standstill | None = None
    #: Faults of the chosen kinds for which the time did not suffice.
    not_reached: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def write(self, directory: Path) -> None:
        """Write ``report.md`` and ``report.json``."""
        (directory / "report.md").write_text(self.markdown())
        data = {"passed": self.passed} | orjson.loads(orjson.dumps(self))
        (directory / "report.json").write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2))

    def markdown(self) -> str:
        """The report as a page."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        verdict = "passed" if self.passed else "FAILED"
        yield f"# Chaos run, seed {self.seed}: {verdict}"
        yield ""
        yield ", ".join(f"{name} {value}" for name, value in {**self.options, **self.machine}.items())
        yield ""
        if self.findings:
            yield f"{len(self.findings)} findings:"
            yield ""
            yield from (f"- {finding}" for finding in self.findings)
            yield ""
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in self.outcomes.most_common())
        yield f"- {self.operations:,} operations on {self.keys:,} keys in {self.seconds:,.0f} s of load: {outcomes}"
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in self.transactions.most_common())
        yield f"- {self.transactions.total():,} of them are transactions: {outcomes or 'none'}"
        yield (
            f"- the log: {self.events:,} events, {self.refusals:,} recorded refusals, "
            f"{self.receipts:,} receipts of transactions"
        )
        alone = [injection for injection in self.injections if injection.alone]
        yield f"- {len(alone)} faults alone, {len(self.injections) - len(alone)} mixed"
        yield f"- {self.letters:,} dead letters that were expected"
        if self.not_reached:
            yield f"- there was no time for: {', '.join(self.not_reached)}"
        yield ""
        yield from _table(
            ("longest time in seconds without acknowledged writes", "at all", "on a partition", "fault lasted"),
            _rows([("(no fault)", self.calm), *((each.name, each) for each in self.standstills)]),
        )
        if self.mixed is not None:
            yield ""
            mixed = Counter(injection.name for injection in self.injections if not injection.alone)
            yield f"Mixed, {self.mixed.lasted:,.0f} s: no write at all for {self.mixed.all_writes:.1f} s at most, "
            yield f"on some partition for {self.mixed.one_partition:.1f} s. "
            yield "Faults: " + ", ".join(f"{count} x {name}" for name, count in sorted(mixed.items())) + "."


def _rows(standstills: Iterable[tuple[str, Standstill | None]]) -> Iterator[tuple[str, ...]]:
    for name, each in standstills:
        if each is not None:
            yield name, f"{each.all_writes:.2f}", f"{each.one_partition:.2f}", f"{each.lasted:.1f}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" + "|---:" * (len(head) - 1) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
