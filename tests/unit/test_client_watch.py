"""Watches on a service in memory, whose feed repeats, loses, mixes up and breaks off what it tells."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import orjson
import pytest
from support.commands import NOW
from support.loops import leaping, settle

from holdfast import CaughtUp, Change, Watch
from holdfast.client import watch as watch_module
from holdfast.client.selection import Selection
from holdfast.client.subscription import FeedMessage, SubscriptionLostError
from holdfast.events import (
    BadCommand,
    ChangesCommand,
    ClosedError,
    DeniedError,
    Event,
    HistoryEntry,
    InvalidError,
    Reply,
    Unavailable,
    WatchCommand,
    decode_commands,
)
from holdfast.events.feed import FeedMode
from holdfast.stores import MemoryStore
from holdfast.worker.feed import feed_publications
from holdfast.worker.watching import changes_page, watch_page


class ScriptedFeed:
    """A subscription."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[FeedMessage | Exception] = asyncio.Queue()
        self.closed = False

    async def next(self) -> FeedMessage:
        """The next message, or the end."""
        message = await self.messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def close(self) -> None:
        """End it."""
        self.closed = True


class Service:
    """A log, the answers to questions about it, and a feed that tells what a test lets it tell."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.feeds: list[ScriptedFeed] = []
        self.asked: list[dict[str, Any]] = []
        self.faults: list[Exception] = []
        self.mode: FeedMode = "levels"
        #: Service time.
        self.now = 0
        self.versions: defaultdict[str, int] = defaultdict(int)
        self.time = NOW

    async def write(self, key: str, value: Any = None, *, type: str = "saved") -> Event:  # noqa: A002
        self.versions[key] += 1
        version = self.versions[key]
        self.time += 1000
        value = value if type == "saved" else None
        fields = {"key": key, "version": version, "type": type, "value": value, "id": f"{key}@{version}"}
        made = Event.model_validate({**fields, "time": self.time, "digest": b"12345678"})
        await self.store.append([made])
        return made

    def tell(self, *events: Event) -> None:
        """Let the feed bring these, in one message."""
        (publication,) = feed_publications([("default", events)], {"default": "store"})
        for feed in self.feeds:
            feed.messages.put_nowait(FeedMessage("events", publication.body))

    def interrupt(self) -> None:
        """Break all subscriptions off."""
        for feed in self.feeds:
            feed.messages.put_nowait(SubscriptionLostError("scripted"))
        self.feeds.clear()

    async def subscribe(self, bindings: list[str]) -> ScriptedFeed:
        """As the client's subscriber."""
        self.bindings = bindings
        self.feeds.append(ScriptedFeed())
        return self.feeds[-1]

    space = ""

    def opened(self, entry: HistoryEntry, store: str) -> HistoryEntry:  # noqa: ARG002
        """As the client."""
        return entry

    async def feed_mode(self, store: str) -> FeedMode:  # noqa: ARG002
        """As the client."""
        return self.mode

    async def ask(self, command: dict[str, Any], store: str, key: str) -> Reply:  # noqa: ARG002
        """As the client: what a worker would answer."""
        self.asked.append(command)
        await asyncio.sleep(0)
        if self.faults:
            raise self.faults.pop(0)
        (decoded,) = decode_commands(orjson.dumps({**command, "id": "x"})).commands
        assert not isinstance(decoded, BadCommand), decoded
        if isinstance(decoded, WatchCommand):
            answer, _ = await watch_page(self.store, decoded, self.now)
        else:
            assert isinstance(decoded, ChangesCommand)
            answer, _ = await changes_page(self.store, decoded)
        return Reply.model_validate(orjson.loads(orjson.dumps(answer)))

    async def log(self) -> dict[str, list[tuple[int, Any]]]:
        """Every version of every key, and its value."""
        found: defaultdict[str, list[tuple[int, Any]]] = defaultdict(list)
        async for record in self.store.scan():
            if isinstance(record, Event):
                found[record.key].append((record.version, record.value))
        return {key: sorted(events, key=lambda each: each[0]) for key, events in found.items()}


@asynccontextmanager
async def watching(
    service: Service, prefix: str = "", *, pattern: str | None = None, since: datetime | None = None
) -> AsyncIterator[Watch]:
    await service.store.open()
    selection = Selection(prefix, pattern)
    async with Watch(
        service, service.subscribe, selection, store="default", since=since, on_close=lambda _: None
    ) as watch:
        yield watch


async def take(watch: Watch, count: int) -> list[tuple[str, int] | CaughtUp]:
    async with asyncio.timeout(1000):
        items = [await anext(watch) for _ in range(count)]
    return [item if isinstance(item, CaughtUp) else (item.key, item.version) for item in items]


