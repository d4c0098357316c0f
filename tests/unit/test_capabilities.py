"""What a store may lack: told by what it is, and to the caller by a type of its own."""

from typing import Protocol, runtime_checkable

import pytest

from holdfast.client.calls import Call, to_error
from holdfast.events import Reply, UnsupportedError
from holdfast.stores import EventStore, MemoryStore, lacking, unsupported
from holdfast.stores.capabilities import NEEDS


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


async def test_the_caller_is_told_by_a_type_of_its_own() -> None:
    """Given the answer to such a command, when the client reads it, then it is an UnsupportedError."""
    reply = Reply.model_validate({"id": "x", **unsupported("scratch", "flying")})
    error = to_error(reply, Call("x", "scratch", "k", b"", mutates=True, reply=None))  # type: ignore[arg-type]
    assert isinstance(error, UnsupportedError)
    assert str(error) == "the store 'scratch' does not offer flying"
    with pytest.raises(ValueError, match="flying"):
        raise error
