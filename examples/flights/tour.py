"""The tour's steps."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import holdfast
from holdfast.events import Event
from holdfast.local import Addresses, LocalStack
from holdfast.stores import MongoStore
from holdfast.worker.ownership import priority

from .departures import Departures, id_of
from .screen import Screen

#: Saves under way at one time.
IN_FLIGHT = 1024
#: How many departures are sent a second time.
REPEATS = 1000
#: An aircraft with a good number of flights in every month.
FAVOURITE = "aircraft/N14228"
#: Seconds that a save may take, a worker's death included.
PATIENCE = 60.0


@dataclass
class Load:
    """What came of the load."""

    #: The version that each departure was answered with, by its number less one.
    versions: list[int]
    seconds: float = 0.0
    #: Of the slowest save.
    slowest: float = 0.0
    killed_at: int = 0
    in_flight_at_kill: int = 0
    #: The worker that was killed.
    victim: "Worker | None" = None


@dataclass
class Worker:
    """A worker process of the tour's own."""

    part: str
    pid: int
    #: How many partitions it holds: those for which its consumer priority is the highest.
    partitions: int


class TourError(holdfast.HoldfastError):
    """Something did not go as Holdfast promises."""


@dataclass
class Count:
    """What stands in the log, compared with the departures."""

    found: int = 0
    twice: int = 0
    wrong: int = 0
    disordered: int = 0
    other: int = 0
    refusals: int = 0
    gaps: int = 0
    seen: set[int] = field(default_factory=set)


