"""Errors: what a reply that is not ok means to the caller."""

import asyncio
from typing import Any

import orjson
import pytest

from holdfast.client.calls import Call, to_error
from holdfast.events import (
    ConflictError,
    DeniedError,
    ErrorInfo,
    ExpiredError,
    HoldfastError,
    IdReusedError,
    InvalidError,
    OutcomeUnknown,
    RemoteError,
    Reply,
    TooLargeError,
    Unavailable,
    UnknownStoreError,
)


def a_call(*, mutates: bool = True, attempts: int = 1) -> Call:
    loop = asyncio.new_event_loop()
    call = Call("c1", "default", "user/42", b"{}", mutates, loop.create_future(), attempts=attempts)
    loop.close()
    return call


def error_of(
    status: str,
    code: str | None = None,
    message: str = "no",
    *,
    mutates: bool = True,
    attempts: int = 1,
    **details: Any,
) -> HoldfastError:
    call = a_call(mutates=mutates, attempts=attempts)
    version = details.pop("version", None)
    info = ErrorInfo(code=code, message=message, **details) if code else None
    return to_error(Reply(id="c1", status=status, error=info, version=version), call)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        ("conflict", "exists", ConflictError),
        ("invalid", "bad_key", InvalidError),
        ("invalid", "id_reused", IdReusedError),
        ("too_large", "too_large", TooLargeError),
        ("unknown_store", "unknown_store", UnknownStoreError),
        ("denied", "denied", DeniedError),
        ("expired", "deadline", ExpiredError),
        ("unavailable", "queue_full", Unavailable),
        ("unknown", "unknown", OutcomeUnknown),
        ("internal", "internal", RemoteError),
        ("from_the_future", "whatever", RemoteError),
        ("from_the_future", None, RemoteError),
        ("conflict", None, RemoteError),
        ("invalid", None, InvalidError),
    ],
)
def test_every_status_has_its_error(status: str, code: str | None, kind: type[HoldfastError]) -> None:
    """Each status of the protocol becomes one type of error, and what this client does not know a RemoteError."""
    error = error_of(status, code)

    assert type(error) is kind


def test_a_conflict_tells_what_was_found() -> None:
    """The error of a conflict has the key, both etags, version, winner, the current value and the code."""
    error = error_of(
        "conflict", "etag_mismatch", expected="1-a", actual="2-b", winner="c0", current={"n": 2}, version=2
    )

    assert isinstance(error, ConflictError)
    assert (error.key, error.expected, error.actual, error.version) == ("user/42", "1-a", "2-b", 2)
    assert (error.winner, error.current, error.code) == ("c0", {"n": 2}, "etag_mismatch")


@pytest.mark.parametrize(
    ("mutates", "attempts", "kind"),
    [(True, 1, Unavailable), (True, 2, OutcomeUnknown), (False, 1, Unavailable), (False, 2, Unavailable)],
)
def test_unavailable_speaks_of_one_attempt(mutates: bool, attempts: int, kind: type[HoldfastError]) -> None:
    """A worker's ``unavailable`` to a write that was sent twice leaves open what became of the other attempt."""
    found = error_of("unavailable", "store_away", mutates=mutates, attempts=attempts)
    assert type(found) is kind
    assert getattr(found, "id", "c1") == "c1"


def test_expired_speaks_of_all_attempts() -> None:
    """A worker's ``expired`` is recorded under the id, so that it holds for whatever was sent under it."""
    assert type(error_of("expired", "deadline", attempts=3)) is ExpiredError


@pytest.mark.parametrize(
    ("exists", "error", "known"),
    [
        (True, {"code": "exists", "actual": "1-x", "current": None}, True),
        (True, {"code": "exists", "actual": "1-x", "current": 7}, True),
        (True, {"code": "exists", "actual": "1-x"}, False),
        (False, {"code": "absent", "actual": None}, True),
        (None, {"code": "hidden", "expected": "1-y"}, False),
    ],
    ids=["null", "seven", "not asked for", "absent", "hidden"],
)
def test_a_conflict_tells_whether_it_tells_the_value(exists: bool | None, error: dict[str, Any], known: bool) -> None:
    """A value of null, a key that is absent, and a value that nobody told are three things."""
    body = orjson.dumps({"id": "c1", "status": "conflict", "exists": exists, "error": error | {"message": "no"}})
    reply = Reply.model_validate(orjson.loads(body))
    conflict = to_error(reply, a_call())
    assert isinstance(conflict, ConflictError)
    assert conflict.current_known is known
    assert conflict.current == error.get("current")


def test_the_field_stands_in_the_message_once() -> None:
    """A worker's message that begins with the field does not get it in front once more."""
    error = error_of("invalid", "bad_value", "value.items[3]: not a JSON value", field="value.items[3]")

    assert isinstance(error, InvalidError)
    assert (error.code, error.field, str(error)) == ("bad_value", "value.items[3]", "value.items[3]: not a JSON value")


def test_errors_keep_codes_and_ids() -> None:
    """An unknown outcome carries the command's id, and an error without a type of its own its code."""
    unknown, remote, bare = error_of("unknown", "unknown"), error_of("strange", "odd", "why"), error_of("strange")

    assert isinstance(unknown, OutcomeUnknown)
    assert unknown.id == "c1"
    assert isinstance(remote, RemoteError)
    assert (remote.code, str(remote)) == ("odd", "why")
    assert isinstance(bare, RemoteError)
    assert (bare.code, str(bare)) == ("strange", "status strange")
