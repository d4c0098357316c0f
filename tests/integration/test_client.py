"""The client against a real broker, a real worker and a real database."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import aio_pika
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.service import Service, running_worker

import holdfast
from holdfast import (
    Client,
    ClosedError,
    ConflictError,
    DeniedError,
    Entry,
    InvalidError,
    OutcomeUnknown,
    Save,
    TooLargeError,
    Unavailable,
    UnknownStoreError,
)
from holdfast.local import MongoReplicaSet, RabbitServer


@pytest.fixture(scope="module")
def shared(rabbit: RabbitServer, mongo: MongoReplicaSet) -> Iterator[Service]:
    """One service for the tests of this file; each has keys of its own."""
    rabbit.create_vhosts(["client"])
    with running_worker(rabbit.url("client"), mongo.url("client")) as service:
        yield service
    rabbit.delete_vhosts(["client"], wait=False)


@pytest.fixture
async def client(shared: Service) -> AsyncIterator[Client]:
    async with holdfast.connect(shared.amqp_url) as client:
        yield client


async def test_a_key_is_saved_read_and_deleted(client: Client) -> None:
    """A key goes through its life, and each step tells version, etag and time."""
    saved = await client.save("life/1", {"name": "Ada"}, metadata={"by": "test"})
    assert (saved.version, saved.store, saved.key) == (1, "default", "life/1")
    assert await client.read("life/1") == saved

    changed = await client.save("life/1", {"name": "Eve"}, etag=saved.etag)
    assert changed.version == 2
    assert changed.updated_at >= saved.updated_at
    assert await client.read("life/1", consistency="eventual") == changed

    with pytest.raises(ConflictError) as conflict:
        await client.delete("life/1", etag=saved.etag, return_current=True)
    assert (conflict.value.actual, conflict.value.current) == (changed.etag, {"name": "Eve"})
    assert await client.delete("life/1", etag=changed.etag)
    assert not await client.delete("life/1")
    assert await client.read("life/1") is None
    with pytest.raises(ConflictError):
        await client.save("life/1", 1, etag=changed.etag)
    assert (await client.save("life/1", None, first_write=True)).version == 4


async def test_many_keys_at_once(client: Client) -> None:
    """Many reads and saves are one call each, with an outcome for every key."""
    saves: list[Save] = [Save(f"many/{number}", number) for number in range(100)]
    outcomes = await client.save_many([*saves, Save("many/7b", 1, etag="1-nothing"), Save("many/\0", 1)])

    assert isinstance(outcomes["many/7b"], ConflictError)
    assert isinstance(outcomes["many/\0"], InvalidError)
    found = await client.read_many([*outcomes][:-1])
    assert list(found) == list(outcomes)[:-1]
    assert all(found[save.key] == outcomes[save.key] for save in saves)
    assert found["many/7b"] is None


async def test_a_history_is_read_in_pages(client: Client) -> None:
    """Pages follow one another by version, through deletes, and large values are no obstacle to one page."""
    for number in range(4):
        await client.save("history/1", "x" * 600_000 + str(number), metadata={"step": str(number)})
    await client.delete("history/1")

    everything = await client.history("history/1")
    pages = [await client.history("history/1", after_version=after, limit=2) for after in (0, 2, 4, 5)]

    assert [(event.version, event.type) for event in everything] == [
        (1, "saved"),
        (2, "saved"),
        (3, "saved"),
        (4, "saved"),
        (5, "deleted"),
    ]
    assert [event.version for page in pages for event in page] == [1, 2, 3, 4, 5]
    assert [event.metadata for event in everything[:2]] == [{"step": "0"}, {"step": "1"}]
    assert everything[0].author == "holdfast"


async def test_the_service_describes_itself(client: Client, shared: Service) -> None:
    """Partitions, stores, limits and a time near ours."""
    description = await client.describe()

    assert description.partitions == shared.partitions
    assert description.stores == ("default",)
    assert description.protocol == (1, 1)
    assert description.max_value_bytes == 2**20
    assert description.capabilities == {"default": {"erasing", "expiry", "indexes", "inspection", "transactions"}}
    assert abs(description.time.timestamp() - time.time()) < 60


scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
values = st.recursive(
    scalars | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


def test_values_come_back_exactly_as_they_were_given(shared: Service) -> None:
    """Whatever JSON can say survives the whole way and back, types included, from memory as from the log."""
    with asyncio.Runner() as runner:
        client = holdfast.connect(shared.amqp_url)
        runner.run(client.open())

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(values)
        def comes_back(value: Any) -> None:
            entry = runner.run(client.save("exact", value))
            found = runner.run(client.read("exact"))
            logged = runner.run(client.history("exact", after_version=entry.version - 1))[0]
            assert found is not None
            assert repr(found.value) == repr(value)
            assert repr(logged.value) == repr(value)

        comes_back()
        runner.run(client.close())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_counters_lose_no_increment_and_count_none_twice(
    shared: Service, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """64 handles of two clients count up one key at once, on either event loop, and every step is there once."""

    async def count() -> None:
        key = f"counter/{loop.__module__}"
        async with holdfast.connect(shared.amqp_url) as one, holdfast.connect(shared.amqp_url) as other:
            handles = [client.state(key, int, default=int, timeout=60) for client in (one, other) for _ in range(32)]
            results = await asyncio.gather(
                *(handle.update(lambda number: number + 1, attempts=1000) for handle in handles)
            )
            entry = await one.read(key)
            assert entry is not None
            assert (entry.value, entry.version) == (64, 64)
            assert sorted(results) == list(range(1, 65))

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(count())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_two_thousand_calls_at_once(shared: Service, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A burst of saves, reads and deletes is answered whole, and per key in the order of the calls."""

    async def burst() -> None:
        prefix = f"burst/{loop.__module__}"
        async with holdfast.connect(shared.amqp_url, max_in_flight=1500) as client:
            calls: list[Awaitable[Any]] = []
            for number in range(500):
                key = f"{prefix}/{number}"
                calls += [client.save(key, number), client.read(key), client.delete(key), client.read(key)]
            outcomes = await asyncio.gather(*calls)
            for number in range(500):
                saved, there, deleted, gone = outcomes[4 * number : 4 * number + 4]
                assert isinstance(saved, Entry)
                assert there == saved
                assert deleted is True
                assert gone is None

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(burst())


