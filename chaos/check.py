"""The checks of a run, also long after it: from the histories and the log that it left in its folder."""

import asyncio
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from holdfast.events import Event, Receipt, Record, Refusal
from holdfast.events.topology import DEFAULT_STORE
from holdfast.stores import MongoStore
from holdfast.verify import verify

from .audit import Audit
from .explanation import explain_circle
from .history import Operation, load, part_of, stream
from .linearizability import Result, check
from .plan import LEDGERS
from .serializability import check as check_order
from .serializability import happened_in
from .timeline import acknowledged

#: Seconds for all the checks.
CHECK_TIMEOUT = 1800.0
#: Keys are checked in so many parts for each processor, so that none has much more to do than others.
_PARTS_PER_PROCESSOR = 4
#: Explanations that are shown.
_MAX_FINDINGS = 20

LOG_FILE = "log.jsonl"

#: What is no event, by its type.
_KINDS: dict[str, type[Refusal | Receipt]] = {"refused": Refusal, "transacted": Receipt}


@dataclass
class Checked:
    """What the checker says of a run, or of a part of it."""

    operations: int = 0
    keys: int = 0
    steps: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    #: Of those calls that are transactions.
    transactions: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    #: How many findings there are, those that were not kept included.
    wrong: int = 0
    #: When writes were acknowledged, by partition.
    acknowledged: list[list[int]] = field(default_factory=list)

    def find(self, what: str, findings: Iterable[str]) -> None:
        """Take findings in. All are counted, and the first ones are kept."""
        for finding in findings:
            self.wrong += 1
            if len(self.findings) < _MAX_FINDINGS:
                self.findings.append(f"{what}: {finding}")

    def add(self, other: "Checked") -> None:
        """Take another part in."""
        for mine, others in zip(self.acknowledged, other.acknowledged, strict=True):
            mine += others
        self.operations += other.operations
        self.keys += other.keys
        self.steps += other.steps
        self.outcomes += other.outcomes
        self.transactions += other.transactions
        self.findings += other.findings
        self.wrong += other.wrong


async def check_histories(paths: Sequence[Path], log: Path, partitions: int) -> Checked:
    """Whether histories and log agree, every key's history is linearizable, and all of it has one order.

    :raises HistoryError: if a history cannot be used.
    :raises TimeoutError: if it takes too long.
    """
    processors = os.cpu_count() or 1
    parts = processors * _PARTS_PER_PROCESSOR
    loop = asyncio.get_running_loop()
    checked = Checked(acknowledged=[[] for _ in range(partitions)])
    with ProcessPoolExecutor(processors, mp_context=multiprocessing.get_context("spawn")) as pool:
        async with asyncio.timeout(CHECK_TIMEOUT):
            # The longest one first.
            work = [loop.run_in_executor(pool, _check_order, paths, log, partitions)]
            work += [
                loop.run_in_executor(pool, _check_part, paths, log, part, parts, partitions) for part in range(parts)
            ]
            for part in asyncio.as_completed(work):
                checked.add(await part)
    return checked


def _check_part(paths: Sequence[Path], log: Path, part: int, parts: int, partitions: int) -> Checked:
    def is_mine(key: str) -> bool:
        return part_of(DEFAULT_STORE, key, parts) == part

    operations = load(paths, part=part, parts=parts)
    # A transaction is in the parts of all its keys, and counts in that of its first one.
    mine = [operation for operation in operations if is_mine(operation.key)]
    checked = Checked(operations=len(mine), acknowledged=acknowledged(mine, partitions))
    checked.outcomes.update(operation.outcome.value for operation in mine)
    checked.transactions.update(operation.outcome.value for operation in mine if operation.op == "transact")
    audit = Audit(operations, is_mine=is_mine)
    for record in read_log(log, part=part, parts=parts):
        checked.find("the log", map(str, audit.see(record)))
    checked.find("the log", map(str, audit.finish()))
    # With what the log knows of unknown outcomes: that leaves the answers less room.
    for verdict in check(each for each in audit.settled() if not each.key.startswith(LEDGERS)):
        checked.keys += 1
        checked.steps += verdict.steps
        if verdict.result is not Result.LINEARIZABLE:
            checked.find(verdict.result.value, [verdict.explanation])
    return checked


def _check_order(paths: Sequence[Path], log: Path, partitions: int) -> Checked:
    """Whether all of it, over all keys, has one order."""
    checked = Checked(acknowledged=[[] for _ in range(partitions)])

    def operations() -> Iterator[Operation]:
        for path in paths:
            yield from stream(path)

    events = (record for record in read_log(log) if isinstance(record, Event))
    found = check_order(happened_in(operations()), events, explain=lambda ids: explain_circle(ids, operations()))
    checked.find("over all keys", found)
    return checked


async def dump_log(mongo_url: str, path: Path) -> Counter[str]:
    """Write the whole log of the default store to a file of JSON lines. Gives back how many records of which type."""
    store = MongoStore(mongo_url)
    # As it is: what is at fault is to be found, not mended.
    await store.open(create=False)
    types: Counter[str] = Counter()
    try:
        with path.open("wb") as file:
            async for record in store.scan():
                types[record.type] += 1
                data = record.model_dump() | {"digest": record.digest.hex()}
                file.write(orjson.dumps(data, option=orjson.OPT_APPEND_NEWLINE))
    finally:
        await store.close()
    return types


async def verify_log(mongo_url: str) -> list[str]:
    """What breaks the log's own rules, as ``holdfast verify`` finds it."""
    store = MongoStore(mongo_url)
    await store.open(create=False)
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            report = await verify(store, DEFAULT_STORE, max_faults=_MAX_FINDINGS)
    finally:
        await store.close()
    return [f"holdfast verify: {fault}" for fault in report.faults]


def read_log(path: Path, *, part: int = 0, parts: int = 1) -> Iterator[Record]:
    """What ``dump_log`` wrote; of every ``parts``-th key, as ``load`` takes them, and all receipts of transactions."""
    with path.open("rb") as file:
        for line in file:
            data = orjson.loads(line)
            if parts == 1 or data["type"] == "transacted" or part_of(DEFAULT_STORE, data["key"], parts) == part:
                data["digest"] = bytes.fromhex(data["digest"])
                yield _KINDS.get(data["type"], Event)(**data)


def histories_in(directory: Path) -> list[Path]:
    """The histories that a run left in its folder."""
    return sorted(directory.glob("*.history"))
