"""Histories: read beside the commit loop, in turn, few at a time, and answered whatever happens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.commands import NOW, apply, delete, save
from support.deliveries import RememberingBroker, delivery
from support.engines import engine_on
from support.scripted import Proceed, ScriptedStore, away, raising

from holdfast.events import HistoryCommand
from holdfast.worker.delivery import Delivery
from holdfast.worker.histories import READERS, Histories
from holdfast.worker.outbox import MAX_UNSENT_BYTES, Outbox


class Desk:
    """Readers at work on a key of three versions: a value, null, and its deletion."""

    def __init__(self, store: ScriptedStore) -> None:
        self.store = store
        self.broker = RememberingBroker()
        self.outbox = Outbox(self.broker, stamp=dict)
        self.histories = Histories(engine_on(store), outbox=self.outbox, service_time=lambda: NOW)
        self.tags = 0

    def ask(self, id_: str, **fields: Any) -> Delivery:
        self.tags += 1
        taken = delivery(tag=self.tags)
        self.outbox.expect(taken, 1)
        self.histories.add(taken, HistoryCommand(op="history", key="k", id=id_, **fields))
        return taken

    async def idle(self) -> list[Any]:
        """The replies, once all have left."""
        async with asyncio.timeout(10):
            await self.outbox.idle()
        return [reply for _, _, reply in self.broker.replies]


@asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    store = await ScriptedStore.opened()
    await apply(engine_on(store.inner), save("k", {"n": 1}, id="a"), save("k", None, id="b"), delete("k", id="c"))
    made = Desk(store)
    tasks = [asyncio.create_task(made.histories.run()) for _ in range(READERS)]
    tasks.append(asyncio.create_task(made.outbox.run()))
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_history_tells_each_event_and_null_as_a_value() -> None:
    """Given a value, null and a deletion, when the history is asked for, then the first two have values."""
    async with desk() as it:
        it.ask("h")
        (reply,) = await it.idle()
    assert (reply["id"], reply["status"], reply["next"]) == ("h", "ok", None)
    assert [event.get("value", "none") for event in reply["events"]] == [{"n": 1}, None, "none"]
    assert [event["type"] for event in reply["events"]] == ["saved", "saved", "deleted"]


async def test_few_are_read_at_a_time_and_all_in_their_order() -> None:
    """Given a hundred histories at once, when they are read, then by as many readers as there are, oldest first."""
    reading = most = 0

    async def counted(proceed: Proceed, _: Any) -> Any:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        for _ in range(5):
            await asyncio.sleep(0)
        reading -= 1
        return await proceed()

    async with desk() as it:
        it.store.always("history", counted)
        for number in range(100):
            it.ask(f"h{number}", limit=1)
        replies = await it.idle()
    assert most == READERS
    assert [reply["id"] for reply in replies] == [f"h{number}" for number in range(100)]


async def test_what_comes_after_its_deadline_is_not_read() -> None:
    """Given histories whose senders have given up, when it is their turn, then they expire and cost no query."""
    async with desk() as it:
        it.ask("late", deadline=NOW - 1)
        it.ask("old", sent_at=NOW - 8 * 24 * 3600 * 1000)
        it.ask("in time", deadline=NOW)
        replies = await it.idle()
    assert {reply["id"]: reply["status"] for reply in replies} == {"late": "expired", "old": "expired", "in time": "ok"}
    assert [reply["error"]["code"] for reply in replies if "error" in reply] == ["deadline", "too_old"]
    # One for the events, and one to see that there are no more.
    assert it.store.calls["history"] == 2


async def test_a_store_that_is_away_is_an_answer() -> None:
    """Given a store that is away, when a history is asked for, then it is unavailable, and the next one is read."""
    async with desk() as it:
        it.store.script("history", away)
        it.ask("h1")
        it.ask("h2")
        replies = await it.idle()
    assert [(reply["status"], reply.get("error", {}).get("code")) for reply in replies] == [
        ("unavailable", "store_away"),
        ("ok", None),
    ]


@pytest.mark.parametrize("reply_to", ["q", None])
async def test_one_that_cannot_be_read_is_told_to_the_operator_too(reply_to: str | None) -> None:
    """Given a history that makes the worker fail, when it is read, then it is buried and answered, and others go on."""
    async with desk() as it:
        it.store.script("history", raising(RuntimeError("scripted")))
        it.tags += 1
        taken = delivery(tag=it.tags, reply_to=reply_to)
        it.outbox.expect(taken, 1)
        it.histories.add(taken, HistoryCommand(op="history", key="k", id="h1"))
        it.ask("h2")
        replies = await it.idle()
    assert [reply["status"] for reply in replies] == (["internal", "ok"] if reply_to else ["ok"])
    assert [(reason, detail) for _, reason, detail in it.broker.buried] == [("internal", "RuntimeError")]


async def test_no_page_is_read_while_there_is_no_room_for_it() -> None:
    """Given answers that cannot leave, when a history is asked for, then it is read once they have left."""
    async with desk() as it:
        it.outbox.unsent.take(MAX_UNSENT_BYTES)
        it.ask("h")
        for _ in range(50):
            await asyncio.sleep(0)
        assert it.store.calls["history"] == 0

        it.outbox.unsent.give(MAX_UNSENT_BYTES)
        (reply,) = await it.idle()
        assert reply["status"] == "ok"
        assert it.outbox.unsent.used == 0