async def test_values_up_to_the_limit_are_kept_and_larger_ones_refused(client: Client) -> None:
    """A value of exactly the limit is kept; one byte more, and far more, is TooLargeError, and harms nobody else."""
    limit = 2**20 - 2  # the quotes of a JSON text
    results = await asyncio.gather(
        client.save("large/fits", "x" * limit),
        client.save("large/over", "x" * (limit + 1)),
        client.save("large/far-over", "x" * (20 * 2**20)),
        client.save("large/beside", 1),
        return_exceptions=True,
    )

    assert isinstance(results[0], Entry)
    assert isinstance(results[1], TooLargeError)
    assert isinstance(results[2], TooLargeError)
    assert isinstance(results[3], Entry)
    found = await client.read("large/fits")
    assert found is not None
    assert len(found.value) == limit


async def test_many_large_values_at_once(client: Client) -> None:
    """Replies of more than a message may hold come in parts: 32 values of almost 1 MiB are read in one go."""
    value = "x" * (2**20 - 100)
    await client.save_many({f"big/{number}": value for number in range(32)})

    found = await client.read_many([f"big/{number}" for number in range(32)])

    assert all(entry is not None and entry.value == value for entry in found.values())


async def test_mistakes_are_told_apart(client: Client) -> None:
    """A store that is not there, metadata that is too long and a page that is too large each have their error."""
    with pytest.raises(UnknownStoreError):
        await client.save("k", 1, store="elsewhere")
    with pytest.raises(InvalidError) as metadata:
        await client.save("k", 1, metadata={"why": "x" * 5000})
    with pytest.raises(InvalidError) as limit:
        await client.history("k", limit=1001)
    with pytest.raises(InvalidError):
        await client.read("k" * 513)

    assert (metadata.value.field, limit.value.field) == ("metadata", "limit")


async def test_a_repeat_under_one_id_has_the_first_answer(client: Client) -> None:
    """A command id takes effect once, also after the key has moved on, and is refused for anything else."""
    first = await client.save("repeat/1", 1, id="repeat-1")
    await client.save("repeat/1", 2)

    again = await client.save("repeat/1", 1, id="repeat-1")
    with pytest.raises(InvalidError, match="earlier command"):
        await client.save("repeat/1", 3, id="repeat-1")

    assert again == first
    found = await client.read("repeat/1")
    assert found is not None
    assert (found.value, found.version) == (2, 2)


async def test_a_client_that_is_not_open_says_so(shared: Service) -> None:
    """Calls before opening and after closing are ClosedError, also for handles."""
    client = holdfast.connect(shared.amqp_url)
    state = client.state("k", int)
    with pytest.raises(ClosedError):
        await client.read("k")
    async with client:
        await state.read()
    with pytest.raises(ClosedError):
        await state.read()


async def test_without_a_worker_opening_fails_in_time_and_says_why(amqp_url: str) -> None:
    """On a broker where no worker ever ran, and on one whose worker is gone, opening is Unavailable and names it."""
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"no Holdfast worker answered.*holdfast worker"):
            async with holdfast.connect(amqp_url, timeout=1):
                pass
        assert time.monotonic() - began < 15
        connection = await aio_pika.connect(amqp_url)
        async with connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange("holdfast.commands", durable=True)
            queue = await channel.declare_queue(
                "holdfast.commands.0", durable=True, arguments={"x-queue-type": "quorum"}
            )
            await queue.bind(exchange, "0")


