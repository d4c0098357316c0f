"""Messages to commands and replies, and back."""

import contextlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.events import (
    BadCommand,
    DeleteCommand,
    InvalidError,
    ReadCommand,
    SaveCommand,
    TooLargeError,
    codec,
    decode_commands,
    decode_replies,
    encode,
)
from holdfast.events.limits import MAX_INT, MAX_MESSAGE_BYTES, MAX_MESSAGE_COMMANDS, MIN_INT

READ = {"id": "1", "op": "read", "key": "k"}
LONG = "n" * 2**20

numbers = st.integers(MIN_INT, MAX_INT) | st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=20,
)


def body(*commands: Any) -> bytes:
    return json.dumps(list(commands)).encode()


def only_bad(data: bytes, **options: Any) -> BadCommand:
    (command,) = decode_commands(data, **options).commands
    assert isinstance(command, BadCommand)
    return command


def save_of(value_json: str) -> bytes:
    return b'{"id": "1", "op": "save", "key": "k", "value": ' + value_json.encode() + b"}"


def value_of(value_json: str) -> Any:
    (command,) = decode_commands(save_of(value_json)).commands
    assert isinstance(command, SaveCommand)
    return command.value


@given(values)
def test_values_survive_the_wire(value: Any) -> None:
    """What our encoder or another one writes is read back exactly, type by type."""
    for written in (encode(value).decode(), json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert repr(value_of(written)) == repr(value)


@given(st.binary(max_size=200))
@example(b"\xff")
@example(b"\xef\xbb\xbf{}")
@example(b'{"id":"1","op":"save","key":"k","value":"\\ud800"}')
@example(b'"' + b"1" * 30)
def test_no_message_crashes_the_decoder(data: bytes) -> None:
    """Whatever arrives is commands, bad commands or one error for the whole."""
    try:
        decoded = decode_commands(data)
    except InvalidError:
        return
    for command in decoded.commands:
        assert not isinstance(command, BadCommand) or command.error.code


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | text,
        lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    )
)
def test_no_json_crashes_the_decoder(data: Any) -> None:
    """JSON of any shape is commands, bad commands or one error for the whole."""
    try:
        decoded = decode_commands(json.dumps(data).encode(), message_id="m")
    except InvalidError:
        return
    assert decoded.is_array == isinstance(data, list)


@pytest.mark.parametrize(
    "data",
    [b"", b" ", b"{", b"nope", b"\xff", b"\xef\xbb\xbf{}", b"[NaN]", b"[1e400]", b'["\\ud800"]', b"[" * 3000, b"[1,]"],
)
def test_what_is_no_json(data: bytes) -> None:
    """Only strict JSON in UTF-8 is read."""
    with pytest.raises(InvalidError) as caught:
        decode_commands(data)
    assert caught.value.code == "malformed"


@pytest.mark.parametrize("data", [b"1", b"null", b'"text"', b"true", b"1.5"])
def test_neither_an_object_nor_an_array(data: bytes) -> None:
    """A message is a command or an array of commands."""
    with pytest.raises(InvalidError, match="array of commands") as caught:
        decode_commands(data)
    assert caught.value.code == "malformed"


def test_an_object_is_answered_with_an_object() -> None:
    """The shape of the message is remembered for the answer."""
    assert not decode_commands(encode(READ)).is_array
    assert decode_commands(encode([READ])).is_array
    assert decode_commands(b"[]") == ([], True)


def test_messages_that_are_too_large() -> None:
    """A message over the limit is refused unread; one at the limit is read."""
    padding = b" " * (MAX_MESSAGE_BYTES - len(encode(READ)))
    assert decode_commands(encode(READ) + padding).commands == [ReadCommand.model_validate(READ)]
    with pytest.raises(TooLargeError):
        decode_commands(encode(READ) + padding + b" ")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("9223372036854775807", MAX_INT),
        ("-9223372036854775808", MIN_INT),
        ("[9223372036854775807, 1.0, -0.0]", [MAX_INT, 1.0, -0.0]),
        ("1234567890123456789", 1234567890123456789),
        ("0.12345678901234567890123", 0.12345678901234568),
        ("1e22", 1e22),
        ("1.0", 1.0),
        ("-0.0", -0.0),
        ('"12345678901234567890123"', "12345678901234567890123"),
        ('"\\u0000"', "\0"),
        ('"\\ud83d\\ude00"', "😀"),
    ],
)
def test_numbers_and_texts_are_exact(written: str, value: Any) -> None:
    """Long integers are not turned into floats, and floats stay floats."""
    assert repr(value_of(written)) == repr(value)


@pytest.mark.parametrize(
    "written",
    [
        "9223372036854775808",
        "-9223372036854775809",
        "18446744073709551615",
        "18446744073709551616",
        "1" * 40,
        "[[1" + "0" * 30 + "]]",
    ],
)
def test_integers_beyond_64_bits(written: str) -> None:
    """They are refused one by one, never rounded."""
    bad = only_bad(save_of(written))
    assert (bad.error.code, bad.id) == ("bad_value", "1")
    assert (bad.error.field or "").startswith("value")


