"""The oracle says what the protocol page says, and what checks with it finds what is wrong."""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chaos.fuzz import codec
from chaos.fuzz.codec import DisagreementError, check
from chaos.fuzz.commands import fresh_id, is_fresh
from chaos.fuzz.generate import Generator, Input, Reply, Route
from chaos.fuzz.oracle import MADE, Judgement, judge
from chaos.fuzz.sent import Sent
from holdfast.events import BadCommand, InvalidError, SaveCommand, decode_commands
from holdfast.events.codec import Decoded

NOW = 1_800_000_000_000
ID = fresh_id(1)
READ = {"id": ID, "op": "read", "key": "k"}
QUERY = {"id": ID, "op": "query"}
SAVE = {"id": ID, "op": "save", "key": "k", "value": 1}
PATCH = {"id": ID, "op": "patch", "key": "k", "kind": "merge", "patch": 1}
JSON_PATCHED = {"ok", "conflict absent", "conflict test_failed", "conflict unpatchable"}


def transact(*more: Any) -> dict[str, Any]:
    """A transaction, with more operations than one."""
    return {"id": ID, "op": "transact", "operations": [{"op": "save", "key": "k", "value": 1}, *more]}


def judged(body: bytes, *, split: bool = False, **properties: Any) -> list[Judgement]:
    known: dict[str, Any] = {"message_id": None, "correlation_id": None, "reply_to": None}
    return judge(body, **(known | properties), now=NOW, is_fresh=is_fresh, split=split)


def allowed(body: Any, **options: Any) -> list[set[str]]:
    """What is allowed for each command of a message."""
    (judgement,) = judged(body if isinstance(body, bytes) else json.dumps(body).encode(), **options)
    assert judgement.buried_for is None
    return [set(fate.outcomes) for fate in judgement.fates]


