"""The YCSB core workloads A, B, C, D and F, for whatever can save and read.

As in YCSB, an update writes a record without looking at it, and read-modify-write (F) is one operation made of a
read and a write. Records are of one value, which an update replaces.
"""

import random
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import Protocol

from .load import Operation
from .values import Value
from .zipf import Latest, ScrambledZipfian, fnv64

#: Records that are there before the first workload.
RECORDS = 10_000


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of operations; what is left over is reads."""

    title: str
    update: float = 0.0
    insert: float = 0.0
    read_modify_write: float = 0.0
    latest: bool = False


#: In the order in which YCSB recommends to run them: D comes last, as it adds records.
WORKLOADS = {
    "A": Mix("50 % reads, 50 % updates", update=0.5),
    "B": Mix("95 % reads, 5 % updates", update=0.05),
    "C": Mix("reads only"),
    "F": Mix("50 % reads, 50 % read-modify-writes", read_modify_write=0.5),
    "D": Mix("95 % reads of the latest, 5 % inserts", insert=0.05, latest=True),
}


class KeyValue(Protocol):
    """What the workloads run on."""

    def save(self, key: str, value: Value) -> Awaitable[object]:
        """Store a value."""

    def read(self, key: str) -> Awaitable[object | None]:
        """Read it again; None if it is not there."""


class MissingRecordError(Exception):
    """A record that was stored is not there."""


def record_key(number: int) -> str:
    """YCSB's name for a record, in no order."""
    return f"ycsb/user{fnv64(number)}"


class Records:
    """Which records there are: numbers are given out in order, and a record counts when all before it do."""

    def __init__(self, count: int = RECORDS) -> None:
        self.count = count
        self._next = count
        self._ahead: set[int] = set()

    def begin(self) -> int:
        """The number of a new record."""
        self._next += 1
        return self._next - 1

    def acknowledge(self, number: int) -> None:
        """The record is stored."""
        self._ahead.add(number)
        while self.count in self._ahead:
            self._ahead.remove(self.count)
            self.count += 1


def workload(letter: str, store: KeyValue, records: Records, values: Iterator[Value]) -> Operation:
    """One of the workloads as an operation."""
    mix = WORKLOADS[letter]
    uniform = random.Random().random
    # As many as there are now: only D inserts, and D looks at the latest.
    scrambled = ScrambledZipfian(records.count, uniform)
    latest = Latest(records.count, uniform)
    update_below = mix.update
    insert_below = update_below + mix.insert
    modify_below = insert_below + mix.read_modify_write

    def choose() -> str:
        return record_key(latest.next(records.count) if mix.latest else scrambled.next())

    async def read(key: str) -> None:
        if await store.read(key) is None:
            raise MissingRecordError(f"YCSB {letter}: the record {key} was stored, and is not there")

    async def insert() -> None:
        number = records.begin()
        await store.save(record_key(number), next(values))
        records.acknowledge(number)

    async def modify(key: str) -> None:
        await read(key)
        await store.save(key, next(values))

    def operation() -> Awaitable[object]:
        dice = uniform()
        if dice < update_below:
            return store.save(choose(), next(values))
        if dice < insert_below:
            return insert()
        if dice < modify_below:
            return modify(choose())
        return read(choose())

    return operation
