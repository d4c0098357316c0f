"""What a store may lack: told by what it is, and to the caller by a type of its own."""

from typing import Protocol, runtime_checkable

import pytest

from holdfast.client.calls import Call, to_error
from holdfast.events import Reply, UnsupportedError
from holdfast.stores import EventStore, MemoryStore, MongoStore, lacking, offered, unsupported
from holdfast.stores.capabilities import CAPABILITIES, NEEDS
from holdfast.testing import MemoryService
from holdfast.worker import session


@runtime_checkable
class Flying(EventStore, Protocol):
    """What no store of ours can."""

    async def fly(self) -> None:
        """Up."""


def test_an_operation_is_lacking_where_its_capability_is() -> None:
    """Given operations and what they need, when a store is asked, then it lacks those whose protocol it is not."""
    assert lacking(MemoryStore(), {"fly": Flying, "keep": EventStore}) == {"fly"}


def test_our_own_stores_lack_nothing() -> None:
    """Given the operations that there are, when a store of ours is asked, then it serves them all."""
    assert lacking(MemoryStore(), NEEDS) == set()


class Unerasable(MemoryStore):
    """A store that lacks a part of what makes the capability."""

    strip = None  # type: ignore[assignment]


def test_every_capability_has_its_name() -> None:
    """Given a store, when it is asked what it offers, then it tells all of that by name, and nothing that it lacks."""
    ours = ["erasing", "expiry", "indexes", "inspection", "transactions"]
    assert offered(MemoryStore()) == offered(MongoStore("mongodb://nowhere/")) == ours == sorted(CAPABILITIES)
    assert offered(Unerasable()) == ours[1:]
    # What an operation needs is what somebody can be told of.
    assert set(NEEDS.values()) <= set(CAPABILITIES.values())


async def test_the_service_tells_what_each_store_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given stores that offer this and that, when the service describes itself, then it tells so, store by store."""
    monkeypatch.setattr(session, "offered", lambda store: ["transactions"] if store.name == "scratch" else [])
    with MemoryService(stores=("default", "scratch")) as service:
        async with service.connect() as client:
            description = await client.describe()
    assert description.capabilities == {"default": frozenset(), "scratch": {"transactions"}}


async def test_the_caller_is_told_by_a_type_of_its_own() -> None:
    """Given the answer to such a command, when the client reads it, then it is an UnsupportedError."""
    reply = Reply.model_validate({"id": "x", **unsupported("scratch", "flying")})
    error = to_error(reply, Call("x", "scratch", "k", b"", mutates=True, reply=None))  # type: ignore[arg-type]
    assert isinstance(error, UnsupportedError)
    assert str(error) == "the store 'scratch' does not offer flying"
    with pytest.raises(ValueError, match="flying"):
        raise error
