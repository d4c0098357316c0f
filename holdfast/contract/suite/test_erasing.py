"""Erasing and dropping, as stores do it when they are told to."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from holdfast.contract.records import TIME, deleted, new_id, refused, saved
from holdfast.events import Event, OutboxMessage, Receipt, Record
from holdfast.stores import CompactableStore, EventStore, Head, Mark, Outcome, Trace, TransactionalStore


@pytest.fixture
def compactable(store: EventStore, capability: Callable[[EventStore, str], None]) -> CompactableStore:
    """An empty store in which values can be erased."""
    capability(store, "erasing")
    assert isinstance(store, CompactableStore)
    return store


def rich(key: str, version: int) -> Event:
    return saved(
        key,
        version,
        value={"n": version},
        author="ada",
        metadata={"why": "so"},
        messages=(OutboxMessage(exchange="orders", body={"n": version}),),
        correlation_id="c",
        causation_id="d",
    ).model_copy(update={"expires": TIME + 60_000, "patch": "0123456789abcdef" * 2})


def stub(event: Event) -> Event:
    # When it was to expire stays: what came after it is judged by that.
    erased = dict.fromkeys(("value", "patch", "messages", "metadata", "correlation_id", "causation_id"))
    return event.model_copy(update={**erased, "stripped": True})


async def test_what_is_stripped_becomes_stubs(compactable: CompactableStore) -> None:
    """Value, metadata and the sender's ids are gone for every way to look; the rest is as it was, and so are others."""
    events = [rich("a", version) for version in range(1, 7)]
    others: list[Record] = [rich("b", 1), rich("b", 2), refused("a")]
    await compactable.append([*events, *others])
    assert await compactable.strip([("a", 2, 3), ("a", 5, 5), ("c", 1, 9)]) == 3
    expected = [stub(event) if event.version in (2, 3, 5) else event for event in events]
    assert await compactable.history("a") == expected
    assert await compactable.find([event.id for event in events]) == {event.id: event for event in expected}
    assert await compactable.events([("a", 2), ("a", 4)]) == {("a", 2): expected[1], ("a", 4): expected[3]}
    scanned = {record.id: record async for record in compactable.scan()}
    assert scanned == {record.id: record for record in [*expected, *others]}
    assert await compactable.strip([("a", 1, 6), ("b", 1, 1)]) == 4
    assert await compactable.strip([("a", 1, 6)]) == 0
    assert await compactable.strip([]) == 0


async def carrying(store: CompactableStore, key: str, version: int) -> Receipt:
    """The receipt, in the log, of a transaction that carries messages and found this version of its key."""
    assert isinstance(store, TransactionalStore)
    receipt = Receipt(
        id=new_id(),
        key=key,
        time=TIME,
        digest=b"whole...",
        answer={"status": "ok", "results": [{"key": key, "version": version}, {"key": "elsewhere", "version": 9}]},
        events=0,
        messages=(OutboxMessage(exchange="orders", body={"secret": version}),),
    )
    assert (await store.transact([receipt], [(key, version + 1)])).outcome is Outcome.APPENDED
    return receipt


async def looked_up(store: CompactableStore, *receipts: Receipt) -> list[int]:
    """At which versions receipts still carry their messages. All else of them has to be as it was."""
    found = await store.find([receipt.id for receipt in receipts])
    scanned = {record.id: record async for record in store.scan()}
    for receipt in receipts:
        assert found[receipt.id] in (receipt, receipt.model_copy(update={"messages": None}))
        assert scanned[receipt.id] == found[receipt.id]
    return [receipt.at for receipt in receipts if found[receipt.id] == receipt]


async def test_what_receipts_carry_goes_with_their_version(
    compactable: CompactableStore, capability: Callable[[EventStore, str], None]
) -> None:
    """Of the key that they belong to, also where there was nothing, and where there is an event that is a stub."""
    capability(compactable, "transactions")
    receipts = [await carrying(compactable, "a", 0)]
    for version in range(1, 5):
        await compactable.append([saved("a", version), saved("another", version)])
        receipts.append(await carrying(compactable, "a", version))
    others = [await carrying(compactable, key, version) for key, version in (("b", 0), ("another", 4), ("aa", 2))]
    assert await looked_up(compactable, *receipts) == [0, 1, 2, 3, 4]
    assert await compactable.strip([("a", 2, 3), ("another", 1, 3)]) == 5
    assert await looked_up(compactable, *receipts) == [0, 1, 4]
    assert await compactable.strip([("a", 0, 3)]) == 1
    assert await looked_up(compactable, *receipts) == [4]
    late = await carrying(compactable, "a", 4)
    assert await compactable.strip([("a", 4, 4), ("b", 1, 9)]) == 1
    assert await looked_up(compactable, *receipts, late) == []
    assert await looked_up(compactable, *others) == [0, 4, 2]