async def test_a_client_that_came_before_the_worker_is_served(amqp_url: str, mongo_url: str) -> None:
    """Opening goes on trying until its timeout, so that clients and workers can be started in any order."""
    opening = asyncio.create_task(holdfast.connect(amqp_url, timeout=60).__aenter__())

    def serve() -> Any:
        return running_worker(amqp_url, mongo_url)

    service = serve()
    await asyncio.to_thread(service.__enter__)
    try:
        client = await opening
        assert (await client.save("k", 1)).version == 1
        await client.close()
    finally:
        await asyncio.to_thread(service.__exit__, None, None, None)


async def test_a_wrong_password_is_a_clear_error_and_is_not_shown(
    rabbit: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused login is Unavailable at once, and neither the error nor any log line has the password."""
    url = rabbit.url().replace(rabbit.password, "correct-horse")
    with caplog.at_level(logging.DEBUG), pytest.raises(Unavailable, match="refused the login") as refused:
        async with holdfast.connect(url):
            pass

    assert "holdfast:***@" in str(refused.value)
    assert "correct-horse" not in str(refused.value)
    told = [record for record in caplog.records if record.name.startswith("holdfast")]
    assert not any("correct-horse" in record.getMessage() for record in told)


async def test_a_user_without_rights_is_told_which_one_is_missing(shared: Service, rabbit: RabbitServer) -> None:
    """Without rights on a reply queue, and without the right to publish, opening fails at once and leaves nothing."""
    vhost = "client"

    def allow(configure: str, write: str, read: str) -> None:
        rabbit.ctl("set_permissions", "-p", vhost, "outsider", configure, write, read)

    await asyncio.to_thread(rabbit.ctl, "add_user", "outsider", "pw")
    url = shared.amqp_url.replace(f"{rabbit.user}:{rabbit.password}", "outsider:pw")
    await asyncio.to_thread(allow, "^$", "^$", "^$")
    with pytest.raises(Unavailable, match="ChannelAccessRefused"):
        async with holdfast.connect(url):
            pass
    await asyncio.to_thread(allow, "^amq.gen-.*", "^$", "^amq.gen-.*")
    with pytest.raises(DeniedError, match=r"write to holdfast\.commands"):
        async with holdfast.connect(url):
            pass
    await asyncio.to_thread(allow, "^amq.gen-.*", r"^holdfast\.commands$", "^amq.gen-.*")
    async with holdfast.connect(url) as client:
        await client.save("outsider", 1)
        assert (await client.history("outsider"))[0].author == "outsider"

    await asyncio.to_thread(rabbit.ctl, "delete_user", "outsider")


async def test_closing_with_calls_under_way_leaves_nothing_behind(shared: Service) -> None:
    """A client closed, or whose opening is given up, in the middle of things ends all it has begun."""
    before = asyncio.all_tasks()
    for _ in range(3):
        client = holdfast.connect(shared.amqp_url)
        await client.open()
        calls = [asyncio.create_task(client.save(f"closing/{number}", "x" * 1000)) for number in range(500)]
        await asyncio.sleep(0)
        await client.close()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {Entry, ClosedError, OutcomeUnknown}
    for pause in (0.0, 0.005, 0.02, 0.03):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause), holdfast.connect(shared.amqp_url):
                pass

    # What was given up in the middle of connecting says goodbye by itself.
    async with asyncio.timeout(60):
        while left := asyncio.all_tasks() - before:
            await asyncio.wait(left)


async def test_a_broker_that_is_not_there_is_a_clear_error(rabbit: RabbitServer) -> None:
    """No listener, a virtual host that does not exist, and something that does not speak AMQP are Unavailable."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    urls = ["amqp://127.0.0.1:1/", rabbit.url("no-such-vhost")]
    servers = [await asyncio.start_server(what, "127.0.0.1", 0) for what in (hang_up, speak_http, say_nothing)]
    urls += [f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}/" for server in servers]
    for url in urls:
        with pytest.raises(Unavailable):
            async with holdfast.connect(url, timeout=1):
                pass
    for server in servers:
        server.close()
        await server.wait_closed()


async def test_clients_of_one_process_do_not_get_in_each_others_way(shared: Service) -> None:
    """Clients opened and closed beside each other, with calls under way, disturb no other one."""
    async with holdfast.connect(shared.amqp_url) as steady:

        async def come_and_go(number: int) -> None:
            async with holdfast.connect(shared.amqp_url) as client:
                await client.save(f"guest/{number}", number)

        async def work() -> None:
            for number in range(50):
                await steady.save("steady", number)

        await asyncio.gather(work(), *(come_and_go(number) for number in range(10)))
        found = await steady.read("steady")
        assert found is not None
        assert found.version == 50
