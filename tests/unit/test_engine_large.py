"""Values that are large together: they are fetched and handed out a slice at a time, and nothing else changes."""

from collections.abc import Collection
from typing import Any

import pytest
from support.commands import brief, delete, first, read, request, requests, save, wire
from support.engines import engine_on
from support.scripted import Proceed, ScriptedStore, as_it_is, away

from holdfast.events import StoreUnavailable
from holdfast.events.limits import REPLY_MESSAGE_BYTES
from holdfast.worker import Batch, Engine, Request
from holdfast.worker.engine import SLICE_BYTES

#: Four of them fill a slice.
LARGE = "x" * (SLICE_BYTES // 4)


def some(count: int) -> Any:
    """A call that gives so many of the events that it was asked for, as a database does with many bytes."""

    async def step(proceed: Proceed, argument: Collection[Any]) -> Any:
        found = await proceed()
        return dict(list(found.items())[:count])

    return step


class Taker:
    """Takes answers off as they come, and looks at how much there is at a time."""

    def __init__(self, *made: Request) -> None:
        self.batch = Batch.of(list(made))
        self.batch.release = self._take
        self.taken: list[list[Request]] = []

    async def _take(self, batch: Batch) -> None:
        self.taken.append(batch.take())

    async def apply(self, engine: Engine) -> list[str]:
        """Apply the batch; the answers in the order in which they left."""
        await engine.apply(self.batch)
        self.taken.append(self.batch.take())
        return [brief(wire(each.answer)) for slice_ in self.taken for each in slice_]

    @property
    def most(self) -> int:
        """The most bytes of values that were there at a time."""
        return max(sum(each.answer_size for each in slice_) for slice_ in self.taken)


async def filled(keys: int, value: Any = LARGE, **options: Any) -> tuple[ScriptedStore, Engine]:
    """A store of so many keys, and an engine that knows nothing of them."""
    store = await ScriptedStore.opened()
    await engine_on(store.inner).apply(Batch.of(requests(*(save(f"k{number}", value) for number in range(keys)))))
    return store, engine_on(store, **options)


async def test_reads_of_large_values_leave_in_slices() -> None:
    """Given reads of many large values, when they are applied, then a slice of values is there at a time, no more."""
    _, engine = await filled(20)
    taker = Taker(*requests(*(read(f"k{number}") for number in range(20))))
    assert await taker.apply(engine) == ["ok v1"] * 20
    assert [len(slice_) for slice_ in taker.taken] == [4, 4, 4, 4, 4, 0]
    assert taker.most <= SLICE_BYTES + 100
    assert len({each.command.id for slice_ in taker.taken for each in slice_}) == 20


async def test_one_remembered_value_for_many_readers_leaves_in_slices_too() -> None:
    """Given a value in memory, when a thousand read it at once, then their answers leave a slice at a time."""
    store, engine = await filled(1)
    await engine.apply(Batch.of(requests(read("k0"))))
    taker = Taker(*requests(*(read("k0") for _ in range(1000))))
    assert await taker.apply(engine) == ["ok v1"] * 1000
    assert taker.most <= SLICE_BYTES + 100
    assert store.calls["events"] == 1


async def test_conflicts_with_large_values_leave_in_slices() -> None:
    """Given refused writes that ask for what they met, when it is large, then their answers leave in slices."""
    _, engine = await filled(10)
    wanted = [first(f"k{number}", 1, return_current=True) for number in range(5)]
    wanted += [save(f"k{number}", 1, etag="9-00000000", return_current=True) for number in range(5, 10)]
    taker = Taker(*requests(*wanted))
    assert sorted(await taker.apply(engine)) == ["conflict etag_mismatch"] * 5 + ["conflict exists"] * 5
    assert taker.most <= SLICE_BYTES + 100
    answers = [wire(each.answer) for slice_ in taker.taken for each in slice_]
    assert [answer["error"]["current"] for answer in answers] == [LARGE] * 10


async def test_repeats_of_conflicts_with_large_values_leave_in_slices() -> None:
    """Given recorded conflicts that come again, when they are answered from the log, then in slices as well."""
    _, engine = await filled(10)
    wanted = [first(f"k{number}", 1, return_current=True) for number in range(10)]
    await engine.apply(Batch.of(requests(*wanted)))
    taker = Taker(*(request(command, redelivered=True) for command in wanted))
    assert await taker.apply(engine) == ["conflict exists"] * 10
    assert taker.most <= SLICE_BYTES + 100


async def test_what_does_not_fit_one_reply_of_the_database_is_asked_for_again() -> None:
    """Given a database that gives two events at a time, when seven are read, then it is asked until all are there."""
    store, engine = await filled(7, value="small")
    store.always("events", some(2))
    taker = Taker(*requests(*(read(f"k{number}") for number in range(7))))
    assert await taker.apply(engine) == ["ok v1"] * 7
    assert store.calls["events"] == 4
    assert store.calls["versions"] == store.calls["fence"] == 1


async def test_small_values_take_one_query_and_leave_together() -> None:
    """Given a thousand reads of small values, when they are applied, then by one query, in their order."""
    store, engine = await filled(1000, value="small")
    made = requests(*(read(f"k{number}") for number in range(1000)))
    taker = Taker(*made)
    assert await taker.apply(engine) == ["ok v1"] * 1000
    assert taker.taken == [made]
    assert store.calls["events"] == 1


async def test_an_event_that_is_not_there_is_a_store_that_is_behind() -> None:
    """Given a database that finds some events and then none, when they are read, then it is away, not they absent."""
    store, engine = await filled(3, value="small")
    store.script("events", some(2), some(0))
    made = requests(*(read(f"k{number}") for number in range(3)))
    with pytest.raises(StoreUnavailable):
        await engine.apply(Batch.of(made))
    assert [each.answer is not None for each in made].count(True) == 2


async def test_a_read_sees_what_was_there_at_its_place_whenever_its_slice_is_fetched() -> None:
    """Given reads in front of writes of their keys, when slices of them come after the append, then as they were."""
    _, engine = await filled(12)
    wanted: list[Any] = []
    for number in range(12):
        wanted += [save(f"k{number}", LARGE + "2"), read(f"k{number}"), delete(f"k{number}"), read(f"k{number}")]
    taker = Taker(*requests(*wanted))
    await taker.apply(engine)
    by_id = {each.command.id: brief(wire(each.answer)) for slice_ in taker.taken for each in slice_}
    assert [by_id[command.id] for command in wanted] == ["ok v2", "ok v2", "ok v3", "absent"] * 12


async def test_what_left_before_a_failure_is_done_and_the_rest_comes_later() -> None:
    """Given a store that goes away between slices, when the batch is applied again, then each is answered once."""
    store, engine = await filled(9)
    store.script("events", some(4), away, as_it_is)
    taker = Taker(*requests(*(read(f"k{number}") for number in range(9))))
    with pytest.raises(StoreUnavailable):
        await engine.apply(taker.batch)
    assert [len(slice_) for slice_ in taker.taken] == [4]
    assert len(taker.batch.pending) == 5
    assert await taker.apply(engine) == ["ok v1"] * 9
    assert len({each.command.id for slice_ in taker.taken for each in slice_}) == 9


async def test_folded_repeats_leave_with_their_first() -> None:
    """Given a write that was delivered twice among large reads, when slices leave, then both deliveries have left."""
    _, engine = await filled(8)
    command = save("new", 1)
    taker = Taker(*requests(command, *(read(f"k{number}") for number in range(8)), command))
    assert sorted(await taker.apply(engine)) == ["ok v1"] * 10
    assert sum(len(slice_) for slice_ in taker.taken) == 10


async def test_looking_up_ids_brings_no_values() -> None:
    """Given writes of large values that were delivered before, when their ids are looked up, then without values."""
    store, engine = await filled(0)
    seen: list[Any] = []

    async def watch(proceed: Proceed, _: Any) -> Any:
        found = await proceed()
        seen.extend(found.values())
        return found

    command = save("k", LARGE)
    await engine.apply(Batch.of(requests(command)))
    store.always("find", watch)
    taker = Taker(request(command, redelivered=True))
    assert await taker.apply(engine) == ["ok v1"]
    assert [(record.id, record.value) for record in seen] == [(command.id, None)]


# -- history


async def pages(engine: Engine, key: str, limit: int) -> list[list[int]]:
    """All pages of a history, as versions."""
    found, after = [], 0
    while True:
        entries, following = await engine.history(key, after_version=after, limit=limit)
        found.append([entry.version for entry in entries])
        if following is None:
            return found
        after = following


@pytest.mark.parametrize("at_a_time", [None, 1, 3])
@pytest.mark.parametrize("size", [10, REPLY_MESSAGE_BYTES // 10, REPLY_MESSAGE_BYTES // 2, REPLY_MESSAGE_BYTES + 10])
async def test_a_history_is_whole_whatever_the_sizes_and_the_database(size: int, at_a_time: int | None) -> None:
    """Given values of some size and a database that gives few at a time, when it is paged, then all, once, in order."""
    store, engine = await filled(0)
    for number in range(30):
        value = "x" * (size if number % 7 else 10)
        await engine.apply(Batch.of(requests(save("k", value))))

    async def few(proceed: Proceed, _: Any) -> Any:
        events = await proceed()
        return events[:at_a_time] if sum(len(event.value) for event in events) > REPLY_MESSAGE_BYTES else events

    store.always("history", few)
    found = await pages(engine, "k", 12)
    assert [version for page in found for version in page] == list(range(1, 31))
    assert all(len(page) <= 12 for page in found)


async def test_a_history_of_small_values_is_read_in_few_steps() -> None:
    """Given a thousand small events, when a page of all is read, then by few queries."""
    store, engine = await filled(0)
    await engine.apply(Batch.of(requests(*(save("k", number) for number in range(1000)))))
    assert await pages(engine, "k", 1000) == [list(range(1, 1001))]
    assert store.calls["history"] <= 6
