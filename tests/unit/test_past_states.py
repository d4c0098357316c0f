"""Earlier states and spans of a history, as they are asked for on the wire."""

from typing import Any

import pytest
from store_records import deleted, saved
from support.commands import NOW
from support.desk import Desk, desk

from holdfast.stores import MemoryStore
from holdfast.worker import AccessConfig, AccessRule, past
from holdfast.worker.past import Page, read_page

#: Versions 1 to 6 of a key: the fourth was deleted, and the fifth followed in the same millisecond.
TIMES = [10, 20, 30, 40, 40, 60]


@pytest.fixture
async def store() -> MemoryStore:
    made = MemoryStore()
    await fill(made)
    return made


async def fill(store: MemoryStore) -> None:
    await store.open()
    for version, time in enumerate(TIMES, start=1):
        event = saved("k", version, value=version) if version != 4 else deleted("k", version)
        await store.append([event.model_copy(update={"time": time})])


async def span(store: MemoryStore, **page: Any) -> list[int]:
    """All versions of a span, read a page after another."""
    found: list[int] = []
    while True:
        entries, following = await read_page(store, Page("k", **page))
        assert len(entries) <= page.get("limit", 100)
        found += [entry.version for entry in entries]
        if following is None:
            return found
        assert following == found[-1]
        page["before_version" if page.get("backward") else "after_version"] = following


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"after_version": 2, "before_version": 6}, [3, 4, 5]),
        ({"from_time": 20}, [2, 3, 4, 5, 6]),
        ({"from_time": 21}, [3, 4, 5, 6]),
        ({"from_time": 0, "to_time": 40}, [1, 2, 3, 4, 5]),
        ({"to_time": 39}, [1, 2, 3]),
        ({"to_time": 9}, []),
        ({"from_time": 61}, []),
        ({"from_time": 40, "to_time": 40}, [4, 5]),
        ({"from_time": 40, "to_time": 39}, []),
        ({"from_time": 11, "after_version": 4}, [5, 6]),
        ({"to_time": 60, "before_version": 2}, [1]),
    ],
)
async def test_a_span_of_a_history(
    store: MemoryStore, given: dict[str, Any], expected: list[int], backward: bool, limit: int
) -> None:
    """Given conditions on versions and times, when pages are read either way, then exactly what meets all of them."""
    assert await span(store, **given, backward=backward, limit=limit) == (expected[::-1] if backward else expected)


async def test_large_values_end_a_page_either_way(monkeypatch: pytest.MonkeyPatch, store: MemoryStore) -> None:
    """Given values that do not fit into one reply, when pages are read, then each has one, and none is missing."""
    monkeypatch.setattr(past, "REPLY_MESSAGE_BYTES", 1)
    for backward in (False, True):
        entries, following = await read_page(store, Page("k", backward=backward))
        assert len(entries) == 1
        assert following is not None
        assert sorted(await span(store, backward=backward)) == [1, 2, 3, 4, 5, 6]


# Earlier states.


async def ask(it: Desk, **fields: Any) -> str:
    """What a read says, in a word: a value, ``absent v4``, ``stripped`` …"""
    reply = await it.ask({"op": "read", "id": "r", "key": "k", **fields}, "ada")
    if reply["status"] != "ok":
        return str(reply["error"]["code"])
    return repr(reply["value"]) if reply["exists"] else f"absent v{reply['version']}"


@pytest.mark.parametrize("consistency", ["strong", "eventual"])
async def test_the_state_at_a_version_or_a_time(consistency: str) -> None:
    """Given a key with a past, when its states are asked for, then each is what it was, etag and time included."""
    async with desk() as it:
        await fill(it.store)
        told = {version: await ask(it, at_version=version, consistency=consistency) for version in range(1, 8)}
        assert told == {1: "1", 2: "2", 3: "3", 4: "absent v4", 5: "5", 6: "6", 7: "absent v0"}
        at = {
            time: await ask(it, at_time=time, consistency=consistency) for time in (0, 9, 10, 19, 39, 40, 59, 60, NOW)
        }
        assert at == {
            0: "absent v0", 9: "absent v0", 10: "1", 19: "1", 39: "3", 40: "5", 59: "5", 60: "6", NOW: "6",
        }  # fmt: skip
        (second,) = await it.store.history("k", after_version=1, limit=1)
        reply = await it.ask({"op": "read", "id": "r", "key": "k", "at_version": 2}, "ada")
        assert (reply["etag"], reply["version"], reply["updated_at"]) == (second.etag, 2, 20)
        assert await ask(it, at_version=1, at_time=1) == "bad_at_version"
        assert await ask(it, key="never", at_time=NOW) == "absent v0"
        assert await ask(it, at_version=1, deadline=NOW - 1) == "deadline"


async def test_what_was_erased_is_said_to_be_erased() -> None:
    """Given a key whose old values were erased, when they are asked for, then nobody is told that it was absent."""
    async with desk() as it:
        await fill(it.store)
        await it.store.strip([("k", 1, 4)])
        await it.store.drop([("k", 1), ("k", 2)])
        assert [await ask(it, at_version=version) for version in (1, 3, 4, 5)] == [
            "stripped",
            "stripped",
            "absent v4",
            "5",
        ]
        assert [await ask(it, at_time=time) for time in (15, 30, 39, 60)] == ["stripped", "stripped", "stripped", "6"]


async def test_it_takes_the_right_to_see_the_history() -> None:
    """Given who may read and who may see histories, when the past is asked for, then it is told to the second alone."""
    rules = [
        AccessRule(user="reader", store="*", key="*", operations=["read"]),
        AccessRule(user="ada", store="*", key="*", operations=["history"]),
    ]
    async with desk(AccessConfig(default="closed", rules=rules)) as it:
        await fill(it.store)
        for fields in ({"at_version": 1}, {"at_time": 15}):
            assert await ask(it, **fields) == "1"
            denied = await it.ask({"op": "read", "id": "r", "key": "k", **fields}, "reader")
            assert denied["error"]["message"].startswith("the user 'reader' may not history the key 'k'")
        assert await ask(it) == "denied"
        assert (await it.ask({"op": "read", "id": "r", "key": "k"}, "reader"))["value"] == 6
