"""The change feed where values are restored, erased and dropped: what it tells of that, and what not again."""

import asyncio
from collections.abc import Collection
from typing import Any

import orjson
import pytest
from store_records import saved
from support.commands import apply, checks, delete, drops, one, purge, request, restore, save, sets, transact
from support.deliveries import delivery
from support.desk import Desk, desk
from support.engines import another_worker, engine_on
from support.loops import settle
from support.scripted import ScriptedStore

from holdfast.events import ChangesCommand, Event, OutboxMessage, Receipt, Record, WatchCommand
from holdfast.events.feed import cloud_event, decode_feed
from holdfast.stores import Fence
from holdfast.worker.feed import OutboxConfig, feed_publications
from holdfast.worker.publication import Publication
from holdfast.worker.watching import changes_page, watch_page

CARRIED = (OutboxMessage(exchange="orders", body={"secret": 1}),)
KEY = "k"


async def filled() -> ScriptedStore:
    """A log with a key that was purged, and saved again."""
    store = await ScriptedStore.opened()
    commands = save(KEY, "one"), save(KEY, "two", messages=CARRIED), purge(KEY), save(KEY, "three")
    await apply(engine_on(store), *commands)
    await store.inner.strip([(KEY, 1, 2)])
    return store


def changes(**fields: Any) -> ChangesCommand:
    return ChangesCommand(op="changes", id="c", key=KEY, **fields)


def told(answer: dict[str, Any]) -> list[tuple[int, str, Any]]:
    """Versions, types and values, as they are on the wire."""
    events = orjson.loads(orjson.dumps(answer["events"]))
    return [(event["version"], event["type"], event.get("value")) for event in events]


async def test_what_the_feed_tells_of_a_restore_and_a_purge() -> None:
    """Given a restore and a purge, when they are told, then by types of their own, and with all that is known."""
    store = await ScriptedStore.opened()
    tags = {"correlation_id": "order-1", "causation_id": "c-9"}
    made = [
        request(command)
        for command in (save(KEY, 1), restore(KEY, 1, **tags), purge(KEY, metadata={"by": "ada"}, **tags))
    ]
    await apply(engine_on(store, tells_values=True), *made)
    events = [event for each in made for event in each.events]
    assert [cloud_event("default", event)["type"] for event in events] == [
        "holdfast.saved", "holdfast.saved", "holdfast.purged",
    ]  # fmt: skip
    (publication,) = feed_publications([("default", events)], {"default": "store"})
    saved_one, restored, purged = decode_feed(publication.body)
    assert (saved_one.correlation_id, saved_one.causation_id, saved_one.restored, saved_one.first) == (None,) * 4
    assert (restored.value, restored.restored) == (1, 1)
    assert (restored.correlation_id, restored.causation_id) == ("order-1", "c-9")
    assert (purged.type, purged.version, purged.metadata) == ("purged", 3, {"by": "ada"})
    assert (purged.correlation_id, purged.causation_id) == ("order-1", "c-9")
    data = [each["data"] for each in orjson.loads(publication.body)]
    assert ["value" in each for each in data] == [True, True, False]
    assert "restored" not in data[0]


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_what_was_erased_is_on_no_page_of_changes(limit: int) -> None:
    """Given stubs, when what was missed is asked for, then they are passed over, and every page leads to the next."""
    store = await filled()
    seen: list[tuple[int, str, Any]] = []
    following: Any = 0
    while following is not None:
        answer, _ = await changes_page(store, changes(after_version=following, limit=limit))
        seen += told(answer)
        following = answer["next"]
    assert seen == [(3, "purged", None), (4, "saved", "three")]


async def test_what_was_erased_meanwhile_is_on_no_page_of_a_watch() -> None:
    """Given a purge between two looks at the log, when a watch begins, then the erased event is not told as a null."""
    store = await ScriptedStore.opened()
    await apply(engine_on(store), save(KEY, "one"), save("other", "two"))
    events = store.events

    async def overtaken(places: Collection[tuple[str, int]], *, after: Fence | None = None) -> Any:
        store.events = events  # type: ignore[method-assign]
        await another_worker(store, purge(KEY))()
        await store.inner.strip([(KEY, 1, 1)])
        return await events(places, after=after)

    store.events = overtaken  # type: ignore[method-assign]
    answer, _ = await watch_page(store, WatchCommand(op="watch", id="w"), 0)
    assert told(answer) == [(1, "saved", "two")]
    # What it has shows that there is more to be asked for.
    assert orjson.loads(orjson.dumps(answer["versions"])) == {KEY: 1, "other": 1}
    answer, _ = await watch_page(store, WatchCommand(op="watch", id="w", since=0), 0)
    assert told(answer) == [(2, "purged", None), (1, "saved", "two")]


