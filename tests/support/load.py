"""Load whose outcome is known command by command, and the comparison of it with what is in the log."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable

from holdfast import Client, Entry
from holdfast.events import Event, Record
from holdfast.stores import MongoStore


class Load:
    """Saves under known ids, all started at once, so that on each key they are to be applied in their order.

    The value of each save is its number on the key, counted from 1.
    """

    def __init__(self, client: Client, *, saves: int, keys: int, name: str = "load", timeout: float = 60) -> None:
        self._client = client
        self._timeout = timeout
        self.name = name
        self.saves = saves
        self.keys = [f"{name}/{number}" for number in range(keys)]
        self.acknowledged: dict[str, Entry] = {}
        self.failed: dict[str, Exception] = {}
        self._marks: list[tuple[int, asyncio.Event]] = []

    @property
    def ids(self) -> list[str]:
        """All command ids, in the order of their saves."""
        return [f"{self.name}-{number}" for number in range(self.saves)]

    async def run(self) -> None:
        """Save everything; ends when every save has its outcome."""
        await asyncio.gather(*(self._save(number, command_id) for number, command_id in enumerate(self.ids)))

    async def _save(self, number: int, command_id: str) -> None:
        key = self.keys[number % len(self.keys)]
        try:
            entry = await self._client.save(key, number // len(self.keys) + 1, id=command_id, timeout=self._timeout)
        except Exception as error:  # noqa: BLE001 - the test decides what it means
            self.failed[command_id] = error
        else:
            self.acknowledged[command_id] = entry
        self._tell()

    def _tell(self) -> None:
        done = len(self.acknowledged) + len(self.failed)
        for mark, event in self._marks:
            if done >= mark:
                event.set()

    async def at(self, share: float) -> None:
        """Wait until this share of the saves has an outcome."""
        event = asyncio.Event()
        self._marks.append((round(share * self.saves), event))
        self._tell()
        await event.wait()


async def read_log(mongo_url: str, name: str = "default") -> list[Record]:
    """Everything that is in the log of a store."""
    store = MongoStore(mongo_url, name=name)
    await store.open()
    records = [record async for record in store.scan()]
    await store.close()
    return records


def check_log(records: Iterable[Record], *loads: Load, in_order: bool = True) -> None:
    """Compare the log with what clients were told.

    Every acknowledged save is there, once, with the version and the etag that its client saw; versions of a key have
    no gaps; nothing is there that nobody sent; and the saves of one load were applied in their order.
    """
    records = list(records)
    times = Counter(record.id for record in records)
    assert [(command_id, count) for command_id, count in times.items() if count > 1] == []
    by_id = {record.id: record for record in records}
    by_key: defaultdict[str, list[Event]] = defaultdict(list)
    for record in records:
        if isinstance(record, Event):
            by_key[record.key].append(record)
    for load in loads:
        for command_id, entry in load.acknowledged.items():
            event = by_id.get(command_id)
            assert isinstance(event, Event), f"{command_id} was acknowledged, but the log has {event}"
            assert (event.key, event.version, event.etag) == (entry.key, entry.version, entry.etag)
            assert (event.value, event.time) == (entry.value, entry.updated_at_ms)
    sent = {command_id for load in loads for command_id in load.ids}
    assert by_id.keys() <= sent, f"in the log, but never sent: {sorted(by_id.keys() - sent)[:5]}"
    for key, events in by_key.items():
        events.sort(key=lambda event: event.version)
        assert [event.version for event in events] == list(range(1, len(events) + 1)), f"versions of {key} have gaps"
        times_of_key = [event.time for event in events]
        assert times_of_key == sorted(times_of_key)
        if in_order:
            values = [event.value for event in events]
            assert values == sorted(values), f"saves of {key} changed places: {values}"