def test_a_bad_command_fails_alone() -> None:
    """The others of the array are commands, each in its place."""
    first, bad, last = decode_commands(
        body({**READ, "id": "1"}, {"id": "2", "op": "fly"}, {**READ, "id": "3"})
    ).commands
    assert (first.id, last.id) == ("1", "3")
    assert isinstance(bad, BadCommand)
    assert bad.id == "2"
    assert bad.raw == {"id": "2", "op": "fly"}


@pytest.mark.parametrize("element", [None, 1, "text", [], [READ], True])
def test_elements_that_are_no_objects(element: Any) -> None:
    """A command is an object."""
    bad = only_bad(body(element))
    assert (bad.error.code, bad.id, bad.raw) == ("malformed", None, element)


def test_an_object_takes_the_message_id() -> None:
    """A single command may leave its id to AMQP; its own goes before."""
    without = {"op": "read", "key": "k"}
    assert decode_commands(encode(without), message_id="m").commands[0].id == "m"
    assert decode_commands(encode(READ), message_id="m").commands[0].id == "1"
    assert only_bad(encode(without)).error.field == "id"
    assert only_bad(encode(without), message_id="").error.field == "id"
    assert only_bad(encode({**without, "id": None}), message_id="m").error.field == "id"
    assert only_bad(encode(without), message_id="m" * 129).id is None
    assert only_bad(encode(without), message_id="\ud800").error.field == "id"


def test_elements_do_not_take_the_message_id() -> None:
    """In an array one id for all would make repeats of all but the first."""
    bad = only_bad(body({"op": "read", "key": "k"}), message_id="m")
    assert (bad.error.code, bad.error.field) == ("missing_field", "id")


def test_equal_ids_in_an_array() -> None:
    """The first command of an id counts, whatever is wrong with it; others under it are refused."""
    commands = decode_commands(
        body(
            {**READ, "id": "a"},
            {**READ, "id": "b"},
            {**READ, "id": "a"},
            {"id": "c", "op": "fly"},
            {**READ, "id": "c"},
            {},
            {},
        )
    ).commands
    assert [isinstance(command, BadCommand) for command in commands] == [False, False, True, True, True, True, True]
    codes = [command.error.code for command in commands if isinstance(command, BadCommand)]
    assert codes == ["duplicate_id", "bad_op", "duplicate_id", "bad_op", "bad_op"]


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"op": "fly"}, "bad_op", "op"),
        ({"op": None}, "bad_op", "op"),
        ({"op": ["read"]}, "bad_op", "op"),
        ({"op": {}}, "bad_op", "op"),
        ({"v": 0}, "bad_version", "v"),
        ({"v": 2}, "bad_version", "v"),
        ({"v": "1"}, "bad_version", "v"),
        ({"v": True}, "bad_version", "v"),
        ({"v": 1.0}, "bad_version", "v"),
        ({"v": None}, "bad_version", "v"),
        ({"etag": "1"}, "unknown_field", "etag"),
        ({"extra": 1}, "unknown_field", "extra"),
        ({"key": None}, "bad_key", "key"),
        ({"id": 1}, "bad_id", "id"),
        ({"sent_at": 1.0}, "bad_sent_at", "sent_at"),
    ],
    ids=repr,
)
def test_faults_have_a_code_and_a_field(fields: dict[str, Any], code: str, field: str) -> None:
    """The sender is told what is wrong and where."""
    bad = only_bad(encode(READ | fields))
    assert (bad.error.code, bad.error.field) == (code, field)


def test_input_is_not_echoed() -> None:
    """Values and texts of the sender's may be secret and stay out of errors."""
    secret = "hunter2"
    for fields in (
        {"key": secret + "\0"},
        {"store": f"{secret}/"},
        {"consistency": secret},
        {"deadline": secret},
        {"op": secret},
    ):
        assert secret not in str(only_bad(encode(READ | fields)).error)


# What is cheap to send and would be dear to read.


@pytest.mark.parametrize("element", [{**READ, "key": 1}, 0, {}])
def test_messages_of_too_many_commands(element: Any) -> None:
    """A message has a bounded number of commands. One of 4 MiB has room for two million, which took twenty seconds."""
    assert len(decode_commands(encode([element] * MAX_MESSAGE_COMMANDS)).commands) == MAX_MESSAGE_COMMANDS
    with pytest.raises(TooLargeError, match="10000 commands, not 10001") as caught:
        decode_commands(encode([element] * (MAX_MESSAGE_COMMANDS + 1)))
    assert caught.value.code == "too_large"