async def test_which_keys_have_receipts_that_carry(
    compactable: CompactableStore, capability: Callable[[EventStore, str], None]
) -> None:
    """Whether or not there are events; until what they carry is erased; behind a fence and without one."""
    capability(compactable, "transactions")
    for key in ("a", "a", "b"):
        await carrying(compactable, key, 0)
    await compactable.append([saved("c", 1), saved("d", 1)])
    await carrying(compactable, "d", 1)
    for after in (None, await compactable.fence()):
        assert await compactable.carrying(["a", "b", "c", "d", "e"], after=after) == {"a", "b", "d"}
        assert await compactable.carrying(["a"], after=after) == {"a"}
        assert await compactable.carrying([], after=after) == set()
    await compactable.strip([("a", 0, 0), ("d", 0, 0)])
    assert await compactable.carrying(["a", "b", "c", "d", "e"]) == {"b", "d"}


async def test_what_receipts_carry_goes_with_what_is_dropped(
    compactable: CompactableStore, capability: Callable[[EventStore, str], None]
) -> None:
    """Compaction is told of it before, as of an event's own, and what was never stripped goes all the same."""
    capability(compactable, "transactions")
    receipts: list[Receipt] = []
    for version in (1, 2, 3):
        await compactable.append([saved("a", version)])
        if version != 2:
            receipts.append(await carrying(compactable, "a", version))
    places = [("a", version) for version in (1, 2, 3)]
    traces = await compactable.traces(places)
    assert [traces[place].carries for place in places] == [True, False, True]
    assert await compactable.drop(places[:2]) == 2
    assert await looked_up(compactable, *receipts) == [3]
    await compactable.strip([("a", 3, 3)])
    assert not (await compactable.traces(places))["a", 3].carries


async def test_a_stub_keeps_its_place(compactable: CompactableStore) -> None:
    """Its version and its id are taken for ever, and the head of its key is what it was."""
    first, second = saved("a", 1, value=1), deleted("a", 2)
    await compactable.append([first, second])
    await compactable.strip([("a", 1, 2)])
    assert await compactable.heads(["a"]) == {"a": Head(2, False, second.id, TIME)}
    assert list((await compactable.append([saved("a", 1)])).outcomes) == [Outcome.VERSION_TAKEN]
    (outcome,) = (await compactable.append([first])).outcomes
    assert outcome.original == stub(first)  # type: ignore[union-attr]


async def test_places_and_traces(compactable: CompactableStore) -> None:
    """Every event once, key by key, the newest version first, from any place on."""
    events: list[Record] = [
        saved(key, version, time=TIME + version) for key in ("b", "a", "ä") for version in (1, 2, 3)
    ]
    message = OutboxMessage(exchange="orders")
    await compactable.append([*events, deleted("a", 4), refused("z"), saved("B", 1, time=TIME, messages=(message,))])
    await compactable.strip([("a", 1, 2)])
    every = [("B", 1), *(("a", n) for n in (4, 3, 2, 1)), *((key, n) for key in ("b", "ä") for n in (3, 2, 1))]
    assert await compactable.places() == every
    for limit in (1, 2, 3, 50):
        pages: list[tuple[str, int]] = []
        while page := await compactable.places(after=pages[-1] if pages else None, limit=limit):
            assert len(page) <= limit
            pages += page
        assert pages == every
    # A place need not be there, and 0 is behind all versions of a key.
    assert await compactable.places(after=("a", 0), limit=1) == [("b", 3)]
    assert await compactable.places(after=("a", 9), limit=1) == [("a", 4)]
    assert await compactable.traces([("B", 1), ("a", 4), ("a", 1), ("b", 2), ("b", 7), ("c", 1)]) == {
        ("B", 1): Trace("B", 1, "saved", TIME, False, None, True),
        ("a", 4): Trace("a", 4, "deleted", TIME, False, None),
        ("a", 1): Trace("a", 1, "saved", TIME + 1, True, None),
        ("b", 2): Trace("b", 2, "saved", TIME + 2, False, None),
    }
    assert await compactable.traces([]) == {}


