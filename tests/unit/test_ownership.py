"""Partitions spread evenly over workers, and move as little as possible when workers come and go."""

from collections import Counter
from itertools import combinations

import pytest

from holdfast.events.topology import MAX_PARTITIONS
from holdfast.worker.ownership import priority

PARTITIONS = range(MAX_PARTITIONS)


def owners(workers: list[str]) -> dict[int, str]:
    """Which worker has which partition: the broker gives a queue to the consumer of the highest priority."""
    return {partition: max(workers, key=lambda worker: priority(worker, partition)) for partition in PARTITIONS}


def fleet(size: int, naming: str = "worker-{}") -> list[str]:
    return [naming.format(number) for number in range(size)]


@pytest.mark.parametrize("naming", ["worker-{}", "holdfast-7d9f8-{}", "host-{}-4711", "w{}"])
@pytest.mark.parametrize("size", [2, 3, 5, 8, 16])
def test_partitions_spread_evenly(size: int, naming: str) -> None:
    """Given a fleet with names of any make, when it shares 256 partitions, then none has far more than its share."""
    share = len(PARTITIONS) / size
    counts = Counter(owners(fleet(size, naming)).values())
    assert len(counts) == size
    # Four standard deviations of a fair draw.
    spread = 4 * (share * (1 - 1 / size)) ** 0.5
    assert all(abs(count - share) <= spread for count in counts.values()), counts


@pytest.mark.parametrize("size", [1, 2, 5, 10])
def test_a_worker_that_joins_takes_from_others_only_for_itself(size: int) -> None:
    """Given a fleet, when a worker joins, then every partition that moves goes to it, and about its share moves."""
    before, after = owners(fleet(size)), owners([*fleet(size), "newcomer"])
    moved = {partition for partition in PARTITIONS if before[partition] != after[partition]}
    assert {after[partition] for partition in moved} == {"newcomer"}
    share = len(PARTITIONS) / (size + 1)
    assert abs(len(moved) - share) <= 4 * share**0.5


@pytest.mark.parametrize("size", [2, 5, 10])
def test_a_worker_that_leaves_gives_up_only_its_own(size: int) -> None:
    """Given a fleet, when any of its workers leaves, then no partition of another one moves, and many take over."""
    workers = fleet(size)
    before = owners(workers)
    for gone in workers:
        after = owners([worker for worker in workers if worker != gone])
        moved = {partition for partition in PARTITIONS if before[partition] != after[partition]}
        assert moved == {partition for partition, owner in before.items() if owner == gone}
        heirs = {after[partition] for partition in moved}
        assert len(heirs) >= min(size - 1, 3)


def test_priorities_are_what_the_broker_takes() -> None:
    """Given any worker and queue, when its priority is asked for, then it is a small enough number, always the same."""
    for worker in ("w", "ü", "x" * 1000):
        for queue in (0, 255, "holdfast.ingress"):
            assert 0 <= priority(worker, queue) < 2**30
            assert priority(worker, queue) == priority(worker, queue)


def test_no_two_workers_want_a_partition_equally() -> None:
    """Given a fleet, when two workers are compared for any partition, then one of them wants it more."""
    for one, other in combinations(fleet(20), 2):
        assert all(priority(one, partition) != priority(other, partition) for partition in PARTITIONS)


def test_the_order_for_one_partition_says_nothing_about_the_next() -> None:
    """Given two workers, when all partitions are compared, then each of them wins about half."""
    wins = sum(priority("a", partition) > priority("b", partition) for partition in PARTITIONS)
    assert 96 <= wins <= 160


def test_a_worker_that_lacks_something_stands_behind_all_others_and_in_its_order_among_its_like() -> None:
    """Given a fleet, when some of it are reluctant, then each of them wants each partition less than any other does."""
    workers = fleet(20)
    for partition in PARTITIONS:
        behind = [priority(worker, partition, reluctant=True) for worker in workers]
        assert max(behind) < 0 <= min(priority(worker, partition) for worker in workers)
        assert min(behind) >= -(2**31)
        assert sorted(workers, key=lambda worker: priority(worker, partition, reluctant=True)) == sorted(
            workers, key=lambda worker: priority(worker, partition)
        )
