"""What goes on beside a lane's loop: transactions, and commands whose keys somebody's transaction holds."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from support.commands import apply, brief, checks, drops, read, request, requests, save, sets, transact, wire
from support.engines import Clock, another_worker, engine_on
from support.lanes import Running, running
from support.scripted import Blocking, Proceed, ScriptedStore, away, meanwhile, raising

from holdfast.events import Record, StoreError
from holdfast.worker import Engine, Request
from holdfast.worker.lane import StoreLostError


async def appended(store: ScriptedStore, times: int) -> None:
    """Wait until so many appends were tried."""
    while store.calls["append"] < times:  # noqa: ASYNC110 - a counter that nobody else waits for
        await asyncio.sleep(0.01)


class Held:
    """A call that waits until it is let go, and says when it has come."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, proceed: Proceed, _: Any) -> Any:
        self.came.set()
        await self.go.wait()
        return await proceed()


def told(lane: Running) -> dict[str, str]:
    """What each command was told, by its id, in the order in which they were told."""
    return {each.command.id: brief(wire(each.answer)) for batch in lane.answered for each in batch}


async def test_others_go_on_beside_a_transaction() -> None:
    """It hangs in the store. What shares no key with it is answered, what does waits, in order."""
    store = await ScriptedStore.opened()
    held = Held()
    store.script("transact", held)
    async with running(engine_on(store)) as lane:
        lane.lane.add(
            requests(
                save("a", 1, id="a1"),
                transact(sets("a", 2), sets("b", 1), checks("c", exists=False), id="t"),
                save("x", 1, id="x1"),
                save("a", 3, id="a3"),
                read("b", id="rb"),
            )
        )
        await held.came.wait()
        await lane.until(2)
        lane.lane.add(requests(save("x", 2, id="x2"), save("c", 1, id="c1"), save("y", 1, id="y1")))
        await lane.until(4)
        assert told(lane) == {"a1": "ok v1", "x1": "ok v1", "x2": "ok v2", "y1": "ok v1"}
        held.go.set()
        await lane.until(8)
        assert list(told(lane).items())[4:] == [("t", "ok"), ("a3", "ok v3"), ("rb", "ok v1"), ("c1", "ok v1")]
        assert not lane.lane._claims


async def test_transactions_on_one_key_in_their_order() -> None:
    """Mixed with single commands, in one batch and in many: each sees what came before it."""
    store = await ScriptedStore.opened()
    made: list[Request] = []
    for number in range(60):
        kind = number % 4
        if kind == 0:
            made += requests(transact(sets("hot", number), sets(f"own{number}"), id=f"t{number}"))
        elif kind == 1:
            made += requests(save("hot", number, id=f"s{number}"))
        elif kind == 2:
            made += requests(read("hot", id=f"r{number}"))
        else:
            made += requests(transact(sets(f"own{number}"), sets("hot", number), id=f"t{number}"))
    async with running(engine_on(store)) as lane:
        for start in range(0, 60, 7):
            lane.lane.add(made[start : start + 7])
            await asyncio.sleep(0)
        await lane.until(60)
        answers = {each.command.id: wire(each.answer) for batch in lane.answered for each in batch}
        assert not lane.lane._claims
    history = await store.inner.history("hot")
    written = [number for number in range(60) if number % 4 != 2]
    assert [event.value for event in history] == written
    for number in range(2, 60, 4):
        assert answers[f"r{number}"]["value"] == number - 1


async def test_transactions_of_other_keys_at_the_same_time() -> None:
    store = await ScriptedStore.opened()
    held = [Held() for _ in range(5)]
    store.script("transact", *held)
    async with running(engine_on(store)) as lane:
        lane.lane.add(requests(*(transact(sets(f"a{n}"), sets(f"b{n}"), id=f"t{n}") for n in range(5))))
        await asyncio.gather(*(one.came.wait() for one in held))
        for one in reversed(held):
            one.go.set()
        await lane.until(5)


async def test_a_repeat_of_a_transaction_that_is_under_way() -> None:
    """It waits for the first one, and gets its answer."""
    store = await ScriptedStore.opened()
    held = Held()
    store.script("transact", held)
    command = transact(sets("a", 1), drops("b"), id="t")
    async with running(engine_on(store)) as lane:
        lane.lane.add(requests(command))
        await held.came.wait()
        lane.lane.add([request(command), request(command, redelivered=True)])
        held.go.set()
        await lane.until(3)
        answers = [wire(each.answer) for batch in lane.answered for each in batch]
        assert answers[0]["status"] == "ok"
        assert answers == [answers[0]] * 3
    assert await store.versions_of("a") == [1]


async def test_what_is_blocked_is_parked_and_the_rest_goes_on() -> None:
    """Of a batch one key is held by somebody else's open transaction: it alone waits, and keeps its order."""
    store = await ScriptedStore.opened()
    blocking = Blocking(store, "k")
    store.always("append", blocking)
    async with running(engine_on(store)) as lane:
        lane.lane.add(
            requests(
                read("k", id="r0"),
                save("a", 1, id="a1"),
                save("k", 1, id="k1"),
                save("b", 1, id="b1"),
                read("k", id="r1"),
                save("a", 2, id="a2"),
                save("k", 2, id="k2"),
            )
        )
        await lane.until(4)
        assert told(lane) == {"r0": "absent", "a1": "ok v1", "b1": "ok v1", "a2": "ok v2"}
        lane.lane.add(
            requests(
                save("k", 3, id="k3"),
                save("c", 1, id="c1"),
                transact(sets("c", 2), sets("k", 4), id="t"),
                save("k", 5, id="k5"),
                save("c", 3, id="c3"),
            )
        )
        await lane.until(5)
        assert list(told(lane))[4:] == ["c1"]
        # It tries, and tries again.
        await appended(store, store.calls["append"] + 3)
        assert len(told(lane)) == 5
        # The other one's transaction ends with a version of its own.
        await another_worker(store, save("k", 0, id="k0"))()
        blocking.keys.clear()
        await lane.until(12)
        assert list(told(lane).items())[5:10] == [
            ("k1", "ok v2"),
            ("r1", "ok v2"),
            ("k2", "ok v3"),
            ("k3", "ok v4"),
            ("t", "ok"),
        ]
        assert (told(lane)["k5"], told(lane)["c3"]) == ("ok v6", "ok v3")
        assert not lane.lane._claims
    assert [event.value for event in await store.inner.history("k")] == [0, 1, 2, 3, 4, 5]
    assert [event.value for event in await store.inner.history("c")] == [1, 2, 3]


