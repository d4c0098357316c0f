"""The sweep finds what nobody asks for any more, hands it to its owners, and does no work twice without need."""

import asyncio
from typing import Any

import orjson
import pytest
from aio_pika.exceptions import DeliveryError
from support.commands import NOW, increment, one, read, request, save
from support.deliveries import delivery
from support.engines import Clock, engine_on
from support.loops import settle
from support.scripted import ScriptedStore, away

from holdfast.events import Event, InvalidError, StoreUnavailable, partition_of
from holdfast.events.topology import SWEEP_HEADER
from holdfast.worker import Batch, sweep
from holdfast.worker.sweep import LAG, PAGE, SETTLED, SETTLING_INTERVAL, Sweeper, requests_of

PARTITIONS = 4


class Sent:
    """What a sweeper has sent, and what becomes of it."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, int, list[str]]] = []
        self.full = False

    async def __call__(self, store: str, partition: int, body: bytes) -> None:
        if self.full:
            raise DeliveryError(None, None)  # type: ignore[arg-type]
        self.messages.append((store, partition, orjson.loads(body)))

    def take(self) -> list[str]:
        """The keys, each at the partition that it belongs to."""
        messages, self.messages = self.messages, []
        for store, partition, keys in messages:
            assert {partition_of(store, key, PARTITIONS) for key in keys} == {partition}
        return sorted(key for _, _, keys in messages for key in keys)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "PAUSE", 0)


def sweeper(store: Any, sent: Sent, clock: Clock) -> Sweeper:
    return Sweeper("default", store, partitions=PARTITIONS, send=sent, service_time=clock.now, interval=0)


async def expire(store: ScriptedStore, clock: Clock, keys: list[str]) -> None:
    """As the owner of their partitions does."""
    body = orjson.dumps(keys)
    await engine_on(store, clock).apply(Batch.of(requests_of(delivery(body), "default")))


async def test_keys_that_nobody_asks_for_get_their_events(sent: Sent, clock: Clock) -> None:
    """Given keys whose time has come, when the sweep looks, then their owners put that into the log, once each."""
    store = await ScriptedStore.opened()
    engine = engine_on(store, clock)
    for number in range(10):
        await one(engine, save(f"k{number}", number, ttl_seconds=1 + number % 2))
    await one(engine, save("stays", 1))
    it = sweeper(store, sent, clock)
    await it.look()
    assert sent.take() == []
    clock.millis += 1000 + LAG
    await it.look()
    first = sent.take()
    assert first == [f"k{number}" for number in range(0, 10, 2)]
    await expire(store, clock, first)
    # It may come twice.
    await expire(store, clock, first)
    clock.millis += 1000
    await it.look()
    second = sent.take()
    assert second == [f"k{number}" for number in range(1, 10, 2)]
    await expire(store, clock, second)
    events = [record for record in await store.log() if isinstance(record, Event) and record.type == "expired"]
    assert sorted(event.key for event in events) == sorted(first + second)
    assert await store.versions_of("stays") == [1]
    # Another worker, or the next session, finds nothing left to do.
    await sweeper(store, sent, clock).look()
    assert sent.take() == []


async def test_an_owner_looks_for_itself(sent: Sent, clock: Clock) -> None:
    """Given a key that was written on since the sweep found it, when its owner looks, then nothing happens to it."""
    store = await ScriptedStore.opened()
    engine = engine_on(store, clock)
    await one(engine, save("k", 1, ttl_seconds=1))
    clock.millis += 2000
    await one(engine, increment("other"))
    await one(engine, save("k", 2, ttl_seconds=10))
    await expire(store, clock, ["k", "other", "never"])
    assert [record.type for record in await store.log()] == ["saved", "saved", "expired", "saved"]
    assert (await one(engine, read("k")))["value"] == 2


async def test_many_are_sent_a_page_at_a_time(sent: Sent, clock: Clock) -> None:
    """Given more keys than a page has, when the sweep looks, then it finds all of them, and then no more of them."""
    store = await ScriptedStore.opened()
    keys = sorted(f"k{number}" for number in range(2 * PAGE + 10))
    for start in range(0, len(keys), 500):
        requests = [save(key, 1, ttl_seconds=1) for key in keys[start : start + 500]]
        await engine_on(store, clock).apply(Batch.of([*map(request, requests)]))
    clock.millis += 1000 + LAG
    it = sweeper(store, sent, clock)
    await it.look()
    assert max(len(part) for _, _, part in sent.messages) <= PAGE
    assert sent.take() == keys
    store.calls.clear()
    clock.millis += 1
    await it.look()
    # What was not recorded is left for later.
    assert store.calls["expired"] == 1 + len(sent.take()) // PAGE


async def test_what_lands_late_or_was_not_taken_is_found_in_the_end(sent: Sent, clock: Clock) -> None:
    """Given an event that lands behind where the sweep is, or a full queue, when minutes pass, then it is found."""
    store = await ScriptedStore.opened()
    engine = engine_on(store, clock)
    it = sweeper(store, sent, clock)
    await one(engine, save("refused", 1, ttl_seconds=1))
    late = engine_on(store, clock)
    decided = clock.millis
    clock.millis += 30_000
    sent.full = True
    await it.look()
    sent.full = False
    clock.millis = decided
    await one(late, save("late", 1, ttl_seconds=1))
    clock.millis += 31_000
    await it.look()
    assert sent.take() == []
    clock.millis += SETTLED + SETTLING_INTERVAL
    await it.look()
    assert sent.take() == ["late", "refused"]
    assert await store.swept() == clock.millis - LAG - SETTLED


async def test_the_next_one_goes_on_where_it_is_sure(sent: Sent, clock: Clock) -> None:
    """Given a sweep that has come far, when another worker starts, then it begins there and not at the beginning."""
    store = await ScriptedStore.opened()
    await one(engine_on(store, clock), save("k", 1, ttl_seconds=1))
    clock.millis += SETTLED + SETTLING_INTERVAL + 2000
    await sweeper(store, sent, clock).look()
    assert sent.take() == ["k", "k"]
    await expire(store, clock, ["k"])
    begun: list[Any] = []

    async def begin(proceed: Any, until: int) -> Any:
        begun.append(until)
        return await proceed()

    store.script("expired", begin)
    noted = await store.swept()
    assert noted > NOW + 1000
    await sweeper(store, sent, clock).look()
    assert len(begun) == 1
    assert await store.swept() == noted


async def test_a_store_that_is_away_is_asked_again(sent: Sent, clock: Clock) -> None:
    """Given a store that cannot be reached, when the sweep runs, then it goes on when the store is back."""
    store = await ScriptedStore.opened()
    await one(engine_on(store, clock), save("k", 1, ttl_seconds=1))
    clock.millis += 5000
    it = sweeper(store, sent, clock)
    store.script("expired", away)
    with pytest.raises(StoreUnavailable):
        await it.look()
    store.script("expired", away)
    running = asyncio.ensure_future(it.run())
    while not sent.messages:
        await settle()
    running.cancel()
    assert sent.take() == ["k"]


@pytest.mark.parametrize("body", [b"{}", b"1", b"[1]", b'[""]', b"[", b'["k", null]', orjson.dumps(["k"] * (PAGE + 1))])
def test_what_is_no_list_of_keys_is_refused(body: bytes) -> None:
    """Given a message that is none of a sweeper's, when it is read, then that is said."""
    with pytest.raises(InvalidError):
        requests_of(delivery(body, headers={SWEEP_HEADER: "default"}), "default")


async def test_a_sweep_that_comes_again_tells_again(clock: Clock) -> None:
    """Given a worker that died before it told what a sweep had found, when that comes again, then it is told."""
    store = await ScriptedStore.opened()
    await one(engine_on(store, clock), save("k", 1, ttl_seconds=1))
    clock.millis += 1000
    body = orjson.dumps(["k"])
    await expire(store, clock, ["k"])
    (made,) = requests_of(delivery(body, redelivered=True), "default")
    await engine_on(store, clock, tells_values=True).apply(Batch.of([made]))
    assert [(event.version, event.type) for event in made.events] == [(2, "expired")]
