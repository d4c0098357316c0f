"""Our stores, for the contract suite, whose modules are in holdfast/contract/suite."""

import pytest

from holdfast.contract import MakeStore
from holdfast.stores import MemoryStore, MongoStore, projector


@pytest.fixture(params=["memory", "mongo"])
def make_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MakeStore:
    """Makes stores of each kind, in a corner of their own."""
    if request.param == "memory":
        return lambda name: MemoryStore(name=name)
    # What follows the log waits for something to come; here nothing else is waited for.
    monkeypatch.setattr(projector, "AWAIT_MS", 20)
    url: str = request.getfixturevalue("mongo_url")
    return lambda name: MongoStore(url, name=name)
