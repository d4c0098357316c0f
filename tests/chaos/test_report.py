"""The pages that runs and soaks end in, and when a soak has failed."""

import json
from collections import Counter
from pathlib import Path

import pytest

from chaos.report import Report
from chaos.soak import Memory, SoakReport, fit, judge
from chaos.timeline import Injection, Standstill


def report(**fields: object) -> Report:
    made = Report("abc", {"minutes": 1}, operations=10, outcomes=Counter(ok=9, unknown=1), keys=3, **fields)  # type: ignore[arg-type]
    made.injections = [Injection("a fault", True, 0, 10), Injection("another", False, 5, 9)]
    made.standstills = [Standstill("a fault", 0.5, 1.25, 3.0)]
    made.mixed = Standstill("", 2.0, 4.0, 60.0)
    made.transactions = Counter(ok=2, conflict=1)
    made.receipts = 2
    return made


def test_a_report_is_written_for_people_and_for_programs(tmp_path: Path) -> None:
    """Both have the seed, the verdict, the counts and the figure of each fault."""
    report().write(tmp_path)

    page = (tmp_path / "report.md").read_text()
    assert "seed abc: passed" in page
    assert "9 ok, 1 unknown" in page
    assert "3 of them are transactions: 2 ok, 1 conflict" in page
    assert "2 receipts of transactions" in page
    assert "| a fault | 0.50 | 1.25 | 3.0 |" in page
    assert "1 x another" in page
    data = json.loads((tmp_path / "report.json").read_text())
    assert (data["passed"], data["operations"], data["outcomes"]) == (True, 10, {"ok": 9, "unknown": 1})
    assert data["standstills"] == [{"name": "a fault", "all_writes": 0.5, "one_partition": 1.25, "lasted": 3.0}]


def test_any_finding_fails_a_run() -> None:
    """And is told."""
    failed = report(findings=["a stale read"])

    assert not failed.passed
    assert "FAILED" in failed.markdown()
    assert "- a stale read" in failed.markdown()


def soaked(*, growth: float = 0.0, done: int = 60_000, failed: int = 0, more_waiting: int = 0) -> SoakReport:
    """A soak of a minute at a thousand calls a second."""
    made = SoakReport(1, {}, rate=1_000, highest_rate=2_000, client={"done": done, "failed": failed, "error": "E"})
    made.client_memory = Memory([(float(second), 50.0) for second in range(60)])
    made.worker_memory = Memory(
        # What is taken while caches are filled does not count.
        [(float(second), 100.0 + min(second, 15) * 10 + max(0, second - 15) / 44 * growth) for second in range(60)]
    )
    made.waiting = [(float(second), 10 + (second // 30) * more_waiting) for second in range(0, 60, 5)]
    return made


def test_a_soak_that_is_flat_has_passed() -> None:
    """Whatever it took during the warm-up."""
    flat = soaked()
    judge(flat)

    assert flat.passed
    assert flat.worker_memory.growth == pytest.approx(0, abs=0.01)
    assert flat.worker_memory.start == pytest.approx(250, abs=0.5)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"growth": 20.0}, "the memory of the worker grew by 20.0 MiB"),
        ({"done": 50_000}, "the rate was not held"),
        ({"failed": 3}, "3 calls failed; the last one: E"),
        ({"more_waiting": 500}, "the queues grew"),
    ],
)
def test_a_soak_that_is_not_flat_has_failed(wrong: dict[str, int], told: str) -> None:
    """Memory, rate, failures and queues each by itself."""
    bad = soaked(**wrong)
    judge(bad)

    assert len(bad.findings) == 1
    assert told in bad.findings[0]


def test_the_line_through_points_is_the_one_of_least_squares() -> None:
    """Its slope, and its height at the first point."""
    assert fit([(1, 3), (2, 5), (3, 7)]) == pytest.approx((2, 3))
    assert fit([(0, 1), (1, 3), (2, 2)]) == pytest.approx((0.5, 1.5))
