"""The synchronous client: the same calls, for programs without an event loop."""

import asyncio
import inspect
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import holdfast
from holdfast import Client, Entity, PersistentState, SyncClient, SyncState, persistent
from holdfast.testing import MemoryService, Service


class Counter(Entity):
    count: PersistentState[int] = persistent(default=int)


@pytest.fixture
def client(holdfast_service: Service) -> Iterator[SyncClient]:
    with holdfast_service.connect_sync() as client:
        yield client


def test_the_calls_block_until_they_are_answered(client: SyncClient) -> None:
    """Given no event loop, when the calls are made, then they give back what those of the async client do."""
    saved = client.save("user/42", {"name": "Ada"})
    entry = client.read("user/42", consistency="eventual")
    assert entry is not None
    assert (entry.value, entry.etag) == ({"name": "Ada"}, saved.etag)
    with pytest.raises(holdfast.ConflictError):
        client.save("user/42", 1, etag="1-0000")
    assert client.delete("user/42", etag=saved.etag)
    assert client.read("user/42") is None
    assert [event.type for event in client.history("user/42")] == ["saved", "deleted"]
    assert [event.version for event in client.iter_history("user/42")] == [1, 2]
    assert set(client.save_many({"a": 1, "b": 2})) == {"a", "b"}
    assert client.delete_many(["a", "c"]) == {"a": True, "c": False}
    assert [entry and entry.value for entry in client.read_many(["a", "b"]).values()] == [None, 2]
    assert client.describe().stores == ("default",)


def test_a_handle_blocks_too(client: SyncClient) -> None:
    """Given a handle, when it is read, written, updated and cleared, then it shows what it would elsewhere."""
    cart = client.state("cart", list[str], default=list)
    cart.read()
    cart.read(consistency="eventual")
    assert (cart.key, cart.exists, cart.etag, cart.version) == ("cart", False, None, 0)
    cart.value.append("apple")
    cart.write()
    assert cart.update(lambda items: items.append("pear")) == ["apple", "pear"]
    cart.value = []
    cart.write()
    cart.clear()
    assert not cart.exists
    assert [revision.value for revision in cart.history()] == [["apple"], ["apple", "pear"], [], None]


def test_a_transaction_is_sent_at_the_end_of_its_block(client: SyncClient) -> None:
    """Given steps, when the block ends, then all of them are done; when it is left by an exception, none is."""
    with client.transaction() as both:
        both.save("a", 1)
        both.save("b", 2)
    assert [result.version for result in both.results] == [1, 1]
    with pytest.raises(KeyError), client.transaction() as neither:  # noqa: PT012 - the block is what it is about
        neither.save("a", 3)
        raise KeyError
    with pytest.raises(holdfast.ConflictError):
        client.transact([holdfast.Save("a", 4), holdfast.Delete("b", etag="1-0000")])
    assert [entry and entry.value for entry in client.read_many(["a", "b"]).values()] == [1, 2]


def test_many_threads_share_one_client(client: SyncClient) -> None:
    """Given eight threads, when all update one counter by one client, then no update is lost."""
    handles = [client.state("counter", int, default=int) for _ in range(8)]

    def work(handle: SyncState[int]) -> None:
        for _ in range(20):
            handle.update(lambda count: count + 1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, handles))
    found = client.read("counter")
    assert found is not None
    assert found.value == 160


def test_what_has_no_call_of_its_own_is_run(client: SyncClient) -> None:
    """Given an async function, when it is run, then it has the async client, in that one's thread."""

    async def work(inner: Client) -> int:
        async with inner.activate(Counter, "c") as counter:
            counter.count.value += 1
            await counter.count.write()
            return counter.count.version

    assert client.run(work) == 1


def test_an_iteration_that_is_broken_off_leaves_nothing_behind(client: SyncClient) -> None:
    """Given a history, when somebody stops in the middle of it, then the client goes on, and closes."""
    for number in range(5):
        client.save("a", number)
    for event in client.iter_history("a"):
        if event.version == 2:
            break
    assert client.save("a", 5).version == 6


def test_a_call_in_the_clients_own_thread_is_an_error_and_no_deadlock(client: SyncClient) -> None:
    """Given a function for update that calls the client itself, when it runs, then that is an error at once."""
    state = client.state("a", int, default=int)
    with pytest.raises(RuntimeError, match="wait for its own end"):
        state.update(lambda count: count + client.save("b", 1).version)
    assert client.save("b", 1).version == 1


def test_an_interrupt_ends_the_waiting_and_the_work(client: SyncClient) -> None:
    """Given a call that waits, when Ctrl-C comes, then it ends, what it waited for too, and the client goes on."""
    ended = threading.Event()

    async def wait_for_ever(_: Client) -> None:
        caller = threading.main_thread().ident
        assert caller is not None
        while sys._current_frames()[caller].f_code.co_name != "wait":  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0)
        signal.pthread_kill(caller, signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        client.run(wait_for_ever)
    assert ended.wait(10)
    assert client.save("b", 1).version == 1


def test_it_is_open_only_in_its_block(holdfast_service: Service) -> None:
    """Given a client before and after its block, when it is used, then it says that it is not open."""
    client = holdfast_service.connect_sync()
    state = client.state("a", int, default=int)
    for use in (lambda: client.save("a", 1), lambda: state.read(), lambda: client.run(Client.describe)):
        with pytest.raises(holdfast.ClosedError):
            use()
    with client, pytest.raises(holdfast.ClosedError, match="already"):
        client.open()
    client.close()
    with pytest.raises(holdfast.ClosedError):
        client.save("a", 1)
    assert not [thread for thread in threading.enumerate() if thread.name == "holdfast-client"]


def test_a_service_that_is_not_there_is_said_at_once() -> None:
    """Given no broker, when the client is opened, then that fails as the async one does, and leaves no thread."""
    with pytest.raises(holdfast.Unavailable), holdfast.connect_sync("amqp://127.0.0.1:1/", timeout=5):
        raise AssertionError("it was opened")
    assert not [thread for thread in threading.enumerate() if thread.name == "holdfast-client"]


def test_both_clients_share_a_service() -> None:
    """Given a service, when a blocking client writes, then an async one of another loop reads it."""

    async def read(service: MemoryService) -> object:
        async with service.connect() as client:
            entry = await client.read("a")
            return entry and entry.value

    with MemoryService() as service, service.connect_sync() as client:
        client.save("a", 1)
        assert asyncio.run(read(service)) == 1


def test_every_call_is_there_with_the_same_parameters() -> None:
    """Given the async client and handle, when the blocking ones are compared, then no call is missing or differs."""
    for asynchronous, blocking, elsewhere in (
        # Entities and what is watched are for `run`; the last three are for watches.
        (Client, SyncClient, {"open", "close", "activate", "watch", "ask", "opened", "feed_mode"}),
        # What an update is given may be a coroutine function there; the other is for handles among themselves.
        (PersistentState, SyncState, {"update", "start_writing"}),
    ):
        for name in dir(asynchronous):
            call = getattr(asynchronous, name)
            if name.startswith("_") or name in elsewhere or not callable(call):
                continue
            mine = getattr(blocking, name, None)
            assert mine is not None, f"{blocking.__name__}.{name} is missing"
            wanted, found = (
                [(each.name, each.kind, each.default) for each in inspect.signature(one).parameters.values()]
                for one in (call, mine)
            )
            assert found[1:] == wanted[1:], name
    assert (
        inspect.signature(holdfast.connect).parameters.keys()
        == inspect.signature(holdfast.connect_sync).parameters.keys()
    )