class Tour:
    """Shows what Holdfast does with real input, on servers that it may kill."""

    def __init__(self, screen: Screen, stack: LocalStack, departures: Departures) -> None:
        self._screen = screen
        self._stack = stack
        self._departures = departures

    async def run(self, addresses: Addresses) -> bool:
        """All steps in order. Whether the final count is exact."""
        async with holdfast.connect(addresses.amqp_url, timeout=PATIENCE, name="demo") as client:
            load = await self._load(client)
            key = self._favourite()
            await self._state(client, key)
            await self._history(client, key)
            others = await self._collide(client, key)
            await self._repeat(client, load)
        return await self._count(addresses, load, others)

    async def _load(self, client: holdfast.Client) -> Load:
        departures, screen = self._departures, self._screen
        screen.step(
            "The load, and a worker that dies in the middle of it",
            "Every departure is a save: the key is the aircraft, the command id is made of\n"
            f"the departure's number. Up to {IN_FLIGHT:,} saves are under way at one time.\n"
            "Half way, one of the two workers gets kill -9.",
        )
        named = len(departures) - departures.without_aircraft
        screen.say(
            f"{len(departures):,} departures: {named:,} of an aircraft. {departures.without_aircraft:,} were cancelled "
            "before one\nwas assigned; these are saved under their airline, as [cyan]unassigned/UA[/cyan]."
        )
        service = await client.describe()
        load = Load(versions=[0] * len(departures))
        window = asyncio.Semaphore(IN_FLIGHT)
        done = 0
        half = len(departures) // 2

        async def save(number: int) -> None:
            nonlocal done
            departure = departures[number]
            began = time.monotonic()
            entry = await client.save(departure.key, departure.value, id=departure.id)
            load.slowest = max(load.slowest, time.monotonic() - began)
            load.versions[number] = entry.version
            window.release()
            done += 1
            if done == half:
                load.killed_at = done
                load.in_flight_at_kill = started - done
                load.victim = self._kill_worker(service.partitions)

        with screen.progress(len(departures), "saves") as show:
            began = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                for started in range(1, len(departures) + 1):
                    await window.acquire()
                    tasks.create_task(save(started - 1))
                    if started % 256 == 0:
                        show(done)
            load.seconds = time.monotonic() - began
            show(done)
        screen.say(
            f"[bold]{done:,}[/bold] saves acknowledged in {load.seconds:.1f} s: "
            f"[bold]{done / load.seconds:,.0f} a second[/bold], each on MongoDB's journal."
        )
        if load.victim is None:
            raise TourError("no worker was killed")
        screen.say(
            f"{load.victim.part} (process {load.victim.pid}, {load.victim.partitions} of the {service.partitions} "
            f"partitions) was killed after {load.killed_at:,}\n"
            f"answers, with {load.in_flight_at_kill:,} saves under way. "
            "RabbitMQ gave its partitions, and what it\nhad in hand, to the other worker. "
            f"The slowest save of all took {load.slowest:.2f} s;\nnone failed."
        )
        return load

    def _kill_worker(self, partitions: int) -> Worker:
        """Kill the one that holds more of the partitions."""
        names = {}
        for part, pid in self._stack.status().processes.items():
            if part.startswith("worker-") and pid is not None:
                health = json.loads((self._stack.directory / f"{part}.json").read_text())
                names[health["name"]] = (part, pid)
        held = Counter(max(names, key=lambda name: priority(name, partition)) for partition in range(partitions))
        name, count = held.most_common(1)[0]
        part, pid = names[name]
        os.kill(pid, signal.SIGKILL)
        return Worker(part, pid, count)

    def _favourite(self) -> str:
        flights = Counter(self._departures[number].key for number in range(len(self._departures)))
        if flights[FAVOURITE] >= 3:
            return FAVOURITE
        aircraft = [key for key in flights if key.startswith("aircraft/")]
        return max(aircraft, key=lambda key: flights[key])

    async def _state(self, client: holdfast.Client, key: str) -> None:
        self._screen.step(
            "One aircraft: its current state",
            "A strong read. There is no second copy that could be behind: the state is the\n"
            "key's newest event, found through an index.",
        )
        entry = await client.read(key)
        if entry is None:
            raise TourError(f"{key} was saved and is absent")
        self._screen.say(f"[cyan]{key}[/cyan]  version [bold]{entry.version}[/bold]  etag [bold]{entry.etag}[/bold]")
        self._screen.json(entry.value)

    async def _history(self, client: holdfast.Client, key: str) -> None:
        self._screen.step(
            "The same aircraft: its history",
            "Every save is an event that stays readable: the log that holds the state is the\nhistory.",
        )
        events = await client.history(key, limit=1000)
        rows = [_row(event) for event in events]
        if len(rows) > 8:
            rows = [*rows[:4], ["…"] * len(rows[0]), *rows[-3:]]
        self._screen.table("version", "date", "flight", "from", "to", "departed", "late", "saved by command", rows=rows)
        self._screen.say(f"{len(events)} events, versions {events[0].version} to {events[-1].version}.")

    async def _collide(self, client: holdfast.Client, key: str) -> int:
        self._screen.step(
            "Two writers on one aircraft",
            "Both read the same version, both change it, and both write it back on the\n"
            "condition that nobody else did in between.",
        )
        anna = client.state(key, dict[str, Any])
        ben = client.state(key, dict[str, Any])
        await anna.read()
        await ben.read()
        self._screen.say(f"Anna and Ben read version {anna.version}, etag {anna.etag}.")
        anna.value["cleaned"] = True
        ben.value["fuelled"] = True
        await anna.write()
        self._screen.say(f"Anna writes: [green]ok[/green], version {anna.version}, etag {anna.etag}.")
        try:
            await ben.write()
        except holdfast.ConflictError as conflict:
            self._screen.say("Ben writes: [red]ConflictError[/red], nothing changed.")
            self._screen.table(
                "what the error says",
                "",
                rows=[
                    ["code", conflict.code],
                    ["expected etag", str(conflict.expected)],
                    ["actual etag", str(conflict.actual)],
                    ["winning command", str(conflict.winner)],
                ],
            )
        else:
            raise TourError("two writers overwrote each other")

        def fuel(state: dict[str, Any]) -> None:
            state["fuelled"] = True

        await ben.update(fuel)
        both = (ben.value["cleaned"], ben.value["fuelled"]) == (True, True)
        if not both:
            raise TourError("a change was lost")
        self._screen.say(
            "Ben uses update() instead, which reads again and repeats his change:\n"
            f"[green]ok[/green], version {ben.version}, with both changes in it."
        )
        return 2

    async def _repeat(self, client: holdfast.Client, load: Load) -> None:
        departures = self._departures
        repeats = min(REPEATS, len(departures))
        self._screen.step(
            "The same commands once more",
            f"The first {repeats:,} saves are sent again under their ids, as by a client that\nnever got its answers.",
        )
        again = await asyncio.gather(
            *(
                client.save(departure.key, departure.value, id=departure.id)
                for departure in (departures[number] for number in range(repeats))
            )
        )
        same = sum(entry.version == version for entry, version in zip(again, load.versions, strict=False))
        self._screen.say(
            f"{same:,} of {repeats:,} got the answer of the first time. Whether anything was added,\nthe count tells."
        )
        if same != repeats:
            raise TourError("a repeated command got another answer")

    async def _count(self, addresses: Addresses, load: Load, others: int) -> bool:
        screen, departures = self._screen, self._departures
        screen.step(
            "The count",
            "The whole log is read from MongoDB and compared with the departures, command\nid by command id.",
        )
        began = time.monotonic()
        count = await count_log(addresses.mongo_url, departures, load.versions)
        total = len(departures)
        screen.note(f"{count.found + count.other:,} events read in {time.monotonic() - began:.1f} s")
        good = [
            screen.check(
                len(count.seen) == total == count.found,
                f"{total:,} departures, {total - len(count.seen):,} missing, {count.twice:,} twice: "
                f"{count.found:,} events",
            ),
            screen.check(count.wrong == 0, f"{count.wrong:,} with another key, value or version than was answered"),
            screen.check(count.disordered == 0, f"{count.disordered:,} out of order within their aircraft"),
            screen.check(count.gaps == 0, f"{count.gaps:,} keys whose versions have a gap"),
            screen.check(
                count.other == others and count.refusals == 0,
                f"{count.other:,} other events (Anna's and Ben's), {count.refusals:,} refusals",
            ),
        ]
        return all(good)


