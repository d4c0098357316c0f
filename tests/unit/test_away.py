"""A store that is away while others are there: what its commands are told, and when it counts as back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from support.commands import NOW, read, request, save, wire
from support.deliveries import RememberingBroker, delivery
from support.loops import leaping
from support.scripted import Proceed, ScriptedStore, as_it_is, away

from holdfast.events import ClosedError, StoreUnavailable, Topology
from holdfast.stores import MemoryStore
from holdfast.worker import Engine, Request, WorkerOptions
from holdfast.worker.away import ANSWER_PATIENCE, LOOKS, AwayLane, StoreBackError, find_away
from holdfast.worker.session import Session


async def hanging(proceed: Proceed, _: Any) -> Any:
    """A call that is never answered."""
    await asyncio.Event().wait()


# -- the lane


async def test_what_was_not_delivered_before_is_certainly_not_applied() -> None:
    """Given a store that is away, when commands come, then unavailable; unknown if they may have been applied."""
    told: list[Request] = []
    lane = AwayLane("other", await ScriptedStore.opened(), turned_away=told.extend)
    made = [request(save("k", 1)), request(save("k", 1), redelivered=True), request(read("k"), redelivered=True)]
    lane.add(made)
    assert told == made
    answers = [wire(each.answer) for each in told]
    assert [(answer["status"], answer["error"]["code"]) for answer in answers] == [
        ("unavailable", "store_away"),
        ("unknown", "store_away"),
        ("unavailable", "store_away"),
    ]


@leaping
async def test_a_store_is_back_when_it_has_answered_for_a_while() -> None:
    """Given a store that comes and goes, when it has answered several times in a row, then it is back."""
    store = await ScriptedStore.opened()
    store.script("health", away, as_it_is, away, *[as_it_is] * (LOOKS - 1), away)
    lane = AwayLane("other", store, turned_away=lambda _: None)
    with pytest.raises(StoreBackError, match="other"):
        await lane.run()
    assert store.finished
    assert store.calls["health"] == 3 + (LOOKS - 1) + 1 + LOOKS


# -- finding out


async def stores(**health: Any) -> dict[str, ScriptedStore]:
    made = {}
    for name, step in health.items():
        made[name] = await ScriptedStore.opened()
        made[name].always("health", step)
    return made


@leaping
async def test_all_there() -> None:
    """Given stores that answer, when they are asked, then none is away, and no time passes."""
    assert await find_away(await stores(a=as_it_is, b=as_it_is)) == set()
    assert asyncio.get_running_loop().time() == 0


@leaping
async def test_one_that_fails_or_says_nothing_is_away() -> None:
    """Given one store that answers, when others fail or hang, then they are away, after a bounded wait."""
    found = await find_away(await stores(a=as_it_is, b=away, c=hanging))
    assert found == {"b", "c"}
    assert asyncio.get_running_loop().time() <= 2 * ANSWER_PATIENCE


@leaping
async def test_if_all_are_away_that_is_an_error() -> None:
    """Given stores that all fail, when they are asked, then the worker has nothing to do with a broker."""
    with pytest.raises(StoreUnavailable):
        await find_away(await stores(a=away, b=away))
    with pytest.raises(StoreUnavailable):
        await find_away(await stores(only=away))


@leaping
async def test_while_none_has_answered_they_are_waited_for() -> None:
    """Given stores that are slow, when one answers at last, then the others get their time from then on."""

    async def slow(proceed: Proceed, _: Any) -> Any:
        await asyncio.sleep(30)
        return await proceed()

    assert await find_away(await stores(a=slow, b=slow)) == set()
    assert await find_away(await stores(a=slow, b=hanging)) == {"b"}


@leaping
async def test_a_fault_of_ours_is_no_absence() -> None:
    """Given a store that was closed, when it is asked, then that is an error and not an outage."""

    async def closed(proceed: Proceed, _: Any) -> Any:
        raise ClosedError("scripted")

    with pytest.raises(ClosedError):
        await find_away(await stores(a=as_it_is, b=closed))


# -- a session without one of its stores


class Desk:
    def __init__(self) -> None:
        self.broker = cast("Any", RememberingBroker())
        self.broker.lost = asyncio.get_running_loop().create_future()
        self.broker.consume = self._consume
        self.broker.forward = None
        self.stores = {"here": MemoryStore(), "gone": MemoryStore()}
        self.session = Session(
            self.broker,
            engines={name: Engine(store, service_time=lambda: NOW) for name, store in self.stores.items()},
            topology=Topology(partitions=1, stores=("here", "gone")),
            options=WorkerOptions(amqp_url="amqp://nowhere/", partitions=1),
            service_time=lambda: NOW,
            away={"gone"},
        )
        self.ready = asyncio.Event()

    async def _consume(self, take: Any, _: Any) -> None:
        self.take = take

    async def ask(self, tag: int, *commands: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
        before = len(self.broker.replies)
        self.take(delivery(list(commands), tag=tag, **fields), 0)
        await self.broker.until_acknowledged(*range(1, tag + 1))
        return [reply for _, _, replies in self.broker.replies[before:] for reply in replies]


@asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    for store in made.stores.values():
        await store.open()
    running = asyncio.ensure_future(made.session.run(asyncio.Event(), on_ready=made.ready.set))
    await made.ready.wait()
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def command(op: str, store: str, **fields: Any) -> dict[str, Any]:
    return {"op": op, "store": store, "id": f"{op}-{store}", "key": "k"} | fields


async def test_the_commands_of_other_stores_go_on() -> None:
    """Given a message for two stores of which one is away, when it is taken, then each command has its own answer."""
    async with desk() as it:
        replies = await it.ask(
            1,
            command("save", "gone", value=1),
            command("save", "here", value=1),
            command("read", "gone"),
            command("read", "here"),
            command("history", "gone"),
            command("history", "here"),
        )
        told = {reply["id"]: (reply["status"], reply.get("error", {}).get("code")) for reply in replies}
        assert it.broker.reluctant
    assert told == {
        f"{op}-{store}": ("ok", None) if store == "here" else ("unavailable", "store_away")
        for op in ("save", "read", "history")
        for store in ("here", "gone")
    }
    assert [record async for record in it.stores["gone"].scan()] == []


async def test_a_write_without_a_sender_to_tell_is_kept_for_the_operator() -> None:
    """Given commands that nobody waits for, when their store is away, then writes become dead letters; reads do not."""
    async with desk() as it:
        replies = await it.ask(
            1, command("save", "gone", value=1), command("read", "gone"), command("delete", "gone"), reply_to=None
        )
    assert replies == []
    assert [
        (reason, b'"op":"%s"' % op in body)
        for (body, reason, _), op in zip(it.broker.buried, (b"save", b"delete"), strict=True)
    ] == [("store_away", True)] * 2
