"""What docs/protocol.md says of a message: which answers it may get, or which dead letters it may become.

Written from that page, with the standard library's JSON and none of Holdfast's own code, so that a fault has to be
made twice to go unseen. Where the page leaves a choice (of two faults in one command either may be told), all that it
allows is allowed.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from . import queries
from .patches import KINDS, conflicts, is_patch

MESSAGE_BYTES = 4 * 2**20
MESSAGE_COMMANDS = 10_000
VALUE_BYTES = 2**20
VALUE_LEVELS = 100
OPERATIONS = 500
DAY = 24 * 3600 * 1000
#: Levels from which on a message may be, and from which on it is, one that cannot be read.
DEEP, TOO_DEEP = 900, 1024

#: An id that the worker makes.
MADE: Final = object()

_STORE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_LONG_DIGITS = re.compile(rb"\d{300}")
_ANY_OF_EQUALS = frozenset({"ok", "invalid id_reused", "invalid duplicate_id"})
_LATE = ("expired deadline", "expired too_old")


class UnreadableError(ValueError):
    """A body is not what the page calls JSON."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What may come of one command."""

    #: The id in its answer: a text, None, or MADE.
    id: Any
    #: "ok", or a status and a code.
    outcomes: frozenset[str]
    #: What error.field may be, by code; nothing is said of those that are not here.
    fields: dict[str, frozenset[str]]
    #: The command as it was read; of a message that cannot be read, its body.
    command: Any
    #: None if it has none, or if it is not known which of several commands it is.
    op: str | None = None

    @property
    def buried(self) -> bool | None:
        """Whether it becomes a dead letter if nobody waits for an answer; None if it may."""
        buried = {is_fault(outcome) for outcome in self.outcomes}
        return None if len(buried) == 2 else buried.pop()


#: Of a state in the past.
_PLACES = ("at_version", "at_time")