@leaping
async def test_what_is_there_then_the_end_of_that_then_changes() -> None:
    """Given some keys, when a watch begins, then it gives the newest of each that is there, an end, and what comes."""
    it = Service()
    await it.store.open()
    for key in ("a", "a", "b", "c"):
        await it.write(key, key)
    await it.write("b", type="deleted")
    async with watching(it) as watch:
        assert await take(watch, 3) == [("a", 2), ("c", 1), CaughtUp()]
        it.tell(await it.write("b"), await it.write("a"), await it.write("new"))
        assert await take(watch, 3) == [("b", 3), ("a", 3), ("new", 1)]
    assert it.bindings == ["default.*", "default"]


@leaping
async def test_an_empty_store_has_an_end_of_the_beginning() -> None:
    """Given nothing, when a watch begins, then it says so at once."""
    async with watching(Service()) as watch:
        assert await take(watch, 1) == [CaughtUp()]


@leaping
async def test_repeats_are_passed_over() -> None:
    """Given events that are published again, late or twice in one message, then each is told once."""
    it = Service()
    async with watching(it) as watch:
        assert await take(watch, 1) == [CaughtUp()]
        first, second = await it.write("a"), await it.write("a")
        it.tell(first, first, second)
        it.tell(first)
        it.tell(second, await it.write("a"))
        assert await take(watch, 3) == [("a", 1), ("a", 2), ("a", 3)]
        await settle()
        assert len(it.asked) == 1, "nothing is asked for where nothing is missing"


@leaping
async def test_a_gap_is_filled() -> None:
    """Given an event that never came, when a later one of its key comes, then it is read first."""
    it = Service()
    async with watching(it) as watch:
        assert await take(watch, 1) == [CaughtUp()]
        other = await it.write("b")
        for _ in range(5):
            last = await it.write("a", {"n": 1})
        it.tell(other, last)
        assert await take(watch, 6) == [("b", 1), *(("a", n) for n in range(1, 6))]


@leaping
async def test_what_was_written_during_an_interruption() -> None:
    """Given a subscription that is lost, when there is another one, then what nobody told is told, in order, once."""
    it = Service()
    async with watching(it) as watch:
        assert await take(watch, 1) == [CaughtUp()]
        it.tell(await it.write("a"))
        assert await take(watch, 1) == [("a", 1)]
        it.interrupt()
        await it.write("a")
        await it.write("a", type="deleted")
        await it.write("b")
        it.faults = [Unavailable("scripted"), Unavailable("scripted")]
        assert await take(watch, 3) == [("a", 2), ("a", 3), ("b", 1)]


@leaping
async def test_an_interruption_in_the_beginning() -> None:
    """Given a beginning that breaks off, when it goes on, then nothing is told again, and nothing left out."""
    it = Service()
    await it.store.open()
    for number in range(1200):
        await it.write(f"k/{number:04}")
    async with watching(it) as watch:
        while len(it.asked) < 2:  # noqa: ASYNC110 - turns, and no time
            await asyncio.sleep(0)
        it.faults = [Unavailable("scripted")]
        items = await take(watch, 1201)
    assert items == [*((f"k/{number:04}", 1) for number in range(1200)), CaughtUp()]


@leaping
async def test_a_notice_makes_it_look() -> None:
    """Given a worker that says it may have missed something, when that comes, then versions are compared."""
    it = Service()
    async with watching(it) as watch:
        assert await take(watch, 1) == [CaughtUp()]
        await it.write("a")
        it.feeds[0].messages.put_nowait(FeedMessage("notice", b"[]"))
        assert await take(watch, 1) == [("a", 1)]


@leaping
async def test_what_is_no_message_of_the_feed_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    """Given rubbish in the exchange, when it comes, then the watch goes on."""
    it = Service()
    async with watching(it) as watch:
        assert await take(watch, 1) == [CaughtUp()]
        it.feeds[0].messages.put_nowait(FeedMessage("events", b"rubbish"))
        it.tell(await it.write("a"))
        assert await take(watch, 1) == [("a", 1)]
    assert "passed over" in caplog.text


@pytest.mark.parametrize(
    ("prefix", "pattern", "told", "bindings"),
    [
        ("user/", None, ["user/1", "user/1/cart"], ["default.user", "default"]),
        ("user/1", None, ["user/1", "user/1/cart"], ["default.user", "default"]),
        ("us", None, ["user/1", "user/1/cart", "users"], ["default.*", "default"]),
        ("", "user/*", ["user/1"], ["default.user", "default"]),
        ("", "user/*/cart", ["user/1/cart"], ["default.user", "default"]),
        ("", "*/1", ["user/1"], ["default.*", "default"]),
        ("", "**1**", ["user/1", "user/1/cart"], ["default.*", "default"]),
        ("", "users", ["users"], ["default.*", "default"]),
    ],
)
def test_which_keys(prefix: str, pattern: str | None, told: list[str], bindings: list[str]) -> None:
    """Given a prefix or a pattern, when keys are there and change, then those of it are told, and no others."""

    @leaping
    async def run() -> None:
        it = Service()
        await it.store.open()
        keys = ["other/2", "user/1", "user/1/cart", "users"]
        for key in keys:
            await it.write(key)
        async with watching(it, prefix, pattern=pattern) as watch:
            assert await take(watch, len(told) + 1) == [*((key, 1) for key in told), CaughtUp()]
            it.tell(*[await it.write(key) for key in keys])
            assert await take(watch, len(told)) == [(key, 2) for key in told]
            it.interrupt()
            for key in keys:
                await it.write(key)
            assert await take(watch, len(told)) == [(key, 3) for key in told]
        assert it.bindings == bindings

    run()


