"""How long writes stood still: the longest time without an acknowledged write, around each fault. Plain functions."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from holdfast.events import partition_of

from .history import Operation, Outcome


@dataclass(slots=True)
class Injection:
    """A fault that was injected. Times are nanoseconds of CLOCK_MONOTONIC."""

    name: str
    #: Without any other fault at the same time.
    alone: bool
    began: int
    #: When all that it touched was up again.
    healed: int = 0
    #: When every partition acknowledged writes again.
    recovered: int = 0
    #: Why it could not be done; empty if it was.
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Standstill:
    """What the load felt of one fault. Seconds."""

    name: str
    #: The longest time without any acknowledged write.
    all_writes: float
    #: The longest time without one on some partition.
    one_partition: float
    #: From the fault's beginning until all that it touched was up again.
    lasted: float


class Acknowledgements:
    """When writes were acknowledged: of each partition, in order."""

    def __init__(self, partitions: Sequence[Iterable[int]]) -> None:
        self._partitions = [sorted(times) for times in partitions]
        self._all = sorted(time for times in self._partitions for time in times)

    def longest_gap(self, begin: int, end: int) -> float:
        """The longest time without any acknowledged write between two moments. In seconds."""
        return longest_gap(self._all, begin, end) / 1e9

    def longest_gap_of_a_partition(self, begin: int, end: int) -> float:
        """The same of the partition that had the longest."""
        return max(longest_gap(times, begin, end) for times in self._partitions) / 1e9

    def standstill(self, injection: Injection, end: int) -> Standstill:
        """What came of one fault.

        :param end: the beginning of the next one, or the end of the load.
        """
        return Standstill(
            injection.name,
            self.longest_gap(injection.began, end),
            self.longest_gap_of_a_partition(injection.began, end),
            (injection.healed - injection.began) / 1e9,
        )


def acknowledged(operations: Iterable[Operation], partitions: int) -> list[list[int]]:
    """When the writes of each partition were acknowledged, in the order of the operations."""
    times: list[list[int]] = [[] for _ in range(partitions)]
    for operation in operations:
        if operation.op != "read" and operation.outcome is Outcome.OK and operation.returned is not None:
            times[partition_of(operation.store, operation.key, partitions)].append(operation.returned)
    return times


def longest_gap(times: Sequence[int], begin: int, end: int) -> int:
    """The longest time without any of these moments, as far as it falls between ``begin`` and ``end``."""
    inside = [begin, *times[bisect_right(times, begin) : bisect_left(times, end)], end]
    return max(later - earlier for earlier, later in pairwise(inside))