def is_fault(outcome: str) -> bool:
    """Whether it is told to the operator, if nobody else waits for it. Conflicts and the like are outcomes."""
    return outcome not in ("ok", "invalid id_reused", *_LATE) and not outcome.startswith("conflict")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What may come of a message."""

    fates: tuple[Fate, ...]
    is_array: bool
    #: It becomes a dead letter for this reason, as a whole, and is answered by nobody.
    buried_for: str | None = None


def judge(
    body: bytes,
    *,
    message_id: bytes | None,
    correlation_id: bytes | None,
    reply_to: bytes | None,
    now: int,
    is_fresh: Callable[[str], bool],
    split: bool,
    stores: frozenset[str] = frozenset({"default"}),
) -> list[Judgement]:
    """All that may come of a message; more than one judgement if the page leaves it open how it is read.

    :param now: milliseconds since 1970.
    :param is_fresh: whether an id belongs to no other command.
    :param split: it comes by the ingress, and may be taken apart before ids are compared.
    """
    texts = []
    for text in (reply_to, correlation_id, message_id):
        try:
            texts.append((text or b"").decode())
        except UnicodeDecodeError:
            return [Judgement((), is_array=False, buried_for="bad_properties")]
    if texts[0].startswith("holdfast."):
        return [Judgement((), is_array=False, buried_for="bad_reply_to")]
    if len(body) > MESSAGE_BYTES:
        return [_whole(body, "too_large too_large")]
    levels = depth(body)
    unread = [_whole(body, "invalid malformed")]
    if levels > TOO_DEEP:
        return unread
    try:
        data = read(body, levels)
    except UnreadableError:
        return unread
    if levels <= DEEP:
        unread = []
    court = _Court(now, is_fresh, stores)
    if isinstance(data, dict):
        return [Judgement((court.judge_object(data, texts[2]),), is_array=False), *unread]
    if not isinstance(data, list):
        return [_whole(body, "invalid malformed")]
    if len(data) > MESSAGE_COMMANDS:
        return [_whole(body, "too_large too_large"), *unread]
    return [Judgement(court.judge_array(data, split=split), is_array=True), *unread]


def _whole(body: bytes, outcome: str) -> Judgement:
    return Judgement((Fate(None, frozenset({outcome}), {}, body),), is_array=False)


def depth(body: bytes) -> int:
    """Levels of arrays and objects in a text, if it is JSON."""
    if body.count(b"[") + body.count(b"{") <= DEEP:
        return 0  # it does not matter
    deepest = level = 0
    for code in _STRINGS.sub(b"", body).translate(None, delete=bytes(set(range(256)) - set(b"[]{}"))):
        level += 1 if code in b"[{" else -1
        deepest = max(deepest, level)
    return deepest


@contextmanager
def _deep(levels: int) -> Iterator[None]:
    limit = sys.getrecursionlimit()
    try:
        if levels:
            sys.setrecursionlimit(limit + 4 * TOO_DEEP)
        yield
    finally:
        sys.setrecursionlimit(limit)


def read(body: bytes, levels: int = 0) -> Any:
    """Parse JSON as RFC 8259 has it, without numbers that no double comes near, and without lone surrogates.

    :raises UnreadableError: if it is anything else.
    """
    with _deep(levels):
        try:
            text = body.decode()
            parse_int = _integer if _LONG_DIGITS.search(body) else None
            data = json.loads(text, parse_constant=_refuse, parse_int=parse_int, object_pairs_hook=_object)
            # Lone surrogates and infinite numbers can be read, but not written.
            json.dumps(data, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as fault:
            raise UnreadableError(str(fault)) from None
    return data


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(members)
    if len(made) < len(members):
        # Those that are hidden by others have to be readable, too.
        json.dumps(members, allow_nan=False, ensure_ascii=False).encode()
    return made


def _refuse(constant: str) -> Any:
    raise UnreadableError(constant)


def _integer(digits: str) -> int:
    if float(digits) in (float("inf"), float("-inf")):
        raise UnreadableError("beyond all doubles")
    return int(digits)


@dataclass
class _Faults:
    """What is wrong with a command: codes, and the fields that are meant."""

    by_code: dict[str, set[str]] = field(default_factory=dict)

    def add(self, code: str, name: str) -> None:
        self.by_code.setdefault(code, set()).add(name)


class _Court:
    def __init__(self, now: int, is_fresh: Callable[[str], bool], stores: frozenset[str]) -> None:
        self._now = now
        self._is_fresh = is_fresh
        self._stores = stores

    def judge_object(self, data: dict[str, Any], message_id: str) -> Fate:
        """One command by itself, whose id may be the message's."""
        if "id" in data:
            return self._judge(data, data["id"])
        if message_id:
            return self._judge(data, message_id)
        return self._judge(data, MADE)

    def judge_array(self, items: list[Any], *, split: bool) -> tuple[Fate, ...]:
        """Commands, each for itself, but no two under one id."""
        fates = [self._judge(item, item.get("id") if isinstance(item, dict) else None) for item in items]
        first: dict[str, int] = {}
        for number, fate in enumerate(fates):
            if fate.id is None or first.setdefault(fate.id, number) == number:
                continue
            if split:
                # In two partitions neither is known to be the second one, and by its answer neither can be told.
                equals = (first[fate.id], number)
                outcomes = fates[equals[0]].outcomes | fate.outcomes | _ANY_OF_EQUALS
                for equal in equals:
                    fates[equal] = Fate(fate.id, outcomes, {}, fates[equal].command)
            else:
                fates[number] = Fate(fate.id, frozenset({"invalid duplicate_id"}), {}, fate.command, fate.op)
        return tuple(fates)

    def _judge(self, data: Any, command_id: Any) -> Fate:
        if not isinstance(data, dict):
            return Fate(None, frozenset({"invalid malformed"}), {}, data)
        told = command_id if command_id is MADE or is_text(command_id, 128) else None
        op = data.get("op")
        rules = _RULES.get(op) if isinstance(op, str) else None
        if rules is None or op is None:
            return Fate(told, frozenset({"invalid bad_op"}), {"bad_op": frozenset({"op"})}, data)
        faults = _Faults()
        if told is None:
            missing = command_id is None and "id" not in data
            faults.add("missing_field" if missing else "bad_id", "id")
        for name in data.keys() - rules.keys() - {"op", "id"}:
            faults.add("unknown_field", name)
        for name, (is_good, required) in rules.items():
            if name not in data:
                if required:
                    faults.add("missing_field", name)
            elif not is_good(data[name]):
                faults.add("bad_version" if name == "v" else f"bad_{name}", name)
        if op == "transact" and "operations" in data:
            for code, name in operation_faults(data):
                faults.add(code, name)
        if op == "read" and not faults.by_code.keys() & {"bad_at_version", "bad_at_time"} and _is_torn(data):
            faults.add("bad_at_version", "at_version")
        if faults.by_code:
            outcomes = frozenset(f"invalid {code}" for code in faults.by_code)
            fields = {code: frozenset(names) for code, names in faults.by_code.items()}
            return Fate(told, outcomes, fields, data, op)
        if op == "patch" and not is_patch(data["kind"], data["patch"]):
            return Fate(told, frozenset({"invalid bad_patch"}), {"bad_patch": frozenset({"patch"})}, data, op)
        return Fate(told, frozenset(self._outcomes(op, data, told)), {}, data, op)

    def _outcomes(self, op: str, data: dict[str, Any], command_id: Any) -> set[str]:
        if op == "describe":
            return {"ok"}
        if data.get("store", "default") not in self._stores:
            # Of two reasons to refuse it, either may be told.
            saves = [data] if op in ("save", "patch") else _saves(data) if op == "transact" else []
            return {"unknown_store unknown_store"}.union(*(self._sizes(one) - {"ok"} for one in saves))
        if op == "query" and data.get("token") is not None:
            # That it is none of this query's is told to those who wait for an answer.
            return self._times(data) or {"ok", "invalid bad_token"}
        if op in ("read", "history", "keys", "query", "watch", "changes"):
            return self._times(data) or _past(data)
        if op == "transact":
            return self._outcomes_of_a_transaction(data, command_id)
        if data.get("messages"):
            # By default they may go nowhere.
            return {"denied denied"}
        outcomes = self._sizes(data) if op in ("save", "patch") else {"ok"}
        if op == "restore":
            outcomes |= {"conflict no_value", "conflict stripped"}
        if "ok" not in outcomes:
            return outcomes
        outcomes |= self._times(data)
        if outcomes & set(_LATE):
            outcomes.discard("ok")
        if data.get("etag") is not None:
            # Ours are a version and eight digits; that one is guessed is as good as impossible, but not against a rule.
            outcomes = (outcomes - {"ok", "conflict no_value"}) | {"conflict absent", "conflict etag_mismatch"}
        elif op == "patch":
            outcomes |= conflicts(data["kind"])
        elif data.get("concurrency") == "first-write":
            outcomes.add("conflict exists")
        if data.get("max_version") is not None:
            outcomes.add("conflict newer")
        if command_id is not MADE and not self._is_fresh(command_id):
            # Its answer may be that of an earlier delivery, or of another command.
            outcomes |= {"ok", "invalid id_reused", *_LATE, "conflict exists", "conflict newer"}
            outcomes |= {"conflict absent", "conflict etag_mismatch", "conflict no_value", "conflict stripped"}
            if op == "patch":
                outcomes |= conflicts(data["kind"])
        return outcomes

    def _outcomes_of_a_transaction(self, data: dict[str, Any], command_id: Any) -> set[str]:
        if data.get("messages"):
            return {"denied denied"}
        sizes = [self._sizes(one) for one in _saves(data)]
        outcomes = {"ok"}.union(*sizes)
        if any("ok" not in one for one in sizes):
            return {"too_large too_large"}
        outcomes |= self._times(data)
        if outcomes & set(_LATE):
            outcomes.discard("ok")
        for one in data["operations"]:
            outcomes |= condition_outcomes(one)
            if one.get("etag") is not None:
                outcomes.discard("ok")
        if command_id is not MADE and not self._is_fresh(command_id):
            outcomes |= {"ok", "invalid id_reused", *_LATE, "conflict exists", "conflict absent"}
            outcomes |= {"conflict etag_mismatch", "conflict newer"}
        return outcomes

    def _times(self, data: dict[str, Any]) -> set[str]:
        """How it is late, if it is; generators keep an hour away from the edge."""
        late = set()
        if data.get("sent_at") is not None and self._now - data["sent_at"] > 7 * DAY:
            late.add("expired too_old")
        if data.get("deadline") is not None and self._now > data["deadline"]:
            late.add("expired deadline")
        return late

    def _sizes(self, data: dict[str, Any]) -> set[str]:
        with _deep(VALUE_LEVELS):
            value = data["patch"] if data["op"] == "patch" else data["value"]
            size = len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
        # Numbers are written in more than one way, 1e+16 and 1e16.
        outcomes = set()
        if size > VALUE_BYTES:
            outcomes.add("too_large too_large")
        if size * 0.6 <= VALUE_BYTES:
            outcomes.add("ok")
        return outcomes


