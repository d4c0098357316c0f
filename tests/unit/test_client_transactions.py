"""Transactions at the client's end: what is sent, what comes back, and what is refused before anything is sent."""

from collections.abc import Sequence
from typing import Any

import pytest

from holdfast import (
    Check,
    ClosedError,
    ConflictError,
    Delete,
    InvalidError,
    OutboxMessage,
    Save,
    SeveralStoresError,
    Step,
    StepResult,
    Transaction,
)
from holdfast.client.calls import Call, to_error
from holdfast.client.transactions import to_operations, to_results
from holdfast.events import ErrorInfo, OperationReply, Reply


def test_steps_on_the_wire() -> None:
    """Only what was said is there, so that what a command means does not depend on defaults."""
    steps = [
        Save("a", {"n": 1}),
        Save("b", None, etag="e"),
        Save("c", 1, first_write=True),
        Delete("d"),
        Delete("e", "e"),
        Check("f", etag="e"),
        Check("g", exists=False),
    ]
    assert to_operations(steps) == [
        {"op": "save", "key": "a", "value": {"n": 1}},
        {"op": "save", "key": "b", "value": None, "etag": "e"},
        {"op": "save", "key": "c", "value": 1, "concurrency": "first-write"},
        {"op": "delete", "key": "d"},
        {"op": "delete", "key": "e", "etag": "e"},
        {"op": "check", "key": "f", "etag": "e"},
        {"op": "check", "key": "g", "exists": False},
    ]


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([], "bad_operations"),
        ([Step("k")], "bad_operations"),
        ([Check("k")], "bad_check"),
        ([Check("k", etag="e", exists=True)], "bad_check"),
        ([Save("", 1)], "bad_key"),
        ([Save("k", {1: 2})], "bad_value"),
    ],
)
def test_what_cannot_be_meant(steps: list[Step], code: str) -> None:
    with pytest.raises(InvalidError) as caught:
        to_operations(steps)
    assert caught.value.code == code


def test_results() -> None:
    """Of a key that may not be read there is nothing but its name."""
    reply = Reply(
        status="ok",
        results=[
            OperationReply(key="a", exists=True, etag="2-x", version=2, changed=True, updated_at=1_700_000_000_123),
            OperationReply(key="b"),
        ],
    )
    told, hidden = to_results(reply)
    assert told == StepResult("a", True, "2-x", 2, True, 1_700_000_000_123)
    assert told.updated_at is not None
    assert told.updated_at.isoformat(timespec="milliseconds") == "2023-11-14T22:13:20.123+00:00"
    assert hidden == StepResult("b")
    assert hidden.updated_at is None


def error_of(status: str, **info: Any) -> BaseException:
    reply = Reply(id="t", status=status, error=ErrorInfo(message="no", **info), version=3)
    call = Call("t", "default", "first", b"{}", True, None, attempts=1)  # type: ignore[arg-type]
    return to_error(reply, call)


def test_a_conflict_is_of_the_operation_that_is_named() -> None:
    conflict = error_of("conflict", code="absent", operation=2, key="third", expected=None, actual=None)
    assert isinstance(conflict, ConflictError)
    assert (conflict.operation, conflict.key, conflict.version) == (2, "third", 3)
    assert str(conflict) == "operation 2, 'third': expected present, found absent"
    single = error_of("conflict", code="etag_mismatch", expected="e", actual="f")
    assert isinstance(single, ConflictError)
    assert (single.operation, single.key) == (None, "first")


def test_several_stores_are_an_error_of_their_own() -> None:
    error = error_of("invalid", code="several_stores", field="operations[1].store")
    assert isinstance(error, SeveralStoresError)
    assert isinstance(error, InvalidError)
    assert (error.code, error.field) == ("several_stores", "operations[1].store")


class Sent:
    """Takes what a transaction sends."""

    def __init__(self) -> None:
        self.steps: list[list[Step]] = []
        self.messages: list[list[OutboxMessage]] = []

    async def __call__(self, steps: Sequence[Step], messages: Sequence[OutboxMessage]) -> list[StepResult]:
        self.steps.append(list(steps))
        self.messages.append(list(messages))
        return [StepResult(step.key) for step in steps]


async def test_what_is_collected_is_sent_once() -> None:
    sent = Sent()
    async with Transaction(sent, "default") as transaction:
        assert [
            transaction.save("a", 1, etag="e"),
            transaction.delete("b", store="default"),
            transaction.check("c", exists=True),
        ] == [0, 1, 2]
        assert sent.steps == []
    assert sent.steps == [[Save("a", 1, "e"), Delete("b"), Check("c", exists=True)]]
    assert [result.key for result in transaction.results] == ["a", "b", "c"]
    with pytest.raises(ClosedError, match="sent already"):
        await transaction.commit()
    with pytest.raises(ClosedError, match="sent already"):
        transaction.delete("d")


async def test_a_commit_of_ones_own() -> None:
    """It may be committed within its block, which then sends nothing more; and a block without steps sends nothing."""
    sent = Sent()
    async with Transaction(sent, "default") as transaction:
        transaction.save("a", 1)
        assert [result.key for result in await transaction.commit()] == ["a"]
    async with Transaction(sent, "default"):
        pass
    assert len(sent.steps) == 1


async def test_a_step_that_cannot_be_meant_is_told_where_it_is_added() -> None:
    transaction = Transaction(Sent(), "default")
    with pytest.raises(InvalidError):
        transaction.save("k", object())
    with pytest.raises(InvalidError):
        transaction.check("k")
    with pytest.raises(SeveralStoresError) as caught:
        transaction.save("k", 1, store="other")
    assert caught.value.field == "operations[0].store"
    with pytest.raises(ClosedError, match="not committed"):
        _ = transaction.results


async def test_messages_are_collected_too() -> None:
    """In their order, and checked where they are added; never without a step, and none once it is sent."""
    sent = Sent()
    one, two, three = (OutboxMessage(exchange="orders", body=number) for number in (1, 2, 3))
    async with Transaction(sent, "default") as transaction:
        transaction.publish(one)
        transaction.save("a", 1)
        transaction.publish(two, three)
    assert sent.messages == [[one, two, three]]
    with pytest.raises(ClosedError, match="sent already"):
        transaction.publish(one)
    crowded = Transaction(sent, "default")
    with pytest.raises(InvalidError) as caught:
        crowded.publish(*[one] * 17)
    assert caught.value.code == "bad_messages"


async def test_messages_alone_are_not_passed_over() -> None:
    """A block that has nothing but messages sends them to where it is refused that there are no steps."""
    sent = Sent()
    async with Transaction(sent, "default") as transaction:
        transaction.publish(OutboxMessage(exchange="orders"))
    assert sent.steps == [[]]
