"""What an answer has to look like, whatever it answers."""

import re
from typing import Any

from .oracle import MADE, Fate

#: Characters of a message and of a field's name at most: what was sent does not come back at length.
LONGEST_MESSAGE = 500
LONGEST_FIELD = 201

_ALWAYS = {"id", "status", "epoch", "time"}
_STATE = {"exists", "etag", "version", "updated_at"}
_SHAPES: dict[str, set[str]] = {
    "save": _STATE | {"changed", "expires"},
    "patch": _STATE | {"changed", "expires", "value"},
    "delete": _STATE | {"changed"},
    "restore": _STATE | {"changed", "expires"},
    "purge": _STATE | {"changed"},
    "read": _STATE | {"value", "expires"},
    "history": {"events", "next"},
    "transact": {"results"},
    "keys": {"keys", "count", "next"},
    "query": {"entries", "token", "scan", "as_of"},
    "watch": {"events", "next", "versions"},
    "changes": {"events", "next"},
    "describe": {"partitions", "protocol", "stores", "limits", "feed", "capabilities", "ttl_seconds"},
}
_ERROR = {"code", "message", "field"}
_CONFLICT = {"expected", "actual", "winner", "current"}
#: Of a transaction, which operation it is.
_PLACE = {"operation", "key"}
#: What tells of the program that made it, and is nobody's business.
INTERNALS = re.compile(r"Traceback|pydantic|orjson|pymongo|<class|object at 0x|sys\.|File \"|\.py\b|Error\(|Exception")


def check_answer(answer: Any, fate: Fate) -> str | None:
    """What is wrong with an answer to a command; None if nothing is."""
    if not isinstance(answer, dict) or not answer.keys() >= _ALWAYS:
        return f"it is no reply: {str(answer)[:300]}"
    if answer["id"] != fate.id and not (fate.id is MADE and isinstance(answer["id"], str) and answer["id"]):
        return f"id {str(answer['id'])[:200]!r}, allowed is {fate.id!r}"
    if type(answer["epoch"]) is not int or type(answer["time"]) is not int:
        return f"epoch {answer['epoch']!r}, time {answer['time']!r}"
    outcome = outcome_of(answer)
    if outcome not in fate.outcomes:
        return f"{outcome} ({answer.get('error')!r:.300}), allowed are {sorted(fate.outcomes)}"
    if outcome == "ok":
        return _check_ok(answer, fate)
    return _check_error(answer, fate)


def outcome_of(answer: dict[str, Any]) -> str:
    """As in a fate: "ok", or a status and a code."""
    if answer["status"] == "ok":
        return "ok" if "error" not in answer else "ok with an error"
    error = answer.get("error")
    return f"{answer['status']} {error.get('code')}" if isinstance(error, dict) else f"{answer['status']} without error"


def _check_ok(answer: dict[str, Any], fate: Fate) -> str | None:
    if fate.op is None:
        return None
    others = answer.keys() - _ALWAYS - _SHAPES[fate.op]
    if others:
        return f"fields that {fate.op} has not: {others}"
    if fate.op in ("save", "patch", "delete", "restore", "purge", "read"):
        if type(answer.get("version")) is not int or type(answer.get("exists")) is not bool:
            return f"version {answer.get('version')!r}, exists {answer.get('exists')!r}"
        if (answer.get("etag") is not None) != answer["exists"]:
            return f"etag {answer.get('etag')!r}, exists {answer['exists']!r}"
        there = {"save": True, "patch": True, "restore": True, "delete": False, "purge": False}
        if answer["exists"] != there.get(fate.op, "value" in answer):
            return f"exists {answer['exists']!r} after {fate.op}"
    if fate.op == "transact":
        return _check_results(answer.get("results"), fate.command["operations"])
    if fate.op == "patch" and ("value" in answer) != bool(fate.command.get("return_value")):
        return "a value that nobody asked for, or none for somebody who did"
    if type(answer.get("expires", 0)) is not int:
        return f"expires {answer['expires']!r}"
    if fate.op in ("history", "watch", "changes") and not isinstance(answer.get("events"), list):
        return "a history without events"
    if fate.op == "keys" and isinstance(answer.get("keys"), list) == (fate.command.get("count_only") is True):
        return "keys where only their number was asked for, or none"
    if fate.op == "query" and (type(answer.get("scan")) is not bool or type(answer.get("as_of")) is not int):
        return f"scan {answer.get('scan')!r}, as_of {answer.get('as_of')!r}"
    if fate.op == "query" and fate.command.get("explain") is not True and not isinstance(answer.get("entries"), list):
        return "a query without entries"
    if fate.op == "describe" and type(answer.get("partitions")) is not int:
        return "a description without partitions"
    return None


