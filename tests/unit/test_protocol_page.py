"""docs/protocol.md names everything that can be said on the wire."""

import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from holdfast.events import (
    CheckOperation,
    Command,
    DeleteOperation,
    ErrorInfo,
    HistoryEntry,
    KeyEntry,
    OperationReply,
    QueryEntry,
    Reply,
    SaveOperation,
    Status,
    feed,
    limits,
    topology,
    values,
)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
WORDS = set(re.findall(r"[`\"]([\w.-]+)[`\"]", PAGE))
COMMANDS: list[type[BaseModel]] = list(get_args(Command))
OPERATIONS: list[type[BaseModel]] = [SaveOperation, DeleteOperation, CheckOperation]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_of_a_command_is_in_the_table(command: type[BaseModel]) -> None:
    """Given a command's model, when the table of fields is read, then it lists the field for that command."""
    table = PAGE.split("## Commands")[1].split("## ")[0]
    rows = {cells[1].strip(" `"): cells[3] for line in table.splitlines() if len(cells := line.split("|")) > 4}
    (name,) = get_args(command.model_fields["op"].annotation)
    for field in command.model_fields:
        where = rows[field]
        assert f"`{name}`" in where or "all" in where, f"{field} of {name}"
    for field, where in rows.items():
        if f"`{name}`" in where and "all but" not in where:
            assert field in command.model_fields, f"{name} has no {field}"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_field_of_an_operation_is_in_its_table(operation: type[BaseModel]) -> None:
    """Given the model of an operation, when the table of transactions is read, then it lists the field for it."""
    table = PAGE.split("## Transactions")[1].split("## ")[0]
    rows = {cells[1].strip(" `"): cells[3] for line in table.splitlines() if len(cells := line.split("|")) > 4}
    (name,) = get_args(operation.model_fields["op"].annotation)
    for field in operation.model_fields:
        assert f"`{name}`" in rows[field] or "all" in rows[field], f"{field} of {name}"
    for field, where in rows.items():
        if f"`{name}`" in where:
            assert field in operation.model_fields, f"{name} has no {field}"
    assert f"1 to {limits.MAX_OPERATIONS} objects" in PAGE


@pytest.mark.parametrize("model", [Reply, ErrorInfo, HistoryEntry, KeyEntry, OperationReply, QueryEntry])
def test_every_field_of_a_reply_is_named(model: type[BaseModel]) -> None:
    """Given a reply's model, when the page is read, then it names each field."""
    assert set(model.model_fields) <= WORDS


def test_every_status_is_named() -> None:
    """Given the statuses, when the page is read, then it names each, and calls the unused ones reserved."""
    assert {status.value for status in Status} <= WORDS
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "worker").glob("*.py"))
    used = {status for status in Status if f"Status.{status.name}" in sources} | {Status.OK}
    for status in Status:
        (row,) = re.findall(rf"^\| `{status}` \|.*$", PAGE, re.MULTILINE)
        assert ("no worker sends it yet" in row) == (status not in used), status


def test_every_error_code_is_named() -> None:
    """Given the codes that stand in the sources, when the page is read, then it names each, and no invented one."""
    codes: set[str] = set()
    for path in [*(ROOT / "events").glob("*.py"), *(ROOT / "worker").glob("*.py")]:
        source = path.read_text(encoding="utf-8")
        codes |= set(re.findall(r'(?:code|reason)(?:: str)?\s*=\s*"(\w+)"', source))
        codes |= set(re.findall(r'\berror\(\s*[\w.]+,\s*"(\w+)"', source))
        codes |= set(re.findall(r'\bcode, message = "(\w+)"', source))
    # bad_<field> is made of the field's name.
    fields = {field for command in [*COMMANDS, *OPERATIONS] for field in command.model_fields} - {"v", "op"}
    codes |= {f"bad_{field}" for field in fields}
    assert {"malformed", "exists", "etag_mismatch", "absent", "deadline", "id_reused", "queue_full"} <= codes
    # The default of InvalidError's argument, which nothing on the wire uses.
    codes.discard("invalid")
    assert codes - WORDS == set()
    tables = PAGE.split("### Statuses and error codes")[1].split("## Ids")[0]
    named = {word for word in re.findall(r"`(\w+)`", tables) if word.startswith(("bad_", "too_", "duplicate_", "id_r"))}
    assert named - codes == set()


def test_names_and_limits_are_those_of_the_code() -> None:
    """Given names on the broker and limits, when the page is read, then it has the same."""
    for name in (
        topology.COMMANDS,
        topology.INGRESS,
        topology.DEAD,
        topology.EVENTS,
        topology.FEED_HEADER,
        topology.STORE_HEADER,
        topology.KEY_HEADER,
        topology.VERSION_HEADER,
        topology.RESERVED_PREFIX,
        topology.REASON_HEADER,
        topology.DETAIL_HEADER,
        topology.SWEEP_HEADER,
    ):
        assert f"`{name}`" in PAGE
    assert f"1 to {limits.MAX_KEY_BYTES} bytes" in PAGE
    assert f"1 to {limits.MAX_ID_BYTES} bytes" in PAGE
    assert f"1 to {limits.MAX_STORE_LENGTH} of" in PAGE
    assert f"{limits.MAX_METADATA_ENTRIES} entries, {limits.MAX_METADATA_BYTES:,} bytes" in PAGE
    assert f"1 to {limits.MAX_PAGE:,}" in PAGE
    assert f"{limits.MAX_MESSAGES} messages, {limits.MAX_MESSAGES_BYTES // 1024} KiB" in PAGE
    assert f"{feed.MAX_LEVEL_LENGTH} characters" in PAGE
    assert f"`{feed.FEED_CONTENT_TYPE}`" in PAGE
    assert f"1 to {limits.MAX_TTL_SECONDS:,}, or {limits.FOREVER}; or null" in PAGE
    assert f"at most {limits.MAX_PATCH_OPERATIONS:,} operations" in PAGE
    assert f"numbers, 1 to {limits.MAX_PATCH_OPERATIONS:,}" in PAGE
    assert f"at most {limits.MAX_DEPTH} levels" in PAGE
    assert f"At most {limits.MAX_DEPTH} levels" in PAGE
    assert f"at most {limits.MAX_ETAG_LENGTH} characters" in PAGE
    assert f"4 MiB and to {limits.MAX_MESSAGE_COMMANDS:,} commands" in PAGE
    assert (
        f'"value_bytes": {limits.DEFAULT_MAX_VALUE_BYTES}, "message_bytes": {limits.MAX_MESSAGE_BYTES}, '
        f'"message_commands": {limits.MAX_MESSAGE_COMMANDS}'
    ) in PAGE
    assert f"cut after {values.MAX_PLACE} characters" in PAGE
    assert f"version {limits.PROTOCOL_VERSION}" in PAGE
    assert limits.FENCE_WINDOW_MS == 7 * 24 * 3600 * 1000
