"""A primary that is cut off from the others and does not know that it was replaced: nothing it says may be believed.

The members of this set wait for a minute before they elect another primary on their own, so that a primary that was
replaced at the test's command stays in office until the test heals the network.
"""

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from support.commands import Operation, apply, brief, delete, first, one, read, request, requests, save, wire
from support.engines import Clock, engine_on

from chaos.cluster import until
from chaos.proxy import TO_CLIENT, TO_SERVER
from chaos.replicas import Partition, ProxiedReplicaSet
from holdfast.events import Event, StoreUnavailable, Topology, make_etag
from holdfast.local import MongoServer
from holdfast.stores import MongoStore
from holdfast.worker import Batch, Engine, Request

T = TypeVar("T")

#: What a driver sends to append to the log.
INSERT = b"insert\0"


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedReplicaSet]:
    """Three members behind proxies. Inserts land two documents at a time, so that they can be interrupted between."""
    servers = ProxiedReplicaSet(
        tmp_path_factory.mktemp("mongodb"),
        cache_gb=0.25,
        election_timeout=60,
        parameters={"enableTestCommands": 1, "internalInsertMaxBatchSize": 2},
    )
    servers.start()
    yield servers
    servers.kill()
    servers.stop_proxies()
    for member in servers.members:
        shutil.rmtree(member.directory / "data")


class Division:
    """A log as two workers see it: one by the address of the set, the other, later, by that of the new primary.

    When the network is divided, the first one reaches the old primary, and nobody else.
    """

    def __init__(self, replicas: ProxiedReplicaSet) -> None:
        self.replicas = replicas
        self.database = f"test_{uuid.uuid4().hex[:12]}"
        self.behind = MongoStore(replicas.url(self.database), timeout_seconds=0.5)
        self.ahead: MongoStore
        self.old: MongoServer
        self._partitions: list[Partition] = []

    async def divide(self) -> None:
        """Cut the primary off, with the first worker, and have the others elect another."""
        await asyncio.to_thread(self._divide)
        new = self.replicas.primary(other_than=self.old)
        self.ahead = MongoStore(new.url(self.database), timeout_seconds=20)
        await self.ahead.open()
        assert self.old.admin("hello")["isWritablePrimary"]

    def _divide(self) -> None:
        self.old = self.replicas.primary()
        others = [member for member in self.replicas.members if member is not self.old]
        self._partitions = [
            self.replicas.isolate(self.old),
            self.replicas.shut_out(lambda: [os.getpid()], members=others),
        ]
        self.replicas.elect(others[0])

    async def heal(self) -> None:
        """Join the network again, and wait until the old primary follows the new one."""
        for partition in self._partitions:
            await asyncio.to_thread(partition.heal)
        await asyncio.to_thread(self.replicas.wait_until_whole)

    def on(self, member: MongoServer) -> list[str]:
        """The ids of all that one member has of the log, whether a majority has it or not."""
        with member.client() as client:
            found = client[self.database]["default.events"].find({}, {"_id": 1})
            return [document["_id"]["c"] for document in found]

    async def log(self) -> list[tuple[str, int]]:
        """Key and version of all events, as a majority has them."""
        async with stores(self.replicas.url(self.database)) as (store,):
            await store.fence()
            return sorted([(record.key, record.version) async for record in store.scan() if isinstance(record, Event)])


class Hanging:
    """A place in a server's code at which it can be made to hang, as long as nothing interrupts it."""

    def __init__(self, server: MongoServer, place: str) -> None:
        self._server = server
        self._place = place
        self._entered = 0

    def begin(self, skip: int) -> None:
        """Let it pass so often, then hang."""
        data = {"shouldCheckForInterrupt": True}
        self._entered = self._configure({"skip": skip}, data=data)["count"]

    def wait(self) -> None:
        """Return when it hangs."""
        self._server.admin("waitForFailPoint", self._place, timesEntered=self._entered + 1, maxTimeMS=30_000)

    def end(self) -> None:
        """Let it pass."""
        self._configure("off")

    def _configure(self, mode: Any, **more: Any) -> dict[str, Any]:
        return self._server.admin("configureFailPoint", self._place, mode=mode, **more)