async def test_changes_of_a_key_far_above_the_floor() -> None:
    """Given a key that begins at a high version, when its changes are asked for, then one page has them, at one go."""
    store = await ScriptedStore.opened()
    await store.append([saved(KEY, 1_000_001, value=1, first=True), saved(KEY, 1_000_002, value=2)])
    store.calls.clear()
    answer, _ = await changes_page(store, changes())
    assert (told(answer), answer["next"]) == ([(1_000_001, "saved", 1), (1_000_002, "saved", 2)], None)
    assert store.calls["history"] + store.calls["events"] == 1
    answer, _ = await changes_page(store, changes(since=0, limit=1))
    assert (told(answer), answer["next"]) == ([(1_000_001, "saved", 1)], 1_000_001)


async def test_repeats_of_what_was_erased_are_told_to_nobody() -> None:
    """Given writes whose events are stubs, when they come again, then they are answered, and not told again."""
    store = await ScriptedStore.opened()
    early, whole = save(KEY, "one", messages=CARRIED), transact(sets(KEY, "two"), sets("other", 2))
    first_answers = await apply(engine_on(store), early) + await apply(engine_on(store), request(whole))
    await apply(engine_on(store), save(KEY, "three"))
    await store.inner.strip([(KEY, 1, 2)])
    made = [request(early, redelivered=True), request(whole, redelivered=True)]
    for again, answer in zip(made, first_answers, strict=True):
        assert await one(engine_on(store, tells_values=True), again) == answer
    assert [[(event.key, event.value) for event in each.events] for each in made] == [[], [("other", 2)]]


async def published(it: Desk) -> list[tuple[str, Any]]:
    return [
        (event["type"], event["data"].get("value"))
        for publication in it.broker.published
        if publication.exchange == "holdfast.events"
        for event in orjson.loads(publication.body)
    ]


async def test_a_purge_at_the_worker() -> None:
    """Given a purge, when it is answered, then the feed has told it, and nothing that came before is told again."""
    async with desk() as it:
        write = {"op": "save", "id": "s", "key": KEY, "value": "one"}
        await it.ask(write, None)
        it.broker.published.clear()
        await it.ask({"op": "purge", "id": "p", "key": KEY}, None)
        assert await published(it) == [("holdfast.purged", None)]
        it.broker.published.clear()
        assert (await it.ask(write, None, redelivered=True))["version"] == 1
        assert await published(it) == []
        await it.ask({"op": "purge", "id": "p", "key": KEY}, None, redelivered=True)
        assert await published(it) == [("holdfast.purged", None)]


async def test_messages_go_with_the_value() -> None:
    """Given an event that carries messages, when its key is purged, then they are nowhere in the log."""
    async with desk() as it:
        await apply(it.engine, save(KEY, "one", messages=CARRIED))
        await it.ask({"op": "purge", "id": "p", "key": KEY}, None)
        events = [record async for record in it.store.scan() if isinstance(record, Event)]
        assert [(event.type, event.messages) for event in events] == [("saved", None), ("purged", None)]


def carried_by(record: Record) -> Any:
    return None if not isinstance(record, Event | Receipt) or record.messages is None else record.messages[0].body


