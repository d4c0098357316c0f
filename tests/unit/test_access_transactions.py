"""Access rules and transactions: each operation is asked for, and who may not read a key learns nothing of it."""

from typing import Any

import pytest
from support.commands import checks, drops, sets
from support.desk import Desk, opened_desk

from holdfast.worker import AccessConfig, AccessRule

Json = dict[str, Any]


def rule(user: str, key: str, *operations: str) -> AccessRule:
    return AccessRule(user=user, store="default", key=key, operations=list(operations))


CONFIG = AccessConfig(
    default="closed",
    rules=[
        rule("owner", "*", "*"),
        # May write what begins with w/, read what begins with r/, and do both to b/.
        rule("pen", "w/*", "save", "delete"),
        rule("pen", "r/*", "read"),
        rule("pen", "b/*", "save", "delete", "read"),
    ],
)


def transact(*operations: Json, **fields: Any) -> Json:
    return {"op": "transact", "id": fields.pop("id", "t"), "operations": list(operations), **fields}


async def prepared(it: Desk) -> None:
    for key in ("w/there", "r/there", "b/there"):
        await it.ask({"op": "save", "id": key, "key": key, "value": "secret"}, "owner")


@pytest.mark.parametrize(
    ("operation", "needs"),
    [
        (sets("r/there"), "save"),
        (drops("r/there"), "delete"),
        (sets("x"), "save"),
        (checks("w/there", exists=True), "read"),
        (checks("x", etag="1-00000000"), "read"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
async def test_one_operation_that_is_not_allowed(operation: Json, needs: str, place: int) -> None:
    """All of it is denied, whatever is there, before anything is looked up; and the operation is named."""
    operations = [sets("b/new", 1)]
    operations.insert(place, operation)
    async with opened_desk(CONFIG) as it:
        await prepared(it)
        before = [record async for record in it.store.scan()]
        answer = await it.ask(transact(*operations), "pen")
        assert [record async for record in it.store.scan()] == before
    assert answer["status"] == "denied"
    assert (answer["error"]["operation"], answer["error"]["key"]) == (place, operation["key"])
    assert f"may not {needs} the key {operation['key']!r}" in answer["error"]["message"]
    assert answer.keys() == {"id", "status", "error", "epoch", "time"}


async def test_who_may_do_all_of_it_may_do_it() -> None:
    """There is no right to transactions: it is made of the others."""
    async with opened_desk(CONFIG) as it:
        await prepared(it)
        answer = await it.ask(transact(drops("b/there"), sets("w/there", 2), checks("r/there", exists=True)), "pen")
    assert answer["status"] == "ok"


async def test_results_of_keys_that_may_not_be_read() -> None:
    """They have nothing but the key, in first answers and in repeats; the others are whole."""
    async with opened_desk(CONFIG) as it:
        await prepared(it)
        command = transact(sets("w/there", 2), sets("b/there", 2), drops("w/never"), drops("b/never"))
        for redelivered in (False, True):
            answer = await it.ask(command, "pen", redelivered=redelivered)
            first, second, third, fourth = answer["results"]
            assert (first, third) == ({"key": "w/there"}, {"key": "w/never"})
            assert (second["version"], second["exists"], second["changed"]) == (2, True, True)
            assert (fourth["version"], fourth["exists"], fourth["changed"]) == (0, False, False)


@pytest.mark.parametrize(
    "operation",
    [
        sets("w/there", 2, concurrency="first-write"),
        sets("w/there", 2, etag="1-00000000"),
        drops("w/never", etag="1-00000000"),
        sets("w/never", 2, etag="1-00000000"),
    ],
)
async def test_a_conflict_on_a_key_that_may_not_be_read(operation: Json) -> None:
    """That it is one, and of which operation. Not what is there, and not the value, however it is asked for."""
    async with opened_desk(CONFIG) as it:
        await prepared(it)
        command = transact(sets("b/there", 2), operation, return_current=True)
        for redelivered in (False, True):
            answer = await it.ask(command, "pen", redelivered=redelivered)
            assert answer.keys() == {"id", "status", "error", "epoch", "time"}
            assert answer["error"].keys() == {"code", "message", "expected", "operation", "key"}
            assert (answer["status"], answer["error"]["code"]) == ("conflict", "hidden")
            assert (answer["error"]["operation"], answer["error"]["key"]) == (1, operation["key"])
            assert answer["error"]["expected"] == operation.get("etag")
        # Who may read is told.
        told = await it.ask({**command, "id": "another"}, "owner")
        assert told["error"]["code"] != "hidden"
        assert "version" in told


async def test_a_conflict_on_a_key_that_may_be_read() -> None:
    """It is whole, also if the transaction has other keys that may not be read."""
    async with opened_desk(CONFIG) as it:
        await prepared(it)
        command = transact(sets("w/there", 2), checks("r/there", exists=False), return_current=True)
        answer = await it.ask(command, "pen")
    assert (answer["error"]["code"], answer["error"]["operation"]) == ("exists", 1)
    assert answer["error"]["current"] == "secret"