def _check_results(results: Any, operations: list[dict[str, Any]]) -> str | None:
    if not isinstance(results, list) or len(results) != len(operations):
        return f"results of {len(operations)} operations: {str(results)[:200]}"
    for number, (result, operation) in enumerate(zip(results, operations, strict=True)):
        if result.get("key") != operation["key"] or result.keys() - _STATE - {"key", "changed", "expires"}:
            return f"result {number}: {str(result)[:200]}"
        if (result.get("etag") is not None) != result["exists"] or type(result.get("version")) is not int:
            return f"etag or version of result {number}: {str(result)[:200]}"
        wanted = {"save": True, "delete": False}.get(operation["op"], operation.get("exists"))
        if result["exists"] is not wanted and wanted is not None:
            return f"result {number} of {operation['op']}: exists {result['exists']}"
    return None


def _check_error(answer: dict[str, Any], fate: Fate) -> str | None:
    error = answer["error"]
    is_conflict = answer["status"] == "conflict"
    others = answer.keys() - _ALWAYS - {"error"} - ({"exists", "version"} if is_conflict else set())
    others |= (
        error.keys()
        - _ERROR
        - (_CONFLICT if is_conflict else set())
        # One of several commands that share an id may be a transaction.
        - (_PLACE if fate.op in ("transact", None) else set())
    )
    if others:
        return f"fields that {answer['status']} has not: {others}"
    message, field = error.get("message"), error.get("field")
    if not isinstance(message, str) or not 0 < len(message) <= LONGEST_MESSAGE:
        return f"message {str(message)[:100]!r}"
    if INTERNALS.search(message):
        return f"it tells of the program: {message}"
    if not isinstance(field, str | None) or len(field or "") > LONGEST_FIELD:
        return f"field {str(field)[:100]!r}"
    if is_conflict and fate.op is None:
        return None
    if is_conflict:
        demanding = fate.command
        if fate.op == "transact":
            demanding = fate.command["operations"][error["operation"]]
            if error.get("key") != demanding["key"]:
                return (
                    f"operation {error['operation']} is of {demanding['key']!r:.200}, not of {error.get('key')!r:.200}"
                )
        if error.get("expected") != demanding.get("etag"):
            return f"expected {error.get('expected')!r:.200}"
        if "current" in error and not fate.command.get("return_current"):
            return "a current value that nobody asked for"
        return None
    return (
        None
        if is_told(error["code"], field, fate)
        else f"field {field!r} of {error['code']}, at fault are {fate.fields}"
    )


def is_told(code: str, field: str | None, fate: Fate) -> bool:
    """Whether the field that is named is one that is at fault."""
    allowed = fate.fields.get(code)
    if allowed is None:
        return True
    told = (field or "").removesuffix("…")
    if code in ("bad_value", "bad_patch", "bad_metadata", "bad_messages", "bad_filter", "bad_sort", "bad_projection"):
        return told.replace("[", ".").split(".")[0] in allowed
    return any(name.startswith(told) and (name == told or len(told) == LONGEST_FIELD - 1) for name in allowed)
