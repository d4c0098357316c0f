"""How long writes stood still, computed from when they were acknowledged."""

import pytest

from chaos.history import Operation, Outcome
from chaos.timeline import Acknowledgements, Injection, acknowledged, longest_gap
from holdfast.events import partition_of


@pytest.mark.parametrize(
    ("times", "begin", "end", "expected"),
    [
        ([], 10, 30, 20),
        ([5, 12, 25], 10, 30, 13),
        # What was before and what comes after is not this fault's.
        ([5, 50], 10, 30, 20),
        ([10, 29], 10, 30, 19),
        ([11, 12, 13], 10, 30, 17),
    ],
)
def test_the_longest_gap_is_the_one_between_two_moments(times: list[int], begin: int, end: int, expected: int) -> None:
    """Beginning and end count as moments, whatever lies outside."""
    assert longest_gap(times, begin, end) == expected


def test_a_partition_may_stand_still_while_others_go_on() -> None:
    """The gap of all writes is not the gap of the partition that has the longest."""
    second = 1_000_000_000
    every_second = [number * second for number in range(20)]
    one_that_stops = [number * second for number in range(20) if not 5 < number < 12]
    fault = Injection("a fault", alone=True, began=4 * second, healed=9 * second)

    standstill = Acknowledgements([every_second, one_that_stops]).standstill(fault, 20 * second)

    assert (standstill.all_writes, standstill.one_partition, standstill.lasted) == (1.0, 7.0, 5.0)


def test_only_acknowledged_writes_count() -> None:
    """Reads, conflicts and calls without an answer tell nothing of writes that went on."""

    def operation(op: str, outcome: Outcome, returned: int | None) -> Operation:
        return Operation(client="c", id="i", key="k", op=op, invoked=0, returned=returned, outcome=outcome)

    operations = [
        operation("save", Outcome.OK, 3),
        operation("delete", Outcome.OK, 5),
        operation("read", Outcome.OK, 1),
        operation("save", Outcome.CONFLICT, 2),
        operation("save", Outcome.UNKNOWN, 4),
        operation("save", Outcome.UNKNOWN, None),
    ]

    times = acknowledged(operations, 4)

    assert times[partition_of("default", "k", 4)] == [3, 5]
    assert sum(map(len, times)) == 2