def _past(data: dict[str, Any]) -> set[str]:
    """What may come of a question that is in time: of one for the past more than of others."""
    return {"ok", "invalid stripped"} if any(data.get(name) is not None for name in _PLACES) else {"ok"}


def _is_torn(data: dict[str, Any]) -> bool:
    """Whether a question is for two places in the past, which exclude each other."""
    return all(data.get(name) is not None for name in _PLACES)


def is_text(value: Any, limit: int) -> bool:
    """Whether it is a text of 1 to ``limit`` bytes, without NUL."""
    return isinstance(value, str) and value != "" and "\0" not in value and len(value.encode()) <= limit


def _is_integer(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_time(value: Any) -> bool:
    return value is None or _is_integer(value, 0, 2**53 - 1)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_tag(value: Any) -> bool:
    return value is None or is_text(value, 128)


def _is_event_version(value: Any) -> bool:
    return _is_integer(value, 1, _MAX_VERSION)


def _is_etag(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= 128)


def _is_metadata(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or len(value) > 32:
        return False
    if not all(isinstance(text, str) and "\0" not in name for name, text in value.items()):
        return False
    return sum(len(name.encode()) + len(text.encode()) for name, text in value.items()) <= 4096


def is_value(value: Any) -> bool:
    """Whether a value can be kept exactly."""
    level = [value]
    for _ in range(VALUE_LEVELS + 1):
        below: list[Any] = []
        for member in level:
            if isinstance(member, dict):
                if any("\0" in name for name in member):
                    return False
                below += member.values()
            elif isinstance(member, list):
                below += member
            elif type(member) is int and not -(2**63) <= member < 2**63:
                return False
        if not any(isinstance(member, dict | list) for member in level):
            return True
        level = below
    return False


def _saves(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in data["operations"] if one["op"] == "save"]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value and len(value.encode()) <= 255


def _is_headers(value: Any) -> bool:
    if not isinstance(value, dict) or len(value) > 32:
        return False
    for name, content in value.items():
        if not name or len(name.encode()) > 128 or name.startswith("x-"):
            return False
        if not isinstance(content, str) and type(content) is not bool and not _is_integer(content, -(2**63), 2**63 - 1):
            return False
    return sum(len(name.encode()) + len(str(content).encode()) for name, content in value.items()) <= 4096


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {"exchange", "routing_key", "body", "headers"}
        and _is_name(value.get("exchange"))
        and _is_name(value.get("routing_key", ""))
        and _is_headers(value.get("headers", {}))
        and is_value(value.get("body"))
    )


def _is_messages(value: Any) -> bool:
    # Inputs stay far from the limit of their bytes.
    return value is None or (isinstance(value, list) and len(value) <= 16 and all(map(_is_message, value)))


_MAX_VERSION = 2**63 - 1
#: What each op takes: whether a value is good, and whether there has to be one.
_Rule = tuple[Callable[[Any], bool], bool]
_COMMON: dict[str, _Rule] = {
    "v": (lambda value: type(value) is int and value == 1, False),
    "sent_at": (_is_time, False),
    "deadline": (_is_time, False),
}
_KEYED: dict[str, _Rule] = _COMMON | {
    "store": (lambda value: isinstance(value, str) and _STORE.fullmatch(value) is not None, False),
    "key": (lambda value: is_text(value, 512), True),
}
_WRITING: dict[str, _Rule] = _KEYED | {
    "etag": (_is_etag, False),
    "max_version": (lambda value: value is None or _is_integer(value, 0, _MAX_VERSION), False),
    "return_current": (lambda value: isinstance(value, bool), False),
    "metadata": (_is_metadata, False),
    "correlation_id": (_is_tag, False),
    "causation_id": (_is_tag, False),
}
_CARRYING: dict[str, _Rule] = _WRITING | {"messages": (_is_messages, False)}
_LIVING: dict[str, _Rule] = {
    "ttl_seconds": (lambda value: value is None or (_is_integer(value, -1, 2**31 - 1) and value != 0), False),
}
_RULES: dict[str, dict[str, _Rule]] = {
    "save": _CARRYING
    | _LIVING
    | {"value": (is_value, True), "concurrency": (lambda value: value in ("first-write", "last-write"), False)},
    "patch": _CARRYING
    | _LIVING
    | {
        "kind": (lambda value: isinstance(value, str) and value in KINDS, True),
        "patch": (is_value, True),
        "return_value": (lambda value: isinstance(value, bool), False),
    },
    "delete": _CARRYING,
    "restore": _WRITING | _LIVING | {"at_version": (_is_event_version, True)},
    "purge": _WRITING,
    "read": _KEYED
    | {
        "consistency": (lambda value: value in ("strong", "eventual"), False),
        "at_version": (lambda value: value is None or _is_event_version(value), False),
        "at_time": (_is_time, False),
    },
    "history": _KEYED
    | {
        "after_version": (lambda value: _is_integer(value, 0, _MAX_VERSION), False),
        "before_version": (lambda value: value is None or _is_event_version(value), False),
        "from_time": (_is_time, False),
        "to_time": (_is_time, False),
        "backward": (_is_bool, False),
        "limit": (lambda value: _is_integer(value, 1, 1000), False),
    },
    "keys": {name: rule for name, rule in _KEYED.items() if name != "key"}
    | {
        "prefix": (lambda value: value == "" or is_text(value, 512), False),
        "after": (lambda value: value is None or is_text(value, 512), False),
        "count_only": (_is_bool, False),
        "limit": (lambda value: _is_integer(value, 1, 1000), False),
    },
    "watch": {name: rule for name, rule in _KEYED.items() if name != "key"}
    | {
        "prefix": (lambda value: value == "" or is_text(value, 512), False),
        "after": (lambda value: value is None or is_text(value, 512), False),
        "limit": (lambda value: _is_integer(value, 1, 1000), False),
        "values": (lambda value: isinstance(value, bool), False),
        "since": (_is_time, False),
    },
    "changes": _KEYED
    | {
        "after_version": (lambda value: _is_integer(value, 0, _MAX_VERSION), False),
        "since": (_is_time, False),
        "limit": (lambda value: _is_integer(value, 1, 1000), False),
    },
    "query": _COMMON
    | {
        "store": _KEYED["store"],
        "prefix": (queries.is_prefix, False),
        "filter": (queries.is_filter, False),
        "sort": (queries.is_sort, False),
        "projection": (queries.is_projection, False),
        "limit": (lambda value: _is_integer(value, 1, 1000), False),
        "token": (queries.is_token, False),
        "explain": (lambda value: isinstance(value, bool), False),
    },
    "describe": _COMMON,
    "transact": _COMMON
    | {name: _KEYED[name] for name in ("store",)}
    | {name: _CARRYING[name] for name in ("return_current", "metadata", "messages")}
    # Looked at one by one.
    | {"operations": (lambda _: True, True)},
}
_OPERATION_RULES: dict[str, dict[str, _Rule]] = {
    "save": {name: _RULES["save"][name] for name in ("key", "value", "etag", "concurrency", "ttl_seconds")},
    "delete": {name: _RULES["delete"][name] for name in ("key", "etag")},
    "check": {name: _RULES["delete"][name] for name in ("key", "etag")}
    | {"exists": (lambda value: value is None or isinstance(value, bool), False)},
}


def operation_faults(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the operations of a transaction: codes, and the fields that are meant."""
    operations = data["operations"]
    if not isinstance(operations, list) or not 1 <= len(operations) <= OPERATIONS:
        yield "bad_operations", "operations"
        return
    for number, one in enumerate(operations):
        place = f"operations[{number}]"
        if not isinstance(one, dict):
            yield "bad_operations", place
            continue
        op = one.get("op")
        rules = _OPERATION_RULES.get(op) if isinstance(op, str) else None
        if rules is None:
            yield "bad_op", f"{place}.op"
            continue
        for name in one.keys() - rules.keys() - {"op", "store"}:
            yield "unknown_field", f"{place}.{name}"
        for name, (is_good, required) in rules.items():
            if name not in one:
                if required:
                    yield "missing_field", f"{place}.{name}"
            elif not is_good(one[name]):
                # Where in a value it is may be told too.
                yield f"bad_{name}", "operations" if name == "value" else f"{place}.{name}"
        if op == "check" and (one.get("etag") is None) == (one.get("exists") is None):
            yield "bad_check", place
        if one.get("store") is not None:
            if not _KEYED["store"][0](one["store"]):
                yield "bad_store", f"{place}.store"
            elif one["store"] != data.get("store", "default"):
                yield "several_stores", f"{place}.store"


def condition_outcomes(operation: dict[str, Any]) -> set[str]:
    """The conflicts that one operation of a transaction may meet."""
    if operation.get("etag") is not None:
        return {"conflict absent", "conflict etag_mismatch"}
    if operation["op"] == "check":
        return {"conflict absent" if operation["exists"] else "conflict exists"}
    return {"conflict exists"} if operation.get("concurrency") == "first-write" else set()
