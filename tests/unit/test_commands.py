"""The rules of every field of every command."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.events import (
    BadCommand,
    ChangesCommand,
    Command,
    DeleteCommand,
    DescribeCommand,
    HistoryCommand,
    InvalidError,
    KeysCommand,
    PatchCommand,
    PurgeCommand,
    ReadCommand,
    RestoreCommand,
    SaveCommand,
    WatchCommand,
    check_id,
    check_key,
    decode_commands,
)
from holdfast.events.limits import MAX_ID_BYTES, MAX_KEY_BYTES

OPS: dict[str, type] = {
    "save": SaveCommand,
    "delete": DeleteCommand,
    "patch": PatchCommand,
    "restore": RestoreCommand,
    "purge": PurgeCommand,
    "read": ReadCommand,
    "history": HistoryCommand,
    "keys": KeysCommand,
    "watch": WatchCommand,
    "changes": ChangesCommand,
    "describe": DescribeCommand,
}
MILLIS = [0, 1, 2**53 - 1, None]
NO_MILLIS = [-1, 2**53, 1.0, "1", True, [], {}]
TEXTS = ["a", "ä", "\U0010ffff", " ", "a/b", "%", "\x01", "$", "."]
NO_TEXTS: list[object] = ["", "a\0", "\0", None, 1, True, [], {}, 1.5]
METADATA = [None, {}, {"a": "b"}, {"": ""}, {"a": "\0"}, {str(n): "" for n in range(32)}, {"a": "x" * 4095}]
NO_METADATA = [
    [],
    "a",
    1,
    {"a": 1},
    {"a": None},
    {"\0": "a"},
    {str(n): "" for n in range(33)},
    {"a": "x" * 4096},
    {"a": "ß" * 2048},
]
NO_HEADERS: list[Any] = [
    *([], {"": 1}, {"a": []}, {"a": 1.5}, {"x-death": 1}, {"a": 2**63}, {"a": "x" * 5000}, {"a" * 129: 1}),
    {str(n): n for n in range(33)},
]
NO_MESSAGES: list[Any] = [
    *("a", 1, True, {}, [1], [None], [[]], [{}], [{"exchange": 1}], [{"exchange": None}], [{"exchange": "x", "k": 1}]),
    *([{"exchange": "x" * 256}], [{"exchange": "a\0"}], [{"exchange": "x", "routing_key": "ß" * 128}]),
    *([{"exchange": "x", "body": 2**63}], [{"exchange": "x", "body": {"a\0": 1}}], [{"exchange": "x"}] * 17),
    *([{"exchange": "x", "body": "x" * 262_144}], [{"exchange": "x", "body": "x" * 131_072}] * 2),
    *([{"exchange": "x", "headers": headers}] for headers in NO_HEADERS),
]

GOOD: dict[str, list[Any]] = {
    "v": [1],
    "id": [*TEXTS, "x" * 128, "ß" * 64],
    "sent_at": MILLIS,
    "deadline": MILLIS,
    "store": ["default", "a", "A.b-c_1", "0", "x" * 64],
    "key": [*TEXTS, "x" * 512, "ß" * 256, "\U0010ffff" * 128],
    "value": [None, 1, "", [], {}, {"a": [1.5]}, False],
    "kind": ["merge"],
    "patch": [None, 1, "", [], {}, {"a": [1.5]}, False],
    "ttl_seconds": [1, 60, 2**31 - 1, -1, None],
    "return_value": [True, False],
    "etag": [None, "", "1-00000000", "anything", "x" * 128],
    "max_version": [0, 1, 2**63 - 1, None],
    "concurrency": ["first-write", "last-write"],
    "return_current": [True, False],
    "metadata": METADATA,
    "consistency": ["strong", "eventual"],
    "after_version": [0, 1, 2**63 - 1],
    "before_version": [1, 2**63 - 1, None],
    "from_time": MILLIS,
    "to_time": MILLIS,
    "backward": [True, False],
    "limit": [1, 1000],
    "messages": [None, []],
    "values": [True, False],
    "since": MILLIS,
    "at_version": [1, 2**63 - 1],
    "at_time": MILLIS,
    "correlation_id": [*TEXTS, None, "x" * 128, "ß" * 64],
    "causation_id": [*TEXTS, None, "x" * 128],
    "prefix": [*TEXTS, "", "x" * 512],
    "after": [*TEXTS, None, "x" * 512],
    "count_only": [True, False],
}
BAD: dict[str, list[Any]] = {
    "v": [0, 2, -1, "1", None, True, 1.0, []],
    "id": [*NO_TEXTS, "x" * 129, "ß" * 65, "\U0010ffff" * 33],
    "sent_at": NO_MILLIS,
    "deadline": NO_MILLIS,
    "store": ["", "a/b", ".a", "-a", "_a", "a b", "ä", "a\n", "\na", "a\0", "x" * 65, None, 1, []],
    "key": [*NO_TEXTS, "x" * 513, "ß" * 257, "\U0010ffff" * 129],
    "value": [2**63, {"a\0": 1}, [2**64]],
    "kind": ["", "Merge", "json", None, 1, []],
    "patch": [2**63, {"a\0": 1}, [2**64]],
    "ttl_seconds": [0, -2, 2**31, -(2**63), 2**64, -1.0, 1.0, 0.5, "1", True, []],
    "return_value": [None, 0, 1, "true"],
    "etag": [1, True, [], {}, 1.5, "x" * 129],
    "max_version": [-1, 2**63, 2**64, 1.0, "1", True, []],
    "concurrency": ["first_write", "", None, 1, []],
    "return_current": [None, 0, 1, "true"],
    "metadata": NO_METADATA,
    "consistency": ["", "linearizable", None, 1],
    "after_version": [-1, 2**63, 2**64, None, 1.0, "1", True],
    "before_version": [0, -1, 2**63, 1.0, "1", True, []],
    "from_time": NO_MILLIS,
    "to_time": NO_MILLIS,
    "backward": [None, 0, 1, "true"],
    "limit": [0, 1001, -1, None, 1.0, "1", True],
    "messages": NO_MESSAGES,
    "values": [None, 0, 1, "true"],
    "since": NO_MILLIS,
    "at_version": [0, -1, 2**63, 1.0, "1", True, []],
    "at_time": NO_MILLIS,
    "correlation_id": [text for text in NO_TEXTS if text is not None] + ["x" * 129],
    "causation_id": [text for text in NO_TEXTS if text is not None] + ["ß" * 65],
    "prefix": [text for text in NO_TEXTS if text != ""] + ["x" * 513],
    "after": [text for text in NO_TEXTS if text is not None] + ["x" * 513],
    "count_only": [None, 0, 1, "true"],
}
COMMON = ["v", "id", "sent_at", "deadline"]
WRITE = [
    *COMMON, "store", "key", "etag", "max_version", "return_current", "metadata", "correlation_id", "causation_id",
]  # fmt: skip
FIELDS: dict[str, list[str]] = {
    "save": [*WRITE, "value", "concurrency", "ttl_seconds", "messages"],
    "delete": [*WRITE, "messages"],
    "patch": [*WRITE, "kind", "patch", "ttl_seconds", "return_value", "messages"],
    "restore": [*WRITE, "at_version", "ttl_seconds"],
    "purge": WRITE,
    "read": [*COMMON, "store", "key", "consistency", "at_version", "at_time"],
    "history": [
        *COMMON, "store", "key", "after_version", "before_version", "from_time", "to_time", "backward", "limit",
    ],
    "keys": [*COMMON, "store", "prefix", "after", "limit", "count_only"],
    "watch": [*COMMON, "store", "prefix", "after", "limit", "values", "since"],
    "changes": [*COMMON, "store", "key", "after_version", "since", "limit"],
    "describe": COMMON,
}  # fmt: skip


def is_required(op: str, name: str) -> bool:
    return name in ("id", "key", "value", "kind", "patch") or (op, name) == ("restore", "at_version")


def least(op: str) -> dict[str, Any]:
    return {"op": op} | {name: GOOD[name][0] for name in FIELDS[op] if is_required(op, name)}


def decode(command: dict[str, Any]) -> Command | BadCommand:
    return decode_commands(json.dumps(command).encode()).commands[0]


@pytest.mark.parametrize("op", OPS)
def test_fields_are_the_documented_ones(op: str) -> None:
    """Nobody adds a field without saying here what it takes."""
    assert set(OPS[op].model_fields) == {"op", *FIELDS[op]}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("op", "name", "value"), [(op, name, value) for op in OPS for name in FIELDS[op] for value in GOOD[name]]
)
def test_good_fields(op: str, name: str, value: Any) -> None:
    """Each field takes what it should, and keeps it."""
    command = decode(least(op) | {name: value})
    assert type(command) is OPS[op]
    kept = getattr(command, name)
    assert (list(kept) if isinstance(kept, tuple) else kept) == value


@pytest.mark.parametrize(
    ("op", "name", "value"), [(op, name, value) for op in OPS for name in FIELDS[op] for value in BAD[name]]
)
def test_bad_fields(op: str, name: str, value: Any) -> None:
    """Each field refuses the rest, and the error names it."""
    bad = decode(least(op) | {name: value})
    assert isinstance(bad, BadCommand)
    assert (bad.error.field or "").replace("[", ".").split(".")[0] == name
    assert bad.error.code.startswith("bad_")
    assert bad.id == (None if name == "id" else "a")


@pytest.mark.parametrize(("op", "name"), [(op, name) for op in OPS for name in FIELDS[op] if is_required(op, name)])
def test_required_fields(op: str, name: str) -> None:
    """What has no default has to be given."""
    command = least(op)
    del command[name]
    bad = decode(command)
    assert isinstance(bad, BadCommand)
    assert (bad.error.code, bad.error.field) == ("missing_field", name)


@pytest.mark.parametrize(
    ("op", "name"), [(op, name) for op in OPS for name in [*GOOD, "what"] if name not in FIELDS[op]]
)
def test_fields_of_other_commands(op: str, name: str) -> None:
    """A field that a command does not have is refused, so that no typing error passes in silence."""
    bad = decode(least(op) | {name: GOOD.get(name, [1])[0]})
    assert isinstance(bad, BadCommand)
    assert (bad.error.code, bad.error.field) == ("unknown_field", name)


@given(data=st.data(), op=st.sampled_from(list(OPS)))
def test_any_fault_is_a_bad_command_that_names_a_field(data: st.DataObject, op: str) -> None:
    """However many fields are wrong, missing or unknown, one of them is named and nothing is raised."""
    command = least(op)
    names = data.draw(st.lists(st.sampled_from([*BAD, "what"]), min_size=1, unique=True))
    faulty = set()
    for name in names:
        if name not in FIELDS[op]:
            command[name] = 1
            faulty.add(name)
        elif is_required(op, name) and data.draw(st.booleans()):
            del command[name]
            faulty.add(name)
        else:
            command[name] = data.draw(st.sampled_from(BAD[name]))
            faulty.add(name)
    bad = decode(command)
    assert isinstance(bad, BadCommand)
    assert (bad.error.field or "").replace("[", ".").split(".")[0] in faulty


@pytest.mark.parametrize(("check", "limit"), [(check_key, MAX_KEY_BYTES), (check_id, MAX_ID_BYTES)])
@pytest.mark.parametrize("character", ["a", "ß", "€", "\U0010ffff"])
def test_limits_are_bytes(check: Any, limit: int, character: str) -> None:
    """Keys and ids are measured in bytes of UTF-8."""
    fitting = character * (limit // len(character.encode()))
    assert check(fitting) is fitting
    with pytest.raises(InvalidError, match=f"{limit} bytes"):
        check(fitting + character)


@given(st.text(max_size=150))
def test_ids_and_keys_are_unicode_without_nul(text: str) -> None:
    """Exactly the texts of fitting size without NUL and without lone surrogates pass."""
    try:
        good = 0 < len(text.encode()) <= MAX_ID_BYTES and "\0" not in text
    except UnicodeEncodeError:
        good = False
    if good:
        assert check_id(text) is text
    else:
        with pytest.raises(InvalidError) as caught:
            check_id(text)
        assert caught.value.field == "id"


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\ud800" * 200])
def test_lone_surrogates(text: str) -> None:
    """What cannot be written as UTF-8 is no key and no id, however short it is."""
    for check in (check_key, check_id):
        with pytest.raises(InvalidError, match="Unicode"):
            check(text)


def test_commands_cannot_be_changed() -> None:
    """A command that was checked stays what it was."""
    command = ReadCommand(id="1", op="read", key="k")
    with pytest.raises(ValueError, match="frozen"):
        command.key = "other"  # type: ignore[misc]


def test_metadata_is_a_copy() -> None:
    """What a caller does with its own dict later does not change the command."""
    metadata = {"a": "b"}
    command = DeleteCommand(id="1", op="delete", key="k", metadata=metadata)
    metadata["a"] = "c"
    assert command.metadata == {"a": "b"}


@given(
    st.sampled_from(["save", "delete"]),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20),
)
def test_a_command_can_be_written_and_read_again(op: str, key: str) -> None:
    """What a client dumps, a worker reads as the same command."""
    command = OPS[op](**(least(op) | {"key": key}))
    assert decode(command.model_dump(exclude_unset=True)) == command
    assert decode(command.model_dump()) == command