def test_a_prefix_or_a_pattern() -> None:
    """Given both, or none that can be, then that is refused at once."""
    for prefix, pattern in (("a", "b"), ("x" * 513, None), ("", ""), ("a\0", None)):
        with pytest.raises(InvalidError):
            Selection(prefix, pattern)


@leaping
async def test_since_a_time() -> None:
    """Given a time, when a watch begins from there, then every change since is told, deletes and old keys too."""
    it = Service()
    await it.store.open()
    for _ in range(3):
        await it.write("a")
    await it.write("old")
    since = datetime.fromtimestamp((it.time + 1) / 1000, tz=UTC)
    for _ in range(300):
        await it.write("a", "x")
    await it.write("b")
    await it.write("c")
    await it.write("c", type="deleted")
    async with watching(it, since=since) as watch:
        expected = [*(("a", number) for number in range(4, 304)), ("c", 1), ("c", 2), ("b", 1), CaughtUp()]
        assert sorted(map(str, await take(watch, 304))) == sorted(map(str, expected))
        it.tell(await it.write("old"), await it.write("c"))
        assert await take(watch, 2) == [("old", 2), ("c", 3)]
    with pytest.raises(ValueError, match="time zone"):
        Watch(it, it.subscribe, Selection("", None), store="s", since=datetime(2026, 1, 1), on_close=lambda _: None)  # noqa: DTZ001


@leaping
async def test_values_and_what_belongs_to_them() -> None:
    """Given an event, when it is told, then with all that a history has of it, and whether it was there before."""
    it = Service()
    await it.store.open()
    made = await it.write("a", {"n": [1, None]})
    async with watching(it) as watch:
        there = await anext(watch)
        assert isinstance(there, Change)
        assert there == Change(
            "a", 1, "saved", {"n": [1, None]}, made.etag, "a@1", made.time, None, None, "default", True
        )
        assert (there.exists, there.time) == (True, datetime(2024, 11, 21, 21, 10, 57, 789000, tzinfo=UTC))
        assert await anext(watch) == CaughtUp()
        it.tell(await it.write("a", type="deleted"))
        gone = await anext(watch)
        assert isinstance(gone, Change)
        assert (gone.exists, gone.value, gone.initial) == (False, None, False)


@leaping
async def test_what_led_to_a_change() -> None:
    """Given events that say what they belong to, and where their value is from, when they are told, then that is."""
    it = Service()
    async with watching(it) as watch:
        assert await take(watch, 1) == [CaughtUp()]
        tags: dict[str, Any] = {"correlation_id": "order-1", "causation_id": "c-9", "restored": 1}
        it.tell((await it.write("a")).model_copy(update=tags))
        it.tell(await it.write("a", type="purged"))
        restored, purged = await anext(watch), await anext(watch)
        assert isinstance(restored, Change)
        assert (restored.correlation_id, restored.causation_id, restored.restored) == ("order-1", "c-9", 1)
        assert isinstance(purged, Change)
        assert (purged.type, purged.version, purged.exists, purged.value) == ("purged", 2, False, None)
        assert (purged.correlation_id, purged.causation_id, purged.restored) == (None, None, None)


@leaping
async def test_where_keys_begin_above_a_floor() -> None:
    """Given a key that begins far above 1, when that is told, then nothing is missing in front of it."""
    it = Service()
    async with watching(it) as watch:
        assert await take(watch, 1) == [CaughtUp()]
        asked = len(it.asked)
        it.versions["new"] = 1_000_000
        it.tell((await it.write("new")).model_copy(update={"first": True}))
        assert await take(watch, 1) == [("new", 1_000_001)]
        assert len(it.asked) == asked
        # Of this one the beginning was not told.
        it.versions["other"] = 2_000_000
        await it.write("other")
        it.tell(await it.write("other"))
        assert await take(watch, 2) == [("other", 2_000_001), ("other", 2_000_002)]
        assert len(it.asked) == asked + 1


