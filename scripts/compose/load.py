"""Writers that never stop, a book of what they were told, and the comparison of that book with the log."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from engine import Failure

import holdfast

KEYS_PER_WRITER = 4
PAUSE_SECONDS = 0.02
"""Between two saves of a writer: this is a test of what survives, on a machine that runs everything."""
CALL_SECONDS = 60
"""How long a call may take: longer than any outage here, so that every save has an answer in the end."""

# Runs with a worker's image and settings: every record of the log, as the store itself reads it.
LOG_SCRIPT = """
import asyncio, json
from holdfast.settings import load_settings

async def main():
    store = load_settings().stores()["default"]
    await store.open()
    async for record in store.scan():
        print(json.dumps([record.type, record.key, getattr(record, "version", 0), getattr(record, "value", None)]))
    await store.close()

asyncio.run(main())
"""


@dataclass
class Book:
    """What the writers sent, and what they were told about it."""

    acknowledged: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    """key → sequence number → version."""
    sent: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    not_applied: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Those of which the client said that they certainly took no effect."""
    unknown: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    answers: list[tuple[float, float, int]] = field(default_factory=list)
    """(sent at, answered at, writer) of the acknowledged saves."""
    errors: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(map(len, self.acknowledged.values()))


class Writers:
    """Tasks that save one sequence number after the other, each to keys of its own."""

    def __init__(self, client: Any, count: int) -> None:
        self._client = client
        self._count = count
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.book = Book()

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._write(writer)) for writer in range(self._count)]

    async def stop(self) -> None:
        """Let every writer finish the save in hand."""
        self._stop.set()
        async with asyncio.timeout(CALL_SECONDS + 30):
            await asyncio.gather(*self._tasks)

    async def _write(self, writer: int) -> None:
        sequence = 0
        while not self._stop.is_set():
            sequence += 1
            key = f"compose/{writer}/{sequence % KEYS_PER_WRITER}"
            self.book.sent[key].add(sequence)
            sent = time.monotonic()
            try:
                entry = await self._client.save(key, {"sequence": sequence}, timeout=CALL_SECONDS)
            except holdfast.Unavailable:
                self.book.not_applied[key].add(sequence)
                await asyncio.sleep(0.5)
            except holdfast.OutcomeUnknown:
                self.book.unknown[key].add(sequence)
            except holdfast.HoldfastError as error:
                # Nobody else writes these keys: no other answer can be right.
                self.book.errors.append(f"{key}, save {sequence}: {type(error).__name__}: {error}")
            else:
                self.book.acknowledged[key][sequence] = entry.version
                self.book.answers.append((sent, time.monotonic(), writer))
            await asyncio.sleep(PAUSE_SECONDS)

    async def outage(self, since: float) -> tuple[float, float]:
        """Seconds from `since` until a save sent after it was answered: for the first writer, and for the last.

        The last is the honest one: each key lives on one partition, and an owner's death stops its partitions only.
        """
        deadline = time.monotonic() + 2 * CALL_SECONDS
        while time.monotonic() < deadline:
            first: dict[int, float] = {}
            for sent, answered, writer in self.book.answers:
                if sent > since:
                    first[writer] = min(answered - since, first.get(writer, answered))
            if len(first) == self._count:
                return min(first.values()), max(first.values())
            await asyncio.sleep(0.1)
        raise Failure(f"{self._count - len(first)} of {self._count} writers had no answer after the fault")

    def longest_wait(self, since: float) -> float:
        """Seconds that the slowest save took, of those answered after `since`."""
        return max((answered - sent for sent, answered, _ in self.book.answers if answered > since), default=0.0)


@dataclass(frozen=True)
class Verdict:
    """The book against the log. All lists are empty if all is well."""

    events: int
    lost: list[str]
    twice: list[str]
    gaps: list[str]
    misplaced: list[str]
    ghosts: list[str]
    stale: list[str]

    @property
    def findings(self) -> dict[str, list[str]]:
        return {
            "acknowledged, but not in the log": self.lost,
            "acknowledged with another version than the log's": self.misplaced,
            "in the log more than once": self.twice,
            "in the log, but reported as not applied, or never sent": self.ghosts,
            "keys whose versions have a gap": self.gaps,
            "keys that read as something else than their newest event": self.stale,
        }


async def verify(client: Any, book: Book, log: str) -> Verdict:
    """Compare what the writers were told with every event of the log, and with what a client reads."""
    versions: dict[str, dict[int, int]] = defaultdict(dict)  # key → version → sequence
    for line in filter(None, log.splitlines()):
        kind, key, version, value = json.loads(line)
        if kind == "saved" and key in book.sent:
            versions[key][version] = value["sequence"]
    lost, twice, gaps, misplaced, ghosts, stale = [], [], [], [], [], []
    for key, sent in book.sent.items():
        found = versions[key]
        if sorted(found) != list(range(1, len(found) + 1)):
            gaps.append(key)
        at: dict[int, list[int]] = defaultdict(list)
        for version, sequence in found.items():
            at[sequence].append(version)
        twice += [f"{key}: save {sequence} as {where}" for sequence, where in at.items() if len(where) > 1]
        ghosts += [
            f"{key}: save {sequence}" for sequence in at if sequence in book.not_applied[key] or sequence not in sent
        ]
        for sequence, version in book.acknowledged[key].items():
            if sequence not in at:
                lost.append(f"{key}: save {sequence}, version {version}")
            elif version not in at[sequence]:
                misplaced.append(f"{key}: save {sequence}, version {version}, in the log {at[sequence]}")
        entry = await client.read(key, timeout=CALL_SECONDS)
        newest = max(found, default=0)
        read = (0, None) if entry is None else (entry.version, entry.value["sequence"])
        if read != (newest, found.get(newest)):
            stale.append(f"{key}: read {read}, newest ({newest}, {found.get(newest)})")
    events = sum(map(len, versions.values()))
    return Verdict(events, lost, twice, gaps, misplaced, ghosts, stale)