@pytest.mark.parametrize(
    ("before", "operations"),
    [
        ([], [sets(KEY, 1), sets("other", 2)]),
        ([save(KEY, 0)], [sets(KEY, 1), drops(KEY), sets(KEY, 3)]),
        ([save(KEY, 0)], [checks(KEY, exists=True), sets("other", 2)]),
        ([], [checks(KEY, exists=False), sets("other", 2)]),
        ([], [drops(KEY), sets("other", 2)]),
        ([], [checks(KEY, exists=False)]),
    ],
)
@pytest.mark.parametrize("later", [True, False], ids=["there later", "as it was"])
async def test_messages_of_a_transaction_go_with_its_first_key(
    before: list[Any], operations: list[dict[str, Any]], later: bool
) -> None:
    """Given a transaction that carries messages, when its first key is purged, then they are nowhere in the log; a
    repeat is answered as before, and publishes nothing.
    """
    whole = transact(*operations, messages=CARRIED, metadata={"who": "Lovelace"})
    async with desk() as it:
        await apply(it.engine, *before)
        made = request(whole)
        (answer,) = await apply(it.engine, made)
        assert made.receipt is not None
        if later:
            await apply(it.engine, save(KEY, "later", messages=CARRIED))
        await apply(it.engine, save("other", "later"))
        await it.ask({"op": "purge", "id": "o", "key": "other"}, None)
        # The messages are not that key's.
        carried = [carried_by(record) for record in [one async for one in it.store.scan()]]
        assert carried.count({"secret": 1}) == 1 + later
        purged = await it.ask({"op": "purge", "id": "p", "key": KEY}, None)
        assert (purged["status"], purged["changed"]) == ("ok", True)
        records = [record async for record in it.store.scan()]
        assert [carried_by(record) for record in records] == [None] * len(records)
        assert not any("Lovelace" in str(record) for record in records if not isinstance(record, Event))
        again = request(whole, redelivered=True)
        assert await apply(engine_on(it.store), again) == [answer]
        assert again.receipt is None


async def test_nothing_that_is_carried_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given purges of keys that never were, when it is looked for what transactions carried for them, then behind a
    fence; and for other keys and commands it is not looked at all.
    """
    async with desk() as it:
        looked: list[set[str]] = []
        carrying = it.store.carrying

        async def fenced(keys: Collection[str], *, after: Fence | None = None) -> set[str]:
            assert after is not None
            looked.append(set(keys))
            return await carrying(keys, after=after)

        monkeypatch.setattr(it.store, "carrying", fenced)
        await apply(it.engine, save("a", 1), purge("a"), save("b", 1))
        await apply(it.engine, purge("b"), save("c", 1))
        await apply(it.engine, transact(checks("d", exists=False), messages=CARRIED))
        assert looked == [{"a"}]
        answers = await apply(it.engine, purge("d"), purge("e"), purge("d"), delete("d"), purge("c"))
        assert looked[1:] == [{"d", "e"}]
        assert [(answer["changed"], answer["version"]) for answer in answers] == [
            (True, 1), (False, 0), (True, 2), (False, 2), (True, 2),
        ]  # fmt: skip


WRITES: dict[str, dict[str, Any]] = {
    "save": {"op": "save", "id": "s", "key": KEY, "value": 1},
    "transact": {"op": "transact", "id": "s", "operations": [sets(KEY, 1)]},
}


@pytest.mark.parametrize("op", WRITES)
async def test_nothing_is_erased_that_is_still_to_be_published(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given messages that the broker has not confirmed, when their key is purged, then they stay until it has."""
    async with desk() as it:
        gate, tell = asyncio.Event(), it.broker.tell

        async def slow(publication: Publication, patience: float) -> None:
            await gate.wait()
            await tell(publication, patience)

        monkeypatch.setattr(it.broker, "tell", slow)
        monkeypatch.setattr(it.session._intake, "_outbox_rules", OutboxConfig(exchanges=["orders"]))
        carried = [{"exchange": "orders", "body": {"secret": 1}}]
        it.take(delivery({**WRITES[op], "messages": carried}, tag=next(it.tags)), 0)
        it.take(delivery({"op": "purge", "id": "p", "key": KEY}, tag=next(it.tags)), 0)
        await settle()
        assert [reply["id"] for _, _, reply in it.broker.replies] == ["s"]
        (event, purged) = await it.store.history(KEY)
        assert (event.stripped, purged.type) == (False, "purged")
        record = (await it.store.find(["s"]))["s"]
        assert carried_by(record) == {"secret": 1}
        gate.set()
        await it.idle()
        assert [reply["id"] for _, _, reply in it.broker.replies] == ["s", "p"]
        (event, _) = await it.store.history(KEY)
        assert event.stripped
        assert carried_by((await it.store.find(["s"]))["s"]) is None
        assert [each.exchange for each in it.broker.published].count("orders") == 1