@asynccontextmanager
async def stores(*urls: str) -> AsyncIterator[list[MongoStore]]:
    """Stores that are open."""
    opened = [MongoStore(url) for url in urls]
    for store in opened:
        await store.open()
    yield opened
    for store in opened:
        await store.close()


@pytest.fixture
async def division(replicas: ProxiedReplicaSet) -> AsyncIterator[Division]:
    """A log that is not divided yet, and joined again afterwards."""
    division = Division(replicas)
    await division.behind.open()
    yield division
    await division.heal()
    await division.behind.close()
    if hasattr(division, "ahead"):
        await division.ahead.close()


async def unavailable(work: Coroutine[Any, Any, object]) -> None:
    """What may not be answered is not."""
    with pytest.raises(StoreUnavailable):
        await work


async def patiently(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """As a worker does: try it until the store is there."""
    while True:
        try:
            return await work()
        except StoreUnavailable:
            await asyncio.sleep(0.01)


async def tried(engine: Engine, *made: Request, until: Callable[[], bool]) -> Batch:
    """Try a batch, which is not to be answered, until something has come of it: a slow machine may need more tries."""
    while True:
        batch = Batch.of(list(made))
        await unavailable(engine.apply(batch))
        if until():
            return batch


async def answers_to(engine: Engine, *commands: Operation | Request) -> list[str]:
    """Apply one batch again and again until all is answered, and give the answers in brief."""
    made = requests(*commands)
    return await answers_of(engine, Batch.of(made), *made)


async def answers_of(engine: Engine, batch: Batch, *made: Request) -> list[str]:
    """As ``answers_to``, for a batch that may have been tried before."""
    await patiently(lambda: engine.apply(batch))
    return [brief(wire(each.answer)) for each in made]


def again(*made: Request) -> list[Request]:
    """As a worker sees them to whom they are delivered when another one has tried them, and given up."""
    for each in made:
        each.redelivered = True
    return list(made)


# What it must not say.


async def test_a_strong_read_is_never_answered_by_a_deposed_primary(division: Division) -> None:
    """Another primary has acknowledged a newer value: a strong read shows that one, or is not answered."""
    behind = engine_on(division.behind)
    await answers_to(behind, save("k", "old"), save("other", 1))
    await division.divide()
    await one(engine_on(division.ahead), save("k", "new"))

    # What makes this hard: the old primary has a majority for its past, and shows it.
    assert await patiently(lambda: division.behind.versions(["k"])) == {"k": 1}
    for commands in ([read("k")], [read("k"), save("other", 2)], [save("k", "x", etag="1-0"), read("k")]):
        await unavailable(apply(behind, *commands))
    fence = await division.ahead.fence()
    for look in (division.behind.heads, division.behind.versions):
        await unavailable(look(["k"], after=fence))
    await unavailable(division.behind.events([("k", 2)], after=fence))
    await unavailable(division.behind.find(["new"], after=fence))

    await division.heal()
    answer = await patiently(lambda: one(behind, read("k")))
    assert (answer["version"], answer["value"]) == (2, "new")


async def test_no_refusal_rests_on_a_deposed_primary(division: Division) -> None:
    """What would be refused by its past is not refused: what moved on, came or went meanwhile is not known there."""
    behind = engine_on(division.behind)
    await answers_to(behind, save("moved", 1), save("gone", 1), delete("came"), save("forgotten", 1))
    await division.divide()
    ahead = engine_on(division.ahead)
    moved, *_ = await apply(ahead, save("moved", 2), delete("gone"), save("came", 1), delete("forgotten"))

    made = requests(save("moved", 3, etag=moved["etag"]), first("gone", 2), delete("came"))
    for each in made:
        await unavailable(behind.apply(Batch.of([each])))
    assert [each.answer for each in made] == [None, None, None]

    await division.heal()
    assert await answers_to(behind, *again(*made)) == ["ok v3", "ok v3", "ok v2"]
    # Of this one it still knows what it was when it saw it last.
    assert behind.knowledge.head("forgotten") is not None
    assert await answers_to(behind, first("forgotten", 2)) == ["ok v3"]


async def test_what_a_deposed_primary_took_is_neither_acknowledged_nor_learned(division: Division) -> None:
    """It has the event and will lose it: nobody is told of it, and no decision rests on it.

    Otherwise the next write would leave a hole, into which a stale save with the etag before it fits.
    """
    behind = engine_on(division.behind)
    before = save("k", 1)
    await answers_to(behind, before)
    await division.divide()
    lost = request(save("k", "lost"))
    await tried(behind, lost, until=lambda: lost.command.id in division.on(division.old))
    # This time it finds the id in the log, with no majority for it.
    await unavailable(behind.apply(Batch.of([lost])))
    assert lost.answer is None
    head = behind.knowledge.head("k")
    assert head is None or head.version == 1
    eventual = await patiently(lambda: one(behind, read("k", consistency="eventual")))
    assert (eventual["version"], eventual["value"]) == (1, 1)
    await unavailable(division.behind.fence())
    await unavailable(division.behind.health())
    await unavailable(division.behind.agree(Topology(partitions=4)))

    await division.heal()
    assert lost.command.id not in division.on(division.old)
    assert await answers_to(behind, save("k", 2)) == ["ok v2"]
    assert await answers_to(behind, save("k", 3, etag=make_etag(1, before.id))) == ["conflict etag_mismatch"]
    # Its sender tries again, as it should.
    assert await answers_to(behind, *again(lost)) == ["ok v3"]
    assert await division.log() == [("k", 1), ("k", 2), ("k", 3)]


async def test_a_log_is_not_begun_on_a_deposed_primary(division: Division) -> None:
    """An index that only a deposed primary has will be gone: a store that needs it is not open."""
    await division.divide()
    store = MongoStore(division.replicas.url(division.database + "_other"), timeout_seconds=0.5)
    await unavailable(store.open())
    await division.heal()
    await patiently(store.open)
    await store.close()


async def test_who_knows_the_new_primary_leaves_the_old_one(division: Division) -> None:
    """A worker that reaches all members goes on with the new primary, although the old one still answers."""
    async with stores(division.replicas.url(division.database)) as (store,):
        engine = engine_on(store)
        await answers_to(engine, save("k", 1))
        old = await asyncio.to_thread(division.replicas.primary)
        partition = await asyncio.to_thread(division.replicas.isolate, old)
        new = next(member for member in division.replicas.members if member is not old)
        await asyncio.to_thread(division.replicas.elect, new)

        assert await answers_to(engine, save("k", 2)) == ["ok v2"]
        assert old.admin("hello")["isWritablePrimary"]
        for _ in range(20):
            assert await store.versions(["k"]) == {"k": 2}
        await asyncio.to_thread(partition.heal)


# What nobody knows, and is found out.


async def test_a_lost_answer_is_not_taken_for_a_lost_command(division: Division) -> None:
    """The append landed, its answer was lost, the deadline passed: it is told as what it is, applied."""
    clock = Clock()
    engine = engine_on(division.behind, clock)
    await answers_to(engine, save("k", 1))
    primary = await asyncio.to_thread(division.replicas.primary)
    trap = division.replicas.proxy(primary).trap(TO_CLIENT, request=INSERT)
    late = request(save("k", 2, deadline=clock.now() + 1000))
    batch = await tried(engine, late, until=lambda: trap.sprung)
    clock.pass_(10)
    assert await answers_of(engine, batch, late) == ["ok v2"]
    assert await division.log() == [("k", 1), ("k", 2)]


async def test_what_was_rolled_back_after_its_deadline_is_not_applied(division: Division) -> None:
    """Nobody knows what became of it, until the old primary has lost it: then it certainly was not applied."""
    clock = Clock()
    engine = engine_on(division.behind, clock)
    await answers_to(engine, save("k", 1))
    await division.divide()
    late = request(save("k", 2, deadline=clock.now() + 1000))
    batch = await tried(engine, late, until=lambda: late.command.id in division.on(division.old))
    clock.pass_(10)
    await unavailable(engine.apply(batch))
    await division.heal()
    assert await answers_of(engine, batch, late) == ["expired deadline"]
    assert await answers_to(engine, *again(request(late.command))) == ["expired deadline"]
    assert await division.log() == [("k", 1)]


async def test_an_append_that_arrives_late_does_no_harm(division: Division) -> None:
    """Two appends are held in the network until others went on without them: by their ids they come to nothing.

    One was refused meanwhile, because its deadline had passed; the other was sent again and applied, and overwritten.
    """
    clock = Clock()
    proxy = division.replicas.proxy(await asyncio.to_thread(division.replicas.primary))
    engine = engine_on(division.behind, clock)
    await answers_to(engine, save("k", 1))
    made = requests(save("k", 2, deadline=clock.now() + 1000), save("other", 1))
    trap = proxy.trap(TO_SERVER, containing=INSERT, holds=True)
    await tried(engine, *made, until=lambda: trap.sprung)
    clock.pass_(10)
    assert await answers_to(engine, *again(*made)) == ["expired deadline", "ok v1"]
    assert await answers_to(engine, save("other", 2), delete("other")) == ["ok v2", "ok v3"]

    def inserts() -> int:
        return int(division.replicas.primary().admin("serverStatus")["opcounters"]["insert"])

    before = inserts()
    trap.release()
    await until(lambda: inserts() > before, "the late append at the server")
    assert await division.log() == [("k", 1), ("other", 1), ("other", 2), ("other", 3)]


async def test_an_append_that_was_interrupted_in_the_middle(division: Division) -> None:
    """The primary steps down between two of an append's documents: all are applied, once, and without a hole."""
    async with stores(division.replicas.url(division.database)) as (store,):
        engine = engine_on(store)
        old = await asyncio.to_thread(division.replicas.primary)
        made = requests(*(save("k", number) for number in range(10)))
        hanging = Hanging(old, "hangDuringBatchInsert")
        await asyncio.to_thread(hanging.begin, 2)
        appending = asyncio.create_task(unavailable(engine.apply(Batch.of(made))))
        await asyncio.to_thread(hanging.wait)
        await asyncio.to_thread(division.replicas.step_down, 1)
        await appending
        await asyncio.to_thread(hanging.end)
        assert [each.answer for each in made] == [None] * 10
        assert division.on(old) == [each.command.id for each in made[:4]]

        others = [member for member in division.replicas.members if member is not old]
        await asyncio.to_thread(division.replicas.elect, others[0])
        assert await answers_to(engine, *again(*made)) == [f"ok v{number}" for number in range(1, 11)]
        assert await division.log() == [("k", version) for version in range(1, 11)]


async def test_a_fence_holds_across_an_election(division: Division) -> None:
    """What a majority had behind the old primary's fence is there behind it at the new primary, too."""
    await answers_to(engine_on(division.behind), save("k", 1))
    fence = await patiently(division.behind.fence)
    old = await asyncio.to_thread(division.replicas.primary)
    await asyncio.to_thread(division.replicas.elect, next(m for m in division.replicas.members if m is not old))
    assert await patiently(lambda: division.behind.versions(["k"], after=fence)) == {"k": 1}
    assert await division.behind.versions(["k"], after=await patiently(division.behind.fence)) == {"k": 1}
