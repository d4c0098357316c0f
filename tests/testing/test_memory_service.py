"""holdfast.testing: a service in memory with the real engine."""

import asyncio
import threading

import pytest

import holdfast
from holdfast.testing import AccessConfig, AccessRule, MemoryService, Service


async def test_a_service_answers_as_a_worker_does(holdfast_service: Service) -> None:
    """Given the fixture, when the calls are made, then versions, etags, conflicts and history are a worker's."""
    async with holdfast_service.connect() as client:
        first = await client.save("user/42", {"name": "Ada"})
        second = await client.save("user/42", {"name": "Eve"}, etag=first.etag)
        with pytest.raises(holdfast.ConflictError) as stale:
            await client.save("user/42", {"name": "Bob"}, etag=first.etag)
        assert (second.version, stale.value.actual) == (2, second.etag)
        assert await client.delete("user/42", etag=second.etag)
        assert await client.read("user/42") is None
        assert [event.type for event in await client.history("user/42")] == ["saved", "saved", "deleted"]


async def test_the_client_fixture_is_connected(holdfast_client: holdfast.Client) -> None:
    """Given the fixture of a client, when it is used, then it works without more ado."""
    assert (await holdfast_client.save("a", 1)).version == 1


async def test_each_test_has_a_service_of_its_own(holdfast_client: holdfast.Client) -> None:
    """Given what another test has saved, when this one looks, then there is nothing."""
    assert await holdfast_client.read("a") is None


async def test_an_id_takes_effect_once() -> None:
    """Given a command that was applied, when it is sent again under its id, then it gets the same answer."""
    with MemoryService() as service:
        async with service.connect() as client:
            first = await client.save("a", 1, id="c1")
            again = await client.save("a", 1, id="c1")
            assert (again.etag, again.version) == (first.etag, 1)
            with pytest.raises(holdfast.IdReusedError):
                await client.save("a", 2, id="c1")


async def test_stores_are_those_that_were_named() -> None:
    """Given a service of two stores, when a third one is used, then there is none."""
    with MemoryService(stores=["default", "carts"]) as service:
        async with service.connect() as client:
            await client.save("a", 1, store="carts")
            assert await client.read("a") is None
            with pytest.raises(holdfast.UnknownStoreError):
                await client.save("a", 1, store="profiles")


async def test_access_rules_hold() -> None:
    """Given rules, when users act, then each may do what his rule says."""
    own = AccessRule(user="*", store="*", key="user/${user}/*", operations=["*"])
    with MemoryService(access=AccessConfig(default="closed", rules=[own])) as service:
        async with service.connect(user="ada") as ada, service.connect(user="eve") as eve:
            await ada.save("user/ada/cart", 1)
            with pytest.raises(holdfast.DeniedError):
                await eve.read("user/ada/cart")
            history = await ada.history("user/ada/cart")
            assert history[0].author == "ada"


def test_state_outlives_event_loops() -> None:
    """Given a service, when one event loop after another uses it, then it is the same state."""

    async def count(service: Service) -> int:
        async with service.connect() as client:
            return (await client.save("runs", None)).version

    with MemoryService() as service:
        assert [asyncio.run(count(service)) for _ in range(3)] == [1, 2, 3]


async def test_time_passes_when_it_is_told_to() -> None:
    """Given a service, when an hour is let pass, then service time is later, and calls are not too late for it."""
    with MemoryService() as service:
        async with service.connect() as client:
            before = await client.save("a", 1)
            service.advance(3600)
            after = await client.save("a", 2)
            assert after.updated_at_ms - before.updated_at_ms >= 3_600_000
        with pytest.raises(ValueError, match="never goes back"):
            service.advance(-1)


def test_time_is_told_to_clients_of_other_threads() -> None:
    """Given a client in a thread of its own, when time is let pass here, then its calls are not too late."""
    ready, go = threading.Event(), threading.Event()
    versions: list[int] = []

    async def work(service: Service) -> None:
        async with service.connect() as client:
            ready.set()
            await asyncio.to_thread(go.wait)
            versions.append((await client.save("a", 1)).version)

    with MemoryService() as service:
        thread = threading.Thread(target=lambda: asyncio.run(work(service)))
        thread.start()
        ready.wait()
        service.advance(7200)
        go.set()
        thread.join()
    assert versions == [1]


async def test_many_callers_at_once_share_it() -> None:
    """Given two clients with a thousand updates of one counter, when all are done, then none is lost."""
    with MemoryService() as service:
        async with service.connect() as one, service.connect() as two:
            handles = [client.state("counter", int, default=int) for client in (one, two) for _ in range(10)]
            await asyncio.gather(*(handle.update(lambda count: count + 1) for handle in handles for _ in range(5)))
            found = await one.read("counter")
            assert found is not None
            assert (found.value, found.version) == (100, 100)


async def test_after_its_end_calls_fail_instead_of_waiting() -> None:
    """Given a service that has ended, when its client calls, then it fails as one that has no service."""
    service = MemoryService()
    async with service.connect() as client:
        await client.save("a", 1)
        service.close()
        with pytest.raises(holdfast.HoldfastError):
            await client.save("a", 2, timeout=0.2)
