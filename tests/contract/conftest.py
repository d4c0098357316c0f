"""Every store has to pass the tests in this folder. To try another one, add it to ``store``."""

from collections.abc import AsyncIterator, Callable

import pytest

from holdfast.stores import EventStore, MemoryStore, MongoStore


@pytest.fixture(params=["memory", "mongo"])
def closed_store(request: pytest.FixtureRequest) -> EventStore:
    """An empty store, not opened yet."""
    if request.param == "memory":
        return MemoryStore()
    return MongoStore(request.getfixturevalue("mongo_url"))


@pytest.fixture(params=["memory", "mongo"])
def named_store(request: pytest.FixtureRequest) -> Callable[[str], EventStore]:
    """Makes a store of a name, without opening it."""
    if request.param == "memory":
        return lambda name: MemoryStore(name=name)
    return lambda name: MongoStore("mongodb://127.0.0.1", name=name)


@pytest.fixture
async def store(closed_store: EventStore) -> AsyncIterator[EventStore]:
    """An empty store."""
    await closed_store.open()
    yield closed_store
    await closed_store.close()