@leaping
async def test_a_wait_that_is_cancelled_loses_nothing() -> None:
    """Given a caller who waits with a timeout, when nothing comes in time, then the watch goes on where it was."""
    it = Service()
    async with watching(it) as watch:
        assert await take(watch, 1) == [CaughtUp()]
        for number in range(1, 4):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await anext(watch)
            it.tell(await it.write("a"))
            assert await take(watch, 1) == [("a", number)]


@leaping
async def test_it_ends_by_an_error_that_stays() -> None:
    """Given somebody who may not, when he watches, then that is said, however often he asks."""
    it = Service()
    it.faults = [DeniedError("scripted")]
    async with watching(it) as watch:
        for _ in range(2):
            with pytest.raises(DeniedError):
                await anext(watch)
    assert all(feed.closed for feed in it.feeds)
    with pytest.raises(ClosedError):
        await anext(watch)


@leaping
async def test_a_feed_that_is_set_otherwise_is_bound_anew() -> None:
    """Given a store whose events go elsewhere now, when the watch looks, then it is bound to that."""
    it = Service()
    async with watching(it, "user/") as watch:
        assert await take(watch, 1) == [CaughtUp()]
        it.mode = "store"
        await it.write("user/1")
        assert await take(watch, 1) == [("user/1", 1)]
        assert it.bindings == ["default.-", "default"]


@leaping
async def test_who_is_slow_holds_up_nobody() -> None:
    """Given a caller who takes nothing, when changes come, then few of them wait here, and all are told at last."""
    it = Service()
    async with watching(it) as watch:
        assert await take(watch, 1) == [CaughtUp()]
        for _ in range(100):
            it.tell(await it.write("a"))
        await settle(500)
        assert len(watch._portions) == watch_module._PORTIONS
        assert it.feeds[0].messages.qsize() >= 100 - watch_module._PORTIONS - 2
        assert await take(watch, 100) == [("a", number) for number in range(1, 101)]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_feed_does_the_log_is_told(seed: int) -> None:
    """Given writes, and a feed that repeats, delays, loses and breaks off, then the log is told, once."""

    @leaping
    async def run() -> None:
        random = Random(seed)  # noqa: S311 - chooses
        it = Service()
        await it.store.open()
        keys = [f"k/{number}" for number in range(random.randrange(1, 12))]
        for _ in range(random.randrange(40)):
            await it.write(random.choice(keys), random.random(), type=random.choice(("saved", "saved", "deleted")))
        since = random.choice((None, datetime.fromtimestamp(NOW / 1000, tz=UTC) - timedelta(days=1)))
        told: defaultdict[str, list[tuple[int, Any]]] = defaultdict(list)
        ends = 0

        async def follow(watch: Watch) -> None:
            nonlocal ends
            async for item in watch:
                if isinstance(item, CaughtUp):
                    ends += 1
                else:
                    told[item.key].append((item.version, item.value))
                if random.random() < 0.1:
                    await asyncio.sleep(random.random())

        async with watching(it, since=since) as watch:
            following = asyncio.create_task(follow(watch))
            late: list[Event] = []
            for _ in range(150):
                kind = random.random()
                if kind < 0.6:
                    made = await it.write(random.choice(keys), random.random())
                    if random.random() < 0.8:
                        it.tell(*(random.sample(late, min(2, len(late)))), made)
                    late = [*late[-5:], made]
                elif kind < 0.7 and late:
                    it.tell(*late)
                elif kind < 0.76:
                    it.interrupt()
                elif kind < 0.8:
                    it.faults += [Unavailable("scripted")] * random.randrange(3)
                else:
                    await asyncio.sleep(random.random() / 10)
            # What was never told comes with the next look.
            it.interrupt()
            log = await it.log()
            async with asyncio.timeout(3600):
                while any(not told[key] or told[key][-1] != log[key][-1] for key in log if key not in absent(log)):  # noqa: ASYNC110
                    await asyncio.sleep(1)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        assert ends == 1
        for key, events in told.items():
            versions = [version for version, _ in events]
            assert versions == list(range(versions[0], versions[0] + len(versions))), key
            assert events == log[key][versions[0] - 1 :], key
            if since is not None:
                assert versions[0] == 1, key

    def absent(log: dict[str, list[tuple[int, Any]]]) -> set[str]:
        # Deleted before the watch began and not touched since: of these there may be nothing to tell.
        return {key for key, events in log.items() if events[-1][1] is None}

    run()


@leaping
async def test_a_pump_that_is_cancelled_is_told() -> None:
    """Whatever ends the watch from within, who waits for the next change does not wait for ever."""
    it = Service()

    async def subscribe(_: list[str]) -> ScriptedFeed:
        raise asyncio.CancelledError

    await it.store.open()
    watch = Watch(it, subscribe, Selection("", None), store="default", since=None, on_close=lambda _: None)
    async with watch:
        with pytest.raises(ClosedError, match="cancelled"):
            await take(watch, 1)