async def test_several_blocked_keys() -> None:
    """Each is parked for itself, and goes on when it can."""
    store = await ScriptedStore.opened()
    blocking = Blocking(store, "k", "l", "m")
    store.always("append", blocking)
    async with running(engine_on(store)) as lane:
        lane.lane.add(requests(*(save(key, 1, id=key) for key in "akblcmd")))
        await lane.until(4)
        assert told(lane).keys() == set("abcd")
        blocking.keys.remove("l")
        await lane.until(5)
        assert "l" in told(lane)
        blocking.keys.clear()
        await lane.until(7)
    assert all(answer == "ok v1" for answer in told(lane).values())


async def test_repeats_of_what_is_parked() -> None:
    """A delivery that was folded into another one waits with it, whether or not it had to be in line before."""
    store = await ScriptedStore.opened()
    blocking = Blocking(store, "k")
    command = save("k", 1, id="k1")
    held = Held()
    store.script("transact", held)
    store.always("append", blocking)
    async with running(engine_on(store)) as lane:
        lane.lane.add(requests(transact(sets("k", 0), id="t")))
        await held.came.wait()
        lane.lane.add([*requests(command), *requests(command), *requests(save("k", 2, id="k2"))])
        held.go.set()
        await lane.until(1)
        await appended(store, 3)
        blocking.keys.clear()
        await lane.until(4)
        assert [brief(wire(each.answer)) for batch in lane.answered for each in batch if not each.keys] == [
            "ok v2",
            "ok v2",
            "ok v3",
        ]


async def test_a_deadline_passes_while_a_command_is_parked() -> None:
    """Its refusal needs no version, so that it can be recorded although the key is blocked."""
    store = await ScriptedStore.opened()
    clock = Clock()
    store.always("append", Blocking(store))
    blocked_saves = 0

    async def block_versions(proceed: Proceed, records: Sequence[Record]) -> Any:
        nonlocal blocked_saves
        if any(record.type == "saved" for record in records):
            blocked_saves += 1
            clock.pass_(1)
            return await Blocking(store, "k")(proceed, records)
        return await proceed()

    store.always("append", block_versions)
    async with running(engine_on(store, clock)) as lane:
        lane.lane.add(requests(save("k", 1, id="k1", deadline=clock.now() + 1500)))
        assert await lane.until(1) == ["expired deadline"]
        assert blocked_saves == 2


async def test_a_transaction_that_cannot_be_processed_fails_alone() -> None:
    """What waits for it goes on; so does everything else."""
    store = await ScriptedStore.opened()
    store.script("transact", raising(StoreError("scripted: never")))
    async with running(engine_on(store)) as lane:
        lane.lane.add(
            requests(transact(sets("a", 1), sets("b", 1), id="t"), save("b", 2, id="b2"), save("c", 1, id="c1"))
        )
        await lane.until(3)
        assert told(lane) == {"c1": "ok v1", "t": "internal internal", "b2": "ok v1"}
        assert [made.command.id for made, _ in lane.failed] == ["t"]


async def test_a_store_that_stays_away_from_a_transaction_ends_the_lane() -> None:
    store = await ScriptedStore.opened()
    store.always("transact", away)
    lane = Running(engine_on(store), patience=0.2)
    lane.lane.add(requests(transact(sets("a", 1))))
    with pytest.raises(StoreLostError):
        await lane.task
    assert lane.answered == []


async def test_a_suspect_transaction_is_handled_alone() -> None:
    """Nothing else is at work when it begins, and nothing begins before it has ended."""
    store = await ScriptedStore.opened()
    first, suspect = Held(), Held()
    store.script("transact", first, suspect)
    async with running(engine_on(store)) as lane:
        lane.lane.add(requests(transact(sets("a", 1), id="t1")))
        await first.came.wait()
        lane.lane.add([request(transact(sets("b", 1), id="t2"), suspect=True), *requests(save("c", 1, id="c1"))])
        for _ in range(50):
            await asyncio.sleep(0)
        assert not suspect.came.is_set()
        first.go.set()
        await suspect.came.wait()
        for _ in range(50):
            await asyncio.sleep(0)
        assert told(lane) == {"t1": "ok"}
        suspect.go.set()
        await lane.until(3)
        assert list(told(lane)) == ["t1", "t2", "c1"]


async def test_knowledge_stays_right_beside_a_transaction() -> None:
    """Another worker writes a key of it meanwhile; all that follows rests on what is in the log."""
    store = await ScriptedStore.opened()
    engine: Engine = engine_on(store)
    await apply(engine, save("a", 1), save("b", 1))
    store.script("transact", meanwhile(another_worker(store, save("b", 2))))
    async with running(engine) as lane:
        lane.lane.add(requests(transact(sets("a", 2), sets("b", 3), id="t"), save("b", 4, id="b4"), read("a", id="ra")))
        await lane.until(3)
        assert told(lane) == {"t": "ok", "b4": "ok v4", "ra": "ok v2"}