def _row(event: holdfast.HistoryEntry) -> list[str]:
    value = event.value
    late = value["minutes_late"]
    return [
        str(event.version),
        value["date"],
        value["flight"],
        value["from"],
        value["to"],
        value["departed"] or "cancelled",
        "" if late is None else f"{late:+} min",
        event.id,
    ]


async def count_log(mongo_url: str, departures: Departures, answered: list[int]) -> Count:
    """Compare every record of the log with the departures, and with the versions that their saves were answered."""
    count = Count()
    numbers = {id_of(number): number - 1 for number in range(1, len(departures) + 1)}
    last: dict[str, tuple[int, int]] = {}
    versions: Counter[str] = Counter()
    newest: Counter[str] = Counter()
    store = MongoStore(mongo_url)
    await store.open()
    try:
        async for record in store.scan():
            if not isinstance(record, Event):
                count.refusals += 1
                continue
            versions[record.key] += 1
            newest[record.key] = max(newest[record.key], record.version)
            number = numbers.get(record.id)
            if number is None:
                count.other += 1
                continue
            count.found += 1
            count.twice += number in count.seen
            count.seen.add(number)
            departure = departures[number]
            right = (record.key, record.value, record.version) == (departure.key, departure.value, answered[number])
            count.wrong += not right
            # The scan follows the ids, and these the schedule.
            before = last.get(record.key, (-1, 0))
            count.disordered += before > (number, record.version) or before[1] >= record.version
            last[record.key] = (number, record.version)
    finally:
        await store.close()
    # Versions are unique per key, so as many as the highest one says means that none is missing.
    count.gaps = sum(versions[key] != newest[key] for key in versions)
    return count