@pytest.mark.parametrize(
    ("data", "code", "field"),
    [
        (READ | {f"f{number}": 1 for number in range(100)}, "unknown_field", "f0"),
        (17, "malformed", None),
        ({"op": {"op": [READ] * 100}}, "bad_op", "op"),
        ({"id": "1", "key": "k"}, "bad_op", "op"),
    ],
    ids=["fields", "number", "op", "no op"],
)
def test_what_is_obviously_wrong_is_not_validated(
    data: Any, code: str, field: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation lists all faults of all commands: with 400,000 unknown fields that takes more than a second."""
    monkeypatch.setattr(codec, "_one", None)
    monkeypatch.setattr(codec, "_many", None)
    bad = only_bad(body(data))
    assert (bad.error.code, bad.error.field) == (code, field)


def test_what_follows_something_wrong_is_still_read() -> None:
    """Wherever in an array the first bad command stands, those before and behind it are commands, in their order."""
    good: list[dict[str, Any]] = [{**READ, "id": str(number)} for number in range(350)]
    for wrong in (0, 99, 100, 199, 230, 349):
        for bad in ({"op": "fly", "id": "bad"}, {**READ, "id": "bad", "key": 1}, 7):
            commands = decode_commands(body(*good[:wrong], bad, *good[wrong:])).commands
            assert isinstance(commands.pop(wrong), BadCommand)
            assert [command.id for command in commands] == [command["id"] for command in good]


@pytest.mark.parametrize("entry", ["text", 1, None])
def test_metadata_of_too_many_entries_is_not_validated(entry: Any) -> None:
    """The number of entries is looked at before any of them."""
    data = {"op": "delete", "id": "1", "key": "k", "metadata": {str(number): entry for number in range(33)}}
    bad = only_bad(encode(data))
    assert (bad.error.code, bad.error.field) == ("bad_metadata", "metadata")
    assert "32 entries" in str(bad.error)


@pytest.mark.parametrize(
    "fields",
    [
        {LONG: 1},
        {"key": LONG},
        {"id": LONG},
        {"op": LONG},
        {"store": LONG},
        {"consistency": LONG},
        {"v": LONG},
        {"op": "delete", "etag": LONG},
        {"op": "delete", "metadata": {LONG: 1}},
        {"op": "delete", "metadata": {LONG: "n"}},
        {"op": "save", "value": {LONG: 2**63}},
        {"op": "save", "value": [{LONG: {"\0": 1}}]},
        {"op": "history", "limit": LONG},
    ],
    ids=lambda fields: "-".join(str(name)[:10] for name in fields),
)
def test_errors_are_short(fields: dict[str, Any]) -> None:
    """However long the name or the text that is wrong, it does not come back at that length."""
    bad = only_bad(json.dumps(READ | fields).encode())
    assert len(bad.error.field or "") <= 201
    assert len(str(bad.error)) <= 400
    assert len(bad.id or "") <= 128


def test_numbers_beyond_all_doubles_spoil_the_message() -> None:
    """They cannot be read at all, also as integers; and are no reason to tell of this program's insides."""
    for number in ("1e309", "9" * 310, "9" * 5000, "-" + "9" * 100_000):
        with pytest.raises(InvalidError) as caught:
            decode_commands(save_of(number))
        assert caught.value.code == "malformed"
        assert "sys." not in str(caught.value)
        assert len(str(caught.value)) < 200
    bad = only_bad(save_of("9" * 308))
    assert bad.error.code == "bad_value"


def test_replies() -> None:
    """Replies are read one by one or as an array, and fields of later versions are passed over."""
    reply = {"id": "1", "status": "ok", "version": 3, "value": {"a": 1.0}, "later": True}
    (one,) = decode_replies(encode(reply))
    assert decode_replies(encode([reply])) == [one]
    assert (one.id, one.status, one.version, one.value) == ("1", "ok", 3, {"a": 1.0})
    (failed,) = decode_replies(encode({"status": "conflict", "error": {"code": "exists", "message": "m", "later": 1}}))
    assert failed.error is not None
    assert failed.error.code == "exists"


@given(st.binary(max_size=100))
@example(b"[1]")
@example(b"{}")
@example(b'[{"status": null}]')
def test_no_answer_crashes_the_decoder(data: bytes) -> None:
    """What is no reply is an error of ours."""
    with contextlib.suppress(InvalidError):
        decode_replies(data)


@pytest.mark.parametrize("data", [object, {1: 2}, b"x", {"a": {1, 2}}, "\ud800", {"\ud800": 1}, 2**64], ids=ascii)
def test_what_cannot_be_encoded(data: Any) -> None:
    """Data that is no JSON is refused with an error of ours."""
    with pytest.raises(InvalidError) as caught:
        encode(data)
    assert caught.value.code == "bad_value"


def test_encoding_is_compact() -> None:
    """No blanks, UTF-8 as it is."""
    assert encode({"a": [1, "ß"]}) == '{"a":[1,"ß"]}'.encode()
    assert orjson.loads(encode({"a": -0.0})) == {"a": -0.0}


def test_kinds_of_commands() -> None:
    """Each op gives its own type."""
    commands = decode_commands(body({**READ, "op": "delete", "id": "2"}, READ)).commands
    assert [type(command) for command in commands] == [DeleteCommand, ReadCommand]