@pytest.mark.parametrize(
    ("command", "outcomes"),
    [
        (READ, {"ok"}),
        (SAVE, {"ok"}),
        (SAVE | {"concurrency": "first-write"}, {"ok", "conflict exists"}),
        (SAVE | {"etag": "x"}, {"conflict absent", "conflict etag_mismatch"}),
        (SAVE | {"etag": None}, {"ok"}),
        (SAVE | {"max_version": 3}, {"ok", "conflict newer"}),
        (SAVE | {"deadline": NOW - 1}, {"expired deadline"}),
        (SAVE | {"deadline": NOW + 1}, {"ok"}),
        (READ | {"sent_at": NOW - 7 * 24 * 3600 * 1000 - 1}, {"expired too_old"}),
        (SAVE | {"store": "other"}, {"unknown_store unknown_store"}),
        (SAVE | {"value": "x" * (2**20 - 2)}, {"ok"}),
        (SAVE | {"value": "x" * (2 * 2**20)}, {"too_large too_large"}),
        ({"op": "describe", "id": ID}, {"ok"}),
        ({"op": "describe", "id": ID, "key": "k"}, {"invalid unknown_field"}),
        (SAVE | {"ttl_seconds": 1}, {"ok"}),
        (SAVE | {"ttl_seconds": -1}, {"ok"}),
        (SAVE | {"ttl_seconds": 0}, {"invalid bad_ttl_seconds"}),
        (SAVE | {"ttl_seconds": -2}, {"invalid bad_ttl_seconds"}),
        (SAVE | {"ttl_seconds": 1.0}, {"invalid bad_ttl_seconds"}),
        (PATCH, {"ok", "conflict unpatchable"}),
        (PATCH | {"etag": "x"}, {"conflict absent", "conflict etag_mismatch"}),
        (PATCH | {"kind": "increment"}, {"invalid bad_patch"}),
        (PATCH | {"kind": "increment", "patch": {"/a": 1}}, {"ok", "conflict unpatchable"}),
        (PATCH | {"kind": "increment", "patch": {"/a": True}}, {"invalid bad_patch"}),
        (PATCH | {"kind": "json-patch", "patch": []}, JSON_PATCHED),
        (PATCH | {"kind": "json-patch", "patch": [{"op": "move", "from": "/a", "path": "/ab"}]}, JSON_PATCHED),
        (
            PATCH | {"kind": "json-patch", "patch": [{"op": "move", "from": "/a", "path": "/a/b"}]},
            {"invalid bad_patch"},
        ),
        (PATCH | {"kind": "json-patch", "patch": [{"op": "add", "path": "/~", "value": 1}]}, {"invalid bad_patch"}),
        (PATCH | {"kind": "json-patch", "patch": [{"op": "remove", "path": ""}]}, {"invalid bad_patch"}),
        (PATCH | {"kind": "x"}, {"invalid bad_kind"}),
        (PATCH | {"value": 1}, {"invalid unknown_field"}),
        (READ | {"v": 2}, {"invalid bad_version"}),
        (READ | {"v": True}, {"invalid bad_version"}),
        (READ | {"op": "fly"}, {"invalid bad_op"}),
        (READ | {"id": ""}, {"invalid bad_id"}),
        (READ | {"key": "x" * 513}, {"invalid bad_key"}),
        (READ | {"key": 1, "more": 1}, {"invalid bad_key", "invalid unknown_field"}),
        ({"op": "read", "id": ID}, {"invalid missing_field"}),
        (SAVE | {"value": 2**63}, {"invalid bad_value"}),
        (SAVE | {"value": {"a\0": 1}}, {"invalid bad_value"}),
        (SAVE | {"metadata": {str(number): "" for number in range(33)}}, {"invalid bad_metadata"}),
        (SAVE | {"etag": "x" * 129}, {"invalid bad_etag"}),
        (READ | {"limit": 1}, {"invalid unknown_field"}),
        (READ | {"op": "history", "limit": 0}, {"invalid bad_limit"}),
        (READ | {"op": "history", "limit": 1.0}, {"invalid bad_limit"}),
        (transact(), {"ok"}),
        (transact({"op": "save", "key": "l", "value": 1, "concurrency": "first-write"}), {"ok", "conflict exists"}),
        (transact({"op": "check", "key": "l", "exists": True}), {"ok", "conflict absent"}),
        (transact({"op": "check", "key": "l", "exists": False}), {"ok", "conflict exists"}),
        (transact({"op": "delete", "key": "l", "etag": "x"}), {"conflict absent", "conflict etag_mismatch"}),
        (transact() | {"deadline": NOW - 1}, {"expired deadline"}),
        (transact({"op": "save", "key": "l", "value": "x" * (2 * 2**20)}), {"too_large too_large"}),
        (transact({"op": "delete", "key": "l", "store": "default"}), {"ok"}),
        (transact({"op": "delete", "key": "l", "store": "other"}), {"invalid several_stores"}),
        (transact({"op": "delete", "key": "l", "store": "x y"}), {"invalid bad_store"}),
        (transact({"op": "read", "key": "l"}), {"invalid bad_op"}),
        (transact({"op": "delete"}), {"invalid missing_field"}),
        (transact({"op": "check", "key": "l"}), {"invalid bad_check"}),
        (transact({"op": "check", "key": "l", "exists": 1}), {"invalid bad_exists"}),
        (transact({"op": "delete", "key": "", "more": 1}), {"invalid bad_key", "invalid unknown_field"}),
        (transact(7), {"invalid bad_operations"}),
        (transact() | {"operations": []}, {"invalid bad_operations"}),
        (transact(*[{"op": "delete", "key": "l"}] * 500), {"invalid bad_operations"}),
        (transact() | {"key": "k"}, {"invalid unknown_field"}),
        (transact() | {"messages": [{"exchange": "orders"}]}, {"denied denied"}),
        (transact() | {"messages": []}, {"ok"}),
        (transact() | {"messages": 1}, {"invalid bad_messages"}),
        (READ | {"op": "history", "before_version": 0}, {"invalid bad_before_version"}),
        (READ | {"op": "history", "from_time": NOW, "backward": True}, {"ok"}),
        (READ | {"at_version": 3}, {"ok", "invalid stripped"}),
        (READ | {"at_version": 3, "at_time": NOW}, {"invalid bad_at_version"}),
        (READ | {"at_version": 0}, {"invalid bad_at_version"}),
        (READ | {"op": "restore"}, {"invalid missing_field"}),
        (READ | {"op": "restore", "at_version": 1}, {"ok", "conflict no_value", "conflict stripped"}),
        (READ | {"op": "purge"}, {"ok"}),
        (READ | {"op": "purge", "value": 1}, {"invalid unknown_field"}),
        ({"op": "keys", "id": ID, "prefix": "", "count_only": True}, {"ok"}),
        ({"op": "keys", "id": ID, "after": ""}, {"invalid bad_after"}),
        (READ | {"op": "keys"}, {"invalid unknown_field"}),
        (SAVE | {"correlation_id": ""}, {"invalid bad_correlation_id"}),
        (QUERY, {"ok"}),
        (QUERY | {"filter": {"in": [["a.b"], [1, None]]}, "sort": [{"field": ""}], "projection": []}, {"ok"}),
        (QUERY | {"filter": {"and": [{"not": {"exists": "a"}}, {"gt": ["a", True]}]}}, {"invalid bad_filter"}),
        (QUERY | {"filter": {"eq": ["a..b", 1]}}, {"invalid bad_filter"}),
        (QUERY | {"filter": {"$where": "1"}, "sort": [1]}, {"invalid bad_filter", "invalid bad_sort"}),
        (QUERY | {"sort": [{"field": "a.b"}, {"field": ["a", "b"]}]}, {"invalid bad_sort"}),
        (QUERY | {"projection": [""]}, {"invalid bad_projection"}),
        (QUERY | {"token": "x"}, {"ok", "invalid bad_token"}),
        (QUERY | {"prefix": "\0"}, {"invalid bad_prefix"}),
        (QUERY | {"key": "k"}, {"invalid unknown_field"}),
        (QUERY | {"store": "other", "token": "x"}, {"unknown_store unknown_store"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value)[:60],
)
def test_commands(command: dict[str, Any], outcomes: set[str]) -> None:
    """Each rule of the page, once kept or broken."""
    assert allowed(command) == [outcomes]


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b"", "invalid malformed"),
        (b"\xef\xbb\xbf{}", "invalid malformed"),
        (b'{"op":"read","id":"1","key":"\\ud800"}', "invalid malformed"),
        (b'{"op":"read","id":"1","key":"\xff"}', "invalid malformed"),
        (b'{"op":"read","id":"1","key":"\\ud800","key":"k"}', "invalid malformed"),
        (b"[NaN]", "invalid malformed"),
        (b"[1e400]", "invalid malformed"),
        (b"[" + b"9" * 5000 + b"]", "invalid malformed"),
        (b"17", "invalid malformed"),
        (b"[" * 3000 + b"]" * 3000, "invalid malformed"),
        (b" " * (4 * 2**20 + 1), "too_large too_large"),
        (b"[" + b",".join([b"0"] * 10_001) + b"]", "too_large too_large"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_messages_that_cannot_be_read(body: bytes, outcome: str) -> None:
    """They are one whole, without an id."""
    (judgement,) = judged(body)
    (fate,) = judgement.fates
    assert fate.outcomes == frozenset({outcome})
    assert (fate.id, fate.command, judgement.is_array) == (None, body, False)


def test_how_deep_is_too_deep() -> None:
    """A value has a hundred levels. From some nine hundred on a message may be one that cannot be read."""
    for levels in (1, 99, 100):
        assert allowed(SAVE | {"value": eval("[" * levels + "]" * levels)}) == [{"ok"}]  # noqa: S307
    deep = b'{"id":"1","op":"save","key":"k","value":' + b"[" * 101 + b"]" * 101 + b"}"
    assert allowed(deep) == [{"invalid bad_value"}]
    deeper = deep.replace(b"[", b"[" * 9).replace(b"]", b"]" * 9)
    assert [judgement.fates[0].outcomes for judgement in judged(deeper)] == [
        {"invalid bad_value"},
        {"invalid malformed"},
    ]
    assert allowed(deeper.replace(b"[", b"[[").replace(b"]", b"]]")) == [{"invalid malformed"}]


def test_ids() -> None:
    """An object takes the message id; an element has its own, and no two are equal unless they are taken apart."""
    without = json.dumps({"op": "read", "key": "k"}).encode()
    assert judged(without)[0].fates[0].id is MADE
    assert judged(without, message_id=b"m")[0].fates[0].id == "m"
    assert judged(without, message_id=b"m" * 129)[0].fates[0].outcomes == {"invalid bad_id"}
    assert allowed([READ, READ, {"op": "read", "key": "k"}, 7]) == [
        {"ok"},
        {"invalid duplicate_id"},
        {"invalid missing_field"},
        {"invalid malformed"},
    ]
    assert all({"ok", "invalid id_reused"} <= outcomes for outcomes in allowed([READ, SAVE], split=True))
    assert "invalid id_reused" in allowed(SAVE | {"id": "used before"})[0]


def test_properties() -> None:
    """What cannot be read, and answers to our own queues, are buried whole."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"correlation_id": b"\xff"}, "bad_properties"),
        ({"message_id": b"\xc3"}, "bad_properties"),
        ({"reply_to": b"holdfast.dead"}, "bad_reply_to"),
    ]
    for properties, reason in wrong:
        (judgement,) = judged(b"{}", **properties)
        assert (judgement.buried_for, judgement.fates) == (reason, ())


# What is wrong is found.


def sent_of(body: Any, **fields: Any) -> Sent:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    made = Input(1, "made", data, Route("", b""), Reply.SHARED)
    expected: dict[str, Any] = {"is_answered": True, "is_silent": False}
    return Sent(made, judged(data), **(expected | fields))


def unknown(message: str, name: str = "more") -> dict[str, Any]:
    return BAD | {"error": {"code": "unknown_field", "message": message, "field": name}}


def reply(**fields: Any) -> dict[str, Any]:
    ok = {"id": ID, "status": "ok", "epoch": 1, "time": NOW, "exists": False, "version": 0, "etag": None}
    return ok | fields


BAD = {"id": ID, "status": "invalid", "epoch": 1, "time": NOW}
CONFLICT = BAD | {"status": "conflict"}


def test_right_answers_are_right() -> None:
    """The same answers without what the next tests spoil."""
    sent = sent_of(READ)
    assert sent.missing == 1
    assert sent.answer(json.dumps(reply()).encode()) is None
    assert sent.missing == 0
    sent = sent_of([READ, {"id": "2", "op": "read", "key": "k"}])
    assert sent.answer(json.dumps([reply(id="2"), reply()]).encode()) is None
    assert sent.missing == 0
    told = unknown("more: is none")
    assert sent_of(READ | {"more": 1}).answer(json.dumps(told).encode()) is None


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (READ, [reply()]),
        ([READ], reply()),
        (READ, reply(id="another")),
        (READ, reply(id=None)),
        (READ, reply(status="denied", error={"code": "denied", "message": "no"})),
        (READ, reply(time=1.5)),
        (READ, reply(secret=1)),
        (READ, reply(exists=True)),
        (READ, reply(etag="1-x")),
        (READ, "text"),
        (READ, {}),
        (READ | {"more": 1}, reply()),
        (READ | {"more": 1}, BAD | {"error": {"code": "bad_key", "message": "key: is bad", "field": "key"}}),
        (READ | {"more": 1}, unknown("is none", "key")),
        (READ | {"more": 1}, unknown("x" * 501)),
        (READ | {"m" * 300: 1}, unknown("is none", "m" * 300)),
        (
            READ | {"more": 1},
            unknown("KeyError('more')"),
        ),
        (READ | {"more": 1}, unknown("")),
        (READ | {"more": 1}, BAD),
        (
            SAVE | {"etag": "x"},
            BAD | {"status": "conflict", "error": {"code": "absent", "message": "m", "expected": "y"}},
        ),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_wrong_answers_are_found(body: Any, answer: Any) -> None:
    """Each thing that may be wrong with an answer."""
    assert sent_of(body).answer(json.dumps(answer).encode()) is not None


def test_too_many_and_too_few_answers_are_found() -> None:
    """A second answer to a command is one too many, in an array too; one that does not come is missing."""
    sent = sent_of(READ)
    assert sent.answer(json.dumps(reply()).encode()) is None
    assert sent.answer(json.dumps(reply()).encode()) is not None
    sent = sent_of([READ, 1, 1])
    malformed = {"error": {"code": "malformed", "message": "is no object"}}
    assert sent.answer(json.dumps([reply(), BAD | malformed | {"id": None}]).encode()) is None
    assert sent.missing == 1
    assert sent.answer(json.dumps([reply()]).encode()) is not None


@pytest.mark.parametrize(
    ("body", "letter", "reason", "is_right"),
    [
        (READ | {"more": 1}, READ | {"more": 1}, "unknown_field", True),
        (READ | {"more": 1}, READ | {"more": 1}, "bad_key", False),
        (READ | {"more": 1}, READ, "unknown_field", False),
        (READ, READ, "internal", False),
        ([READ, 1, 2, 1], [1, 2, 1], "malformed", True),
        ([READ, 1, 2, 1], [1, 2], "malformed", True),
        ([READ, 1, 2, 1], [1, 1, 1], "malformed", False),
        ([READ, 1, 2, 1], [READ], "malformed", False),
        ([READ, 1, 2, 1], 1, "malformed", False),
    ],
    ids=str,
)
def test_wrong_dead_letters_are_found(body: Any, letter: Any, reason: str, is_right: bool) -> None:
    """A letter has its reason, holds what was sent, and only what nobody could be told."""
    sent = sent_of(body, is_answered=False, is_silent=True)
    assert (sent.bury(json.dumps(letter).encode(), reason) is None) == is_right
    told = sent_of(body)
    assert told.bury(json.dumps(letter).encode(), reason) is not None


def test_a_letter_that_does_not_come_is_missing() -> None:
    """Of ten bad commands, those that are in no letter are waited for."""
    sent = sent_of([1] * 10, is_answered=False, is_silent=True)
    assert sent.missing == 10
    assert sent.bury(b"[1,1,1]", "malformed") is None
    assert sent.missing == 7


Spoil = Callable[[Decoded], Decoded]


def _each(change: Callable[[Any], Any]) -> Spoil:
    return lambda decoded: Decoded([change(command) for command in decoded.commands], decoded.is_array)


def _bad(**fields: Any) -> Spoil:
    return _each(lambda command: replace(command, **fields) if isinstance(command, BadCommand) else command)


def _value(change: Callable[[Any], Any]) -> Spoil:
    def spoil(command: Any) -> Any:
        if isinstance(command, SaveCommand):
            return command.model_copy(update={"value": change(command.value)})
        return command

    return _each(spoil)


SPOILT: dict[str, Spoil] = {
    "a command is lost": lambda decoded: Decoded(decoded.commands[1:], decoded.is_array),
    "a command comes twice": lambda decoded: Decoded(decoded.commands + decoded.commands[:1], decoded.is_array),
    "an object is an array": lambda decoded: Decoded(decoded.commands, is_array=True),
    "all bad commands have one reason": _bad(error=InvalidError("is wrong", code="bad_key", field="key")),
    "the field is another": _each(
        lambda command: (
            replace(command, error=InvalidError("m", code=command.error.code, field="other"))
            if isinstance(command, BadCommand)
            else command
        )
    ),
    "what was sent comes back": _bad(error=InvalidError("x" * 2000, code="bad_op", field="op")),
    "the program shows": _bad(error=InvalidError("KeyError('x')", code="bad_op", field="op")),
    "the id is forgotten": _bad(id=None),
    "bad commands are let through": _each(
        lambda command: SaveCommand(op="save", id="x", key="k", value=1) if isinstance(command, BadCommand) else command
    ),
    "integers become floats": _value(lambda value: float(value) if type(value) is int else value),
    "true becomes 1": _value(lambda value: int(value) if isinstance(value, bool) else value),
    "members change places": _value(lambda value: dict(reversed(value.items())) if isinstance(value, dict) else value),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_codec_that_does_wrong_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way in which a codec may go wrong is noticed among some hundred inputs."""
    generator = Generator("spoilt", partitions=4, now=NOW, user="u")

    def spoilt(body: bytes, **options: Any) -> Decoded:
        return SPOILT[what](decode_commands(body, **options))

    monkeypatch.setattr(codec, "decode_commands", spoilt)
    with pytest.raises(DisagreementError):
        deque(check(generator.make(number).body) for number in range(2000))


@pytest.mark.parametrize("fault", [RuntimeError("x"), RecursionError(), KeyError("k"), MemoryError()], ids=repr)
def test_a_codec_that_breaks_is_found(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises that is no error of ours."""

    def breaks(*_: Any, **__: Any) -> Decoded:
        raise fault

    monkeypatch.setattr(codec, "decode_commands", breaks)
    with pytest.raises(DisagreementError, match="was raised"):
        check(b"{}")