async def test_dropping(compactable: CompactableStore) -> None:
    """What is dropped is gone, in the order that was given; its version and its id are free again."""
    events = [saved("a", version) for version in (1, 2, 3)]
    await compactable.append([*events, refused("a")])
    assert await compactable.drop([("a", 1), ("a", 2), ("b", 1)]) == 2
    assert await compactable.drop([("a", 1)]) == 0
    assert await compactable.drop([]) == 0
    assert await compactable.history("a") == events[2:]
    assert await compactable.version_at("a", TIME) == 3
    assert await compactable.version_at("a", TIME - 1) == 0
    assert await compactable.drop([("a", 3)]) == 1
    assert await compactable.heads(["a"]) == {}
    assert (await compactable.keys()).keys == []
    assert list((await compactable.append([events[0]])).outcomes) == [Outcome.APPENDED]


async def test_dropping_refusals(compactable: CompactableStore) -> None:
    """Those of before a time, so many at a time, and nothing else."""
    old = [refused("a").model_copy(update={"time": TIME - number}) for number in range(1, 6)]
    kept: list[Record] = [refused("a"), saved("a", 1, time=TIME - 9)]
    await compactable.append([*old, *kept])
    await compactable.prepare_compaction()
    assert await compactable.drop_refusals(TIME, limit=3) == 3
    assert await compactable.drop_refusals(TIME, limit=3) == 2
    assert await compactable.drop_refusals(TIME, limit=3) == 0
    assert {record.id async for record in compactable.scan()} == {record.id for record in kept}


async def test_closing(compactable: CompactableStore) -> None:
    """A closed event says so in the head of its key, and when it was closed first."""
    await compactable.append([saved("a", 1), deleted("a", 2), saved("b", 1), deleted("b", 2)])
    for now in (TIME + 5, TIME + 7):
        await compactable.close_key(("a", 2), now=now)
    await compactable.close_key(("nothing", 1), now=TIME)
    assert (await compactable.traces([("a", 2)]))["a", 2].closed == TIME + 5
    heads = await compactable.heads(["a", "b"])
    assert (heads["a"].opens, heads["b"].opens) == (True, False)
    await compactable.append([saved("a", 3)])
    assert not (await compactable.heads(["a"]))["a"].opens


async def test_a_key_has_one_beginning(compactable: CompactableStore) -> None:
    """Of two events that say that they are their key's first, the log takes one, whatever their versions are."""
    await compactable.prepare_compaction()
    assert list((await compactable.append([saved("a", 9, first=True)])).outcomes) == [Outcome.APPENDED]
    second = saved("a", 21, first=True)
    assert list((await compactable.append([second])).outcomes) == [Outcome.VERSION_TAKEN]
    assert (
        list((await compactable.append([saved("b", 21, first=True), saved("a", 10)])).outcomes)
        == [Outcome.APPENDED] * 2
    )
    assert (await compactable.history("a"))[0].first
    await compactable.strip([("a", 9, 9)])
    assert list((await compactable.append([second])).outcomes) == [Outcome.VERSION_TAKEN]
    await compactable.drop([("a", 9), ("a", 10)])
    assert list((await compactable.append([second])).outcomes) == [Outcome.APPENDED]
    await compactable.prepare_compaction()


async def test_a_mark_is_changed_by_who_knows_it(compactable: CompactableStore) -> None:
    """It takes the last mark to put another one in its place, so that of two who do only one succeeds."""
    assert await compactable.mark() == Mark()
    one = replace(Mark(), floor=3, sweeper="me", until=TIME)
    assert await compactable.set_mark(Mark(), one)
    assert not await compactable.set_mark(Mark(), replace(one, floor=4))
    assert await compactable.mark() == one
    two = Mark(floor=9, horizon=TIME, firsts_since=1, swept="ä", finished=2, sweeper=None, until=0)
    assert await compactable.set_mark(one, two)
    assert await compactable.mark() == two
    assert not await compactable.set_mark(one, replace(one, floor=4))
