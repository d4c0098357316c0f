"""Keys, ids, names of fields and prefixes are plain text: whatever a database could take for more than that is none."""

import json
from typing import Any

import pytest
import pytest_asyncio

from holdfast.contract import MakeStore
from holdfast.contract.records import deleted, refused, saved
from holdfast.events import BadCommand, Event, Record, StoreConfigError, decode_commands
from holdfast.stores import AlreadyApplied, EventStore, Head, Outcome

#: What means something to MongoDB, to its shell, to regular expressions, to JSON or to the eye.
NAMES = [
    "$", "$$", "$where", "$gt", "$ne", "$in", "$regex", "$expr", "$function", "$ref", "$id", "$set", "$inc", "$each",
    "$$ROOT", "$_id.c", "$key", ".", "..", "a.b", "a.$.b", "a.0", "_id", "_id.c", "key", "version", "value", "digest",
    '{"$gt": ""}', '{"$ne": null}', "[]", "{}", "null", "true", "0", "-1", "NaN", "1; return true", "'; sleep(1000); '",
    "function () { return true; }", "/.*/", "^", "^a", ".*", "a*", "(a|b)", "[^x]", "\\", "\\Qa\\E", "(?i)A", "a", "A",
    "__proto__", "constructor", "system.users", "default.events", "topology", "fence", "/", "a/", "a/b", "%00", "*",
    " ", "\t", "\n", "\r\n", "\x01", "\x7f", "\u200b", "\u202e", "\u2028", "\ufeff", "\ufffd", "\uffff", "a\uffff",
    "a\uffffb", "\ud7ff", "\ue000", "\U00010000", "\U0010ffff", "a\U0010ffff", "é", "e\u0301", "ß", "ﬁ", "İ", "🙂",
    "x" * 512,
]  # fmt: skip


def event_of(name: str) -> Event:
    """A first event with this name wherever there can be one."""
    value = {name: [{name: {name: name}}], "list": [name]}
    return saved(name, 1, command=f"{name}!"[-128:], value=value, author=name, metadata={name: name})


def refusal_of(name: str) -> Record:
    return refused(name, command=f"?{name}"[:128], status="conflict", error={name: {name: name}})


@pytest_asyncio.fixture(loop_scope="function")
async def events(store: EventStore) -> dict[str, Event]:
    """An event and a refusal of each name, all in one log."""
    events = {name: event_of(name) for name in NAMES}
    result = await store.append(list(events.values()))
    assert set(result.outcomes) == {Outcome.APPENDED}
    result = await store.append([refusal_of(name) for name in NAMES])
    assert set(result.outcomes) == {Outcome.APPENDED}
    return events


async def test_looks_find_what_was_meant_and_nothing_else(store: EventStore, events: dict[str, Event]) -> None:
    """Among records of all these names each look by one of them finds its own."""
    for name, event in events.items():
        assert await store.heads([name]) == {name: Head(1, True, event.id, event.time)}
        assert await store.versions([name]) == {name: 1}
        assert await store.events([(name, 1), (name, 2)]) == {(name, 1): event}
        assert await store.find([event.id]) == {event.id: event}
        refusal = refusal_of(name)
        assert await store.find([refusal.id]) == {refusal.id: refusal}
        assert await store.history(name) == [event]
        # What is no name here is not there, however much it looks like something that matches all of them.
        other = f"{name[:100]}\u2060"
        assert await store.heads([other]) == {}
        assert await store.find([other]) == {}
        assert await store.events([(other, 1)]) == {}
        assert await store.history(other) == []
    assert await store.versions(NAMES) == dict.fromkeys(NAMES, 1)


async def test_appends_meet_what_was_meant_and_nothing_else(store: EventStore, events: dict[str, Event]) -> None:
    """A repeat is one of its own id, a version is taken by its own key, and what follows is the key's own."""
    for name, event in events.items():
        assert list((await store.append([event])).outcomes) == [AlreadyApplied(event)]
        assert list((await store.append([saved(name, 1)])).outcomes) == [Outcome.VERSION_TAKEN]
        assert list((await store.append([deleted(name, 2)])).outcomes) == [Outcome.APPENDED]
        assert await store.versions([name]) == {name: 2}
    assert len([record async for record in store.scan()]) == 3 * len(NAMES)


async def test_prefixes_select_what_begins_with_them(store: EventStore, events: dict[str, Event]) -> None:
    """Each name as a prefix, and as the key to go on behind, selects by its characters, in byte order."""
    ordered = sorted(NAMES, key=str.encode)
    assert (await store.keys()).keys == ordered
    for name in NAMES:
        assert (await store.keys(name)).keys == [key for key in ordered if key.startswith(name)]
        assert (await store.keys(after=name)).keys == [key for key in ordered if key.encode() > name.encode()]
        assert (await store.keys(name, after=name, limit=1)).keys == [
            key for key in ordered if key.startswith(name) and key != name
        ][:1]


@pytest.mark.parametrize("trick", [{"$gt": ""}, {"$ne": None}, {"$regex": ".*"}, ["k"], {"$where": "1"}], ids=str)
@pytest.mark.parametrize(
    "field", ["key", "id", "store", "etag", "concurrency", "consistency", "deadline", "sent_at", "metadata", "op"]
)
def test_an_operator_in_place_of_a_text_never_reaches_a_store(field: str, trick: Any) -> None:
    """Where the protocol wants a text or a number, an object is a bad command."""
    if field == "metadata" and isinstance(trick, dict) and all(isinstance(text, str) for text in trick.values()):
        trick = {"$set": trick}  # texts under any names are what metadata are
    for op in ("save", "read", "delete", "history"):
        command = {"op": op, "id": "c", "key": "k"} | ({"value": 1} if op == "save" else {}) | {field: trick}
        (decoded,) = decode_commands(json.dumps(command).encode()).commands
        assert isinstance(decoded, BadCommand)


@pytest.mark.parametrize(
    "name", ["", "a/b", "a b", ".a", "$a", "a$b", "system", "system.a", "a" * 65, "ä", "a\0", {"$gt": ""}, None]
)
def test_names_that_no_store_has(make_store: MakeStore, name: Any) -> None:
    """A store's name becomes part of a collection's, so not every text will do, whatever kind of store it is."""
    with pytest.raises(StoreConfigError):
        make_store(name)


@pytest.mark.parametrize("name", ["a", "carts", "user-carts.v2", "a_b", "systems", "0", "a" * 64])
def test_names_that_stores_have(make_store: MakeStore, name: str) -> None:
    """Letters, digits and a few signs."""
    make_store(name)
