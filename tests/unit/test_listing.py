"""Lists of keys: whole, in order, without what is not there, and without a look at what is nobody's business."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_records import deleted, saved
from support.commands import NOW
from support.desk import Desk, desk

from holdfast.stores import KeyScope, MemoryStore
from holdfast.stores.scopes import EVERYTHING
from holdfast.worker import AccessConfig, AccessRule, listing
from holdfast.worker.access import Access
from holdfast.worker.listing import list_keys

TEXTS = st.text("ab/\U0010ffff", min_size=1, max_size=4)


def rules(*patterns: str, operations: list[str] | None = None, user: str = "ada") -> list[AccessRule]:
    return [
        AccessRule(user=user, store="default", key=pattern, operations=operations or ["keys"]) for pattern in patterns
    ]


# What is answered.


async def filled(*keys: str, gone: tuple[str, ...] = ()) -> MemoryStore:
    store = MemoryStore()
    await store.open()
    await store.append([saved(key, 1, time=NOW) for key in (*keys, *gone)])
    await store.append([deleted(key, 2) for key in gone])
    return store


async def pages(store: MemoryStore, scope: KeyScope, limit: int, **options: Any) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    after = None
    while not made or after is not None:
        made.append(await list_keys(store, scope, after=after, limit=limit, now=NOW, **options))
        after = made[-1]["next"]
    return made


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 1000])
async def test_pages_are_full_and_the_last_one_says_so(limit: int) -> None:
    """Given keys that are there and others that were deleted, when pages are made, then of the first all, once."""
    there = ["a", "b/1", "b/2", "b/3", "c", "d", "ä"]
    store = await filled(*there, gone=("a/0", "b/0", "b/25", "z"))
    made = await pages(store, EVERYTHING, limit)
    assert [entry["key"] for page in made for entry in page["keys"]] == there
    assert all(page["count"] == len(page["keys"]) == limit for page in made[:-1])
    assert [len(page["keys"]) for page in made][-1] > 0
    assert made[0]["keys"][0]["version"] == 1
    assert made[0]["keys"][0].keys() == {"key", "etag", "version", "updated_at"}
    under = await pages(store, KeyScope.of(prefixes=["b/"]), limit)
    assert [entry["key"] for page in under for entry in page["keys"]] == ["b/1", "b/2", "b/3"]
    counted = await pages(store, EVERYTHING, limit, count_only=True)
    assert sum(page["count"] for page in counted) == 7
    assert len(counted) == 1
    assert "keys" not in counted[0]


async def test_a_page_passes_over_so_many_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given more deleted keys than one command may look at, when a page is made, then it ends, and the next goes on."""
    monkeypatch.setattr(listing, "MAX_LOOKED", 40)
    monkeypatch.setattr(listing, "CHUNK", 20)
    store = await filled("a", "z", gone=tuple(f"b/{number:03}" for number in range(100)))
    made = await pages(store, EVERYTHING, 10)
    assert len(made) == 3
    assert [entry["key"] for page in made for entry in page["keys"]] == ["a", "z"]
    counted = await pages(store, EVERYTHING, 10, count_only=True)
    assert sum(page["count"] for page in counted) == 2


@given(st.lists(st.tuples(TEXTS, st.booleans()), max_size=5), st.sets(TEXTS), st.sets(TEXTS), st.integers(1, 5))
async def test_nothing_else_is_looked_at(
    patterns: list[tuple[str, bool]], there: set[str], gone: set[str], limit: int
) -> None:
    """Given any rules and keys, when all pages are made, then nothing was looked up that may not be told."""
    access = Access(AccessConfig(default="closed", rules=rules(*(text + "*" * star for text, star in patterns))))
    store = await filled(*there - gone, gone=tuple(gone))
    looked: set[str] = set()
    heads = store.heads

    async def noted(keys: Any, **options: Any) -> Any:
        looked.update(keys)
        return await heads(keys, **options)

    store.heads = noted  # type: ignore[method-assign]
    made = await pages(store, access.scope("ada", ("keys",), "default"), limit)
    mine = {key for key in there - gone if access.allows("ada", "keys", "default", key)}
    assert [entry["key"] for page in made for entry in page["keys"]] == sorted(mine)
    assert all(access.allows("ada", "keys", "default", key) for key in looked)
    assert all(page["next"] is None or access.allows("ada", "keys", "default", page["next"]) for page in made)


# At the worker.

CONFIG = AccessConfig(
    default="closed",
    rules=[
        *rules("*", operations=["*"], user="owner"),
        *rules("k/*", "other", user="lister"),
        *rules("k/2*", operations=["read"], user="lister"),
        *rules("k/*", operations=["read"], user="reader"),
    ],
)


async def ask(it: Desk, author: str | None, **fields: Any) -> Any:
    partition = fields.pop("partition", 0)
    return await it.ask({"op": "keys", "id": "q", **fields}, author, partition=partition)


async def test_who_may_list_and_who_may_read() -> None:
    """Given users of different rights, when they list, then each is told of what he may know, and no more of it."""
    async with desk(CONFIG) as it:
        for key in ("k/1", "k/2", "k/22", "other", "secret"):
            await it.ask({"op": "save", "id": key, "key": key, "value": 1}, "owner")
        everything_ = await ask(it, "owner")
        assert [entry["key"] for entry in everything_["keys"]] == ["k/1", "k/2", "k/22", "other", "secret"]
        told = (await ask(it, "lister"))["keys"]
        assert [(entry["key"], set(entry) - {"key"}) for entry in told] == [
            ("k/1", set()),
            ("k/2", {"etag", "version", "updated_at"}),
            ("k/22", {"etag", "version", "updated_at"}),
            ("other", set()),
        ]
        assert (await ask(it, "lister", count_only=True))["count"] == 4
        assert (await ask(it, "lister", prefix="k/2", limit=1))["next"] == "k/2"
        for author, prefix in (("lister", "secret"), ("lister", "x"), ("reader", "k/"), (None, ""), ("eve", "")):
            reply = await ask(it, author, prefix=prefix)
            assert (reply["status"], reply["error"]["code"]) == ("denied", "denied")
            assert f"'{prefix}*'" in reply["error"]["message"]


async def test_any_worker_can_be_asked() -> None:
    """Given many partitions, when keys are asked for at any of them, then that one answers, and says what is wrong."""
    async with desk(partitions=8) as it:
        for partition in range(8):
            reply = await ask(it, None, partition=partition)
            assert (reply["status"], reply["keys"], reply["count"], reply["next"]) == ("ok", [], 0, None)
        assert (await ask(it, None, store="nowhere"))["status"] == "unknown_store"
        assert (await ask(it, None, deadline=NOW - 1))["error"]["code"] == "deadline"
        assert it.forwarded == []
