"""Listing keys."""

import asyncio
from itertools import pairwise

import pytest

from holdfast.contract.records import deleted, new_id, refused, saved
from holdfast.stores import EventStore


async def _fill(store: EventStore, keys: list[str]) -> None:
    for start in range(0, len(keys), 1000):
        await store.append([saved(key, 1) for key in keys[start : start + 1000]])


async def _all(store: EventStore, prefix: str = "", *, limit: int = 1000) -> list[str]:
    keys: list[str] = []
    after = None
    while True:
        # Lets others write between two pages, also to a store that never has to wait for anything.
        await asyncio.sleep(0)
        page = await store.keys(prefix, after=after, limit=limit)
        assert len(page.keys) <= limit
        keys += page.keys
        if page.next is None:
            return keys
        assert page.next == page.keys[-1]
        after = page.next


ODD = [
    "%", "%%", "*", ".", ".*", "/", "A", "^a", "a", "a$", "a*", "a.b", "a/", "a/1", "a/b", "a0", "ab", "b",
    "a\U0010ffff", "a\U0010ffff\U0010ffff", "a\U0010ffffb", "\U0010ffff", "\U0010ffffz", "\ud7ff", "\ud7ffx", "\ue000",
    "\uffff", "\U00010000", "é", "e\u0301", "ß", "[a-z]", "(a|b)", "\\", "\\Qa\\E", " ", "\t", "\x01", "\x7f", "$where",
]  # fmt: skip


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_every_key_once_in_byte_order(store: EventStore, limit: int) -> None:
    """Keys come in the byte order of UTF-8, whatever characters they hold and however long a page is."""
    await _fill(store, ODD)
    assert await _all(store, limit=limit) == sorted(ODD, key=str.encode)


@pytest.mark.parametrize("prefix", ["", *ODD, "a/b/", "nothing", "\U0010ffff\U0010ffff"])
async def test_prefixes_are_plain_text(store: EventStore, prefix: str) -> None:
    """A prefix selects the keys that start with it, and no character in it has a meaning of its own."""
    await _fill(store, ODD)
    expected = sorted((key for key in ODD if key.startswith(prefix)), key=str.encode)
    assert await _all(store, prefix) == expected
    assert await _all(store, prefix, limit=2) == expected


async def test_going_on_from_any_key(store: EventStore) -> None:
    """``after`` need not be a key that exists, nor one that starts with the prefix."""
    await _fill(store, ["a/1", "a/3", "a/5", "b/1"])
    assert (await store.keys("a/", after="a/2")).keys == ["a/3", "a/5"]
    assert (await store.keys("a/", after="a/3")).keys == ["a/5"]
    assert (await store.keys("a/", after="A")).keys == ["a/1", "a/3", "a/5"]
    assert (await store.keys("a/", after="b")).keys == []
    assert (await store.keys("", after="a/5")).keys == ["b/1"]


async def test_the_last_page_says_so(store: EventStore) -> None:
    """A page that holds the last key has no next one, even if it is full."""
    await _fill(store, ["a", "b", "c", "d"])
    assert await store.keys(limit=4) == (["a", "b", "c", "d"], None)
    assert await store.keys(limit=2) == (["a", "b"], "b")
    assert await store.keys(limit=2, after="b") == (["c", "d"], None)
    assert await store.keys(after="d") == ([], None)


async def test_deleted_keys_and_refusals(store: EventStore) -> None:
    """A deleted key has events and is listed; a key that only ever was refused has none."""
    await store.append([saved("a", 1), deleted("a", 2), refused("b"), saved("c", 1), saved("c", 2)])
    assert (await store.keys()).keys == ["a", "c"]


@pytest.mark.parametrize("limit", [1, 2, 5, 30])
async def test_keys_of_many_versions(store: EventStore, limit: int) -> None:
    """However many versions keys have, each is listed once, and pages are full."""
    keys = [f"k/{number:02}" for number in range(30)]
    for key in keys:
        await store.append([saved(key, version) for version in range(1, 40 if key < "k/20" else 2)])
    assert await _all(store, limit=limit) == keys
    assert len((await store.keys(limit=limit)).keys) == limit


async def test_paging_while_others_write(store: EventStore) -> None:
    """Keys that are there throughout are on exactly one page, in order, while others come and grow."""
    stable = [f"k/{number:04}" for number in range(0, 400, 2)]
    await _fill(store, stable)
    done = asyncio.Event()

    async def write() -> int:
        rounds = 0
        while not done.is_set():
            new = [saved(f"k/{number:04}", 1) for number in range(1 + 2 * rounds, 400, 40)][:5]
            await store.append([*new, *(saved(key, 2 + rounds) for key in stable[rounds % 10 :: 10])])
            rounds += 1
            await asyncio.sleep(0)
        return rounds

    writer = asyncio.create_task(write())
    try:
        for limit in (7, 50, 199):
            keys = await _all(store, "k/", limit=limit)
            assert all(one < other for one, other in pairwise(keys))
            assert set(stable) <= set(keys)
    finally:
        done.set()
        assert await writer > 0


async def test_a_page_behind_a_fence(store: EventStore) -> None:
    """A page of keys that is asked for behind a fence has what was acknowledged before it."""
    name = new_id()
    await store.append([saved(f"{name}/a", 1), saved(f"{name}/b", 1)])
    page = await store.keys(name, limit=1, fence=await store.fence())
    assert page.keys == [f"{name}/a"]
    assert (await store.keys(name, after=page.next, fence=await store.fence())).keys == [f"{name}/b"]
