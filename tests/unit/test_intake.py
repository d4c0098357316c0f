"""From a message's bytes to requests: each kind of bad message is told what is wrong with it, and harms no other."""

import json
from collections.abc import Iterable
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import wire
from support.deliveries import RememberingBroker, delivery

from holdfast.events import HistoryCommand, KeysCommand, QueryCommand, ReadCommand, digest_of, partition_of
from holdfast.events.limits import MAX_MESSAGE_BYTES
from holdfast.stores import KeyScope
from holdfast.worker import Request
from holdfast.worker.delivery import Delivery
from holdfast.worker.intake import Elsewhere, Intake
from holdfast.worker.lane import Lane
from holdfast.worker.outbox import Outbox
from holdfast.worker.watching import Watched

PARTITIONS = 8
KEY = "k"
HOME = partition_of("default", KEY, PARTITIONS)
#: A key of another partition.
FAR_KEY = next(key for key in "abcdefgh" if partition_of("default", key, PARTITIONS) != HOME)
FAR = partition_of("default", FAR_KEY, PARTITIONS)
BIG = 123456789012345678901234567890


class StillLane:
    """A lane that only keeps what it is given."""

    def __init__(self) -> None:
        self.taken: list[Request] = []

    def add(self, requests: Iterable[Request]) -> None:
        self.taken += requests


class Desk:
    """An intake, with all that it hands things to."""

    def __init__(self, *, max_value_bytes: int = 1000, lacking: dict[str, set[str]] | None = None) -> None:
        self.lanes = {store: StillLane() for store in ("default", "other")}
        self.outbox = Outbox(RememberingBroker(), stamp=dict)
        self.elsewhere: list[Elsewhere] = []
        self.queries: list[tuple[Delivery, QueryCommand, KeyScope]] = []
        self.watches: list[tuple[Delivery, Watched]] = []
        self.histories: list[tuple[Delivery, HistoryCommand | ReadCommand]] = []
        self.lists: list[tuple[Delivery, KeysCommand, KeyScope]] = []
        self.intake = Intake(
            lanes=cast("dict[str, Lane]", self.lanes),
            outbox=self.outbox,
            partitions=PARTITIONS,
            max_value_bytes=max_value_bytes,
            describe=lambda: {"status": "ok", "partitions": PARTITIONS},
            forward=self.elsewhere.append,
            history=lambda delivery, command: self.histories.append((delivery, command)),
            query=lambda delivery, command, scope: self.queries.append((delivery, command, scope)),
            lacking=lacking,
            watch=lambda delivery, command: self.watches.append((delivery, command)),
            keys=lambda delivery, command, scope, _: self.lists.append((delivery, command, scope)),
        )

    def take(self, taken: Delivery, partition: int = HOME) -> Delivery:
        self.intake.take(taken, partition)
        return taken

    @property
    def requests(self) -> list[Request]:
        return [each for lane in self.lanes.values() for each in lane.taken]

    @property
    def told(self) -> list[dict[str, Any]]:
        """What senders are told."""
        return [wire(reply) for _, reply, _ in self.outbox._load.replies]

    @property
    def buried(self) -> list[tuple[bytes, str]]:
        """What goes to the dead letter queue, and why."""
        return [(body, reason) for _, body, reason, _ in self.outbox._load.dead]

    @property
    def finished(self) -> list[int]:
        return self.outbox._load.done


def save(**fields: Any) -> dict[str, Any]:
    return {"op": "save", "id": "x", "key": KEY, "value": 1} | fields


# -- good messages


def test_a_command_becomes_a_request() -> None:
    """Given a save, when it is taken, then its lane has a request with everything that the delivery tells."""
    desk = Desk()
    taken = desk.take(delivery(save(), author="ada", redelivered=True, suspect=True))
    [made] = desk.requests
    assert (made.command.id, made.author, made.redelivered, made.suspect) == ("x", "ada", True, True)
    assert made.origin is taken
    assert (made.digest, made.size) == digest_of(made.command)  # type: ignore[arg-type]
    assert (taken.remaining, taken.is_array) == (1, False)
    assert (desk.told, desk.buried, desk.finished) == ([], [], [])


def test_commands_keep_their_order_and_find_their_store() -> None:
    """Given an array for two stores, when it is taken, then each store's lane has its own, in order."""
    desk = Desk()
    key = next(key for key in map(str, range(1000)) if partition_of("other", key, PARTITIONS) == HOME)
    body = [save(id="1"), save(id="2", store="other", key=key), {"op": "read", "id": "3", "key": KEY}, save(id="4")]
    taken = desk.take(delivery(body))
    ids = {store: [each.command.id for each in lane.taken] for store, lane in desk.lanes.items()}
    assert ids == {"default": ["1", "3", "4"], "other": ["2"]}
    assert (taken.remaining, taken.is_array) == (4, True)


def test_an_object_without_id_takes_the_message_id() -> None:
    """Given an object without id, when its message has one, then that is its id; else it gets one of its own."""
    desk = Desk()
    body = save()
    del body["id"]
    desk.take(delivery(body, message_id="m-1"))
    desk.take(delivery(body))
    desk.take(delivery(body))
    first, second, third = (made.command.id for made in desk.requests)
    assert first == "m-1"
    assert len({first, second, third}) == 3


def test_describe_is_answered_at_once() -> None:
    """Given a describe, when it is taken, then it is answered without any store."""
    desk = Desk()
    taken = desk.take(delivery({"op": "describe", "id": "d"}))
    assert desk.told == [{"id": "d", "status": "ok", "partitions": PARTITIONS}]
    assert desk.finished == [taken.tag]


def test_history_stays_off_the_lane() -> None:
    """Given a history, when it is taken, then it is handed to what runs beside the lanes."""
    desk = Desk()
    taken = desk.take(delivery({"op": "history", "id": "h", "key": KEY}))
    assert [(each, command.key) for each, command in desk.histories] == [(taken, KEY)]
    assert desk.requests == []
    assert taken.remaining == 1


def test_an_empty_array_is_done() -> None:
    """Given an array without commands, when it is taken, then it is finished."""
    desk = Desk()
    assert desk.finished == [desk.take(delivery([])).tag]


# -- bad messages

BAD_WHOLES: list[tuple[bytes, str, str]] = [
    (b"", "invalid", "malformed"),
    (b"not json", "invalid", "malformed"),
    (b'{"op": "save"', "invalid", "malformed"),
    (b'"a string"', "invalid", "malformed"),
    (b"17", "invalid", "malformed"),
    (b"null", "invalid", "malformed"),
    (b"\xff\xfe", "invalid", "malformed"),
    (b'{"value": NaN}', "invalid", "malformed"),
    (b"[" * 5000 + b"]" * 5000, "invalid", "malformed"),
    (b" " * (MAX_MESSAGE_BYTES + 1), "too_large", "too_large"),
]

BAD_COMMANDS: list[tuple[Any, str, str, str | None]] = [
    (save(op="explode"), "invalid", "bad_op", "x"),
    ({"id": "x", "key": KEY}, "invalid", "bad_op", "x"),
    (save(key=""), "invalid", "bad_key", "x"),
    (save(key="a\0b"), "invalid", "bad_key", "x"),
    (save(key="k" * 513), "invalid", "bad_key", "x"),
    (save(key=7), "invalid", "bad_key", "x"),
    (save(store="a/b"), "invalid", "bad_store", "x"),
    (save(store=""), "invalid", "bad_store", "x"),
    (save(id=""), "invalid", "bad_id", None),
    (save(id="i" * 129), "invalid", "bad_id", None),
    (save(id=7), "invalid", "bad_id", None),
    (save(v=2), "invalid", "bad_version", "x"),
    (save(surprise=1), "invalid", "unknown_field", "x"),
    (save(etag=3), "invalid", "bad_etag", "x"),
    (save(concurrency="maybe"), "invalid", "bad_concurrency", "x"),
    (save(deadline=-1), "invalid", "bad_deadline", "x"),
    (save(deadline=1.5), "invalid", "bad_deadline", "x"),
    (save(metadata={"a": 1}), "invalid", "bad_metadata", "x"),
    ({"op": "read", "id": "x", "key": KEY, "at_version": 1, "at_time": 1}, "invalid", "bad_at_version", "x"),
    ({"op": "save", "id": "x", "key": KEY}, "invalid", "missing_field", "x"),
    ({"op": "save", "id": "x", "value": 1}, "invalid", "missing_field", "x"),
    (save(value={"a\0": 1}), "invalid", "bad_value", "x"),
    (save(value="v" * 2000), "too_large", "too_large", "x"),
]


@pytest.mark.parametrize(("body", "status", "code"), BAD_WHOLES)
@pytest.mark.parametrize("waiting", [True, False], ids=["reply_to", "nobody"])
def test_a_message_that_cannot_be_read(body: bytes, status: str, code: str, waiting: bool) -> None:
    """Given bytes that are no commands, when they are taken, then the sender is told, or else the operator."""
    desk = Desk()
    taken = desk.take(delivery(body, reply_to="q" if waiting else None))
    assert desk.requests == []
    assert desk.finished == [taken.tag]
    if waiting:
        [answer] = desk.told
        assert (answer["id"], answer["status"], answer["error"]["code"]) == (None, status, code)
        assert desk.buried == []
    else:
        assert desk.told == []
        assert desk.buried == [(body, code)]


@pytest.mark.parametrize(("command", "status", "code", "told_id"), BAD_COMMANDS)
@pytest.mark.parametrize("waiting", [True, False], ids=["reply_to", "nobody"])
def test_a_bad_command_among_good_ones(command: Any, status: str, code: str, told_id: str, waiting: bool) -> None:
    """Given a bad command between two good ones, when they are taken, then it fails alone, and says what is wrong."""
    desk = Desk()
    good = [save(id="before"), save(id="behind")]
    taken = desk.take(delivery([good[0], command, good[1]], reply_to="q" if waiting else None))
    assert [made.command.id for made in desk.requests] == ["before", "behind"]
    assert taken.remaining == 2
    if waiting:
        [answer] = desk.told
        assert (answer["id"], answer["status"], answer["error"]["code"]) == (told_id, status, code)
        assert desk.buried == []
    else:
        [(body, reason)] = desk.buried
        assert (orjson.loads(body), reason) == ([command], code)


@pytest.mark.parametrize("item", [None, 7, "text", [], [save()]])
def test_an_element_that_is_no_object(item: Any) -> None:
    """Given an array with something else than objects in it, when it is taken, then that element fails alone."""
    desk = Desk()
    desk.take(delivery([item, save()]))
    assert [made.command.id for made in desk.requests] == ["x"]
    assert desk.told[0]["error"]["code"] in ("malformed", "bad_op")


def test_elements_without_id() -> None:
    """Given an array whose element has no id, when it is taken, then the message id is not put in its place."""
    desk = Desk()
    body = save()
    del body["id"]
    desk.take(delivery([body, save()], message_id="m-1"))
    assert [made.command.id for made in desk.requests] == ["x"]
    assert desk.told[0]["error"]["code"] == "missing_field"


def test_equal_ids_in_one_array() -> None:
    """Given an array in which an id stands twice, when it is taken, then the second one is refused."""
    desk = Desk()
    desk.take(delivery([save(), save(value=2), save(id="y")]))
    assert [made.command.id for made in desk.requests] == ["x", "y"]
    assert desk.told[0]["error"]["code"] == "duplicate_id"


@pytest.mark.parametrize("op", ["save", "delete", "read", "history"])
def test_an_unknown_store(op: str) -> None:
    """Given a command for a store that is not configured, when it is taken, then it is told so, for good."""
    desk = Desk()
    body = {"op": op, "id": "x", "key": KEY, "store": "nowhere"} | ({"value": 1} if op == "save" else {})
    home = partition_of("nowhere", KEY, PARTITIONS)
    desk.take(delivery(body), home)
    assert desk.told[0]["status"] == "unknown_store"
    desk.take(delivery(body, reply_to=None), home)
    [(buried, reason)] = desk.buried
    assert (orjson.loads(buried), reason) == (body, "unknown_store")


def test_what_a_store_does_not_offer() -> None:
    """Given a store that lacks an operation, when it is asked for, then it is told so; other stores are asked."""
    desk = Desk(lacking={"default": {"history"}})
    body = {"op": "history", "id": "x", "key": KEY}
    desk.take(delivery(body))
    desk.take(delivery(save()))
    assert [(told["status"], told["error"]["code"]) for told in desk.told] == [("invalid", "unsupported")]
    assert [made.command.op for made in desk.requests] == ["save"]
    far = partition_of("other", KEY, PARTITIONS)
    desk.take(delivery(body | {"store": "other"}), far)
    assert [command.store for _, command in desk.histories] == ["other"]
    desk.take(delivery(body, reply_to=None))
    assert [reason for _, reason in desk.buried] == ["unsupported"]


@pytest.mark.parametrize("address", ["holdfast.commands.3", "holdfast.ingress", "holdfast.dead"])
def test_a_reserved_reply_address(address: str) -> None:
    """Given a reply_to that names one of our own queues, when it is taken, then it is buried, and answered nowhere."""
    desk = Desk()
    taken = desk.take(delivery(save(), reply_to=address))
    assert (desk.requests, desk.told) == ([], [])
    assert desk.buried == [(taken.body, "bad_reply_to")]
    assert desk.finished == [taken.tag]


@pytest.mark.parametrize("is_array", [True, False])
def test_a_number_that_cannot_be_written_again(is_array: bool) -> None:
    """Given a bad command with an integer beyond 64 bits and nobody to tell, then it is buried as it came.

    Failing to bury it would take the worker's session down, and the next one's.
    """
    desk = Desk()
    body = b'{"op":"save","id":"x","key":"k","value":%d}' % BIG
    if is_array:
        body = b"[" + body + b"]"
    desk.take(delivery(body, reply_to=None))
    [(buried, reason)] = desk.buried
    assert (buried, reason) == (body, "bad_value")


def test_many_bad_commands_make_few_letters() -> None:
    """Given an array of ten thousand bad commands and nobody to tell, then there is one letter for each reason.

    With one for each command, a message of 20 KB became ten thousand messages on disk, each with a confirm.
    """
    desk = Desk()
    bad = [{"op": "fly", "n": number} for number in range(3000)]
    numbers = b",".join(b'{"op":"save","id":"%d","key":"k","value":%d}' % (number, BIG) for number in range(3000))
    body = b"[" + orjson.dumps(bad)[1:-1] + b"," + numbers + b",1,[],null]"
    taken = desk.take(delivery(body, reply_to=None))
    letters = {reason: json.loads(letter) for letter, reason in desk.buried}
    assert letters.keys() == {"bad_op", "bad_value", "malformed"}
    assert letters["bad_op"] == bad
    assert [command["value"] for command in letters["bad_value"]] == [BIG] * 3000
    assert letters["malformed"] == [1, [], None]
    details = {reason: detail for _, _, reason, detail in desk.outbox._load.dead}
    assert details["bad_op"].endswith("; and 2999 more")
    assert sum(len(letter) for letter, _ in desk.buried) <= len(body) + len(letters)
    assert desk.finished == [taken.tag]


@pytest.mark.parametrize("depth", [200, 600, 960])
@pytest.mark.parametrize("is_array", [True, False])
def test_nesting_that_cannot_be_written_again(depth: int, is_array: bool) -> None:
    """Given bad commands that are nested deeply, when there is nobody to tell, then they are buried nevertheless.

    Once, also if the whole message has to be buried because its parts cannot be written again.
    """
    desk = Desk()
    deep = b'{"op":"save","id":"x","key":"k","value":' + b"[" * depth + b"]" * depth + b"}"
    body = b"[" + deep + b',{"op":' + b"[" * depth + b"]" * depth + b"}]" if is_array else deep
    desk.take(delivery(body, reply_to=None))
    assert {reason for _, reason in desk.buried} <= {"bad_value", "bad_op"}
    assert sum(len(letter) for letter, _ in desk.buried) <= len(body) + 2
    assert desk.finished


# -- messages of other partitions


def test_what_belongs_elsewhere_is_handed_on_as_it_came() -> None:
    """Given an array of which a part belongs elsewhere, when it is taken, then that part goes on word for word."""
    desk = Desk()
    far = [save(id="f1", key=FAR_KEY, value={"b": 1, "a": 2.0}), save(id="f2", key=FAR_KEY)]
    taken = desk.take(delivery([far[0], save(id="here"), far[1]]))
    assert [made.command.id for made in desk.requests] == ["here"]
    [elsewhere] = desk.elsewhere
    assert elsewhere.delivery is taken
    assert elsewhere.parts == {FAR: far}
    assert taken.remaining == 3


def test_what_was_forwarded_is_processed_where_it_lands() -> None:
    """Given a message that was forwarded already, when it is at a wrong partition, then it is processed there."""
    desk = Desk()
    desk.take(delivery(save(key=FAR_KEY), hopped=True))
    assert len(desk.requests) == 1
    assert desk.elsewhere == []


def test_bad_commands_are_refused_where_they_are() -> None:
    """Given a bad command with a key of another partition, when it is taken, then it is refused without a detour."""
    desk = Desk()
    desk.take(delivery(save(key=FAR_KEY, surprise=1)))
    assert desk.told[0]["error"]["code"] == "unknown_field"
    assert desk.elsewhere == []


# -- anything

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
somehow = st.fixed_dictionaries(
    {},
    optional={
        "op": st.sampled_from(["save", "delete", "read", "history", "describe", "explode"]) | json_values,
        "id": st.sampled_from(["x", "y"]) | json_values,
        "key": st.sampled_from([KEY, FAR_KEY, ""]) | json_values,
        "store": st.sampled_from(["default", "other", "nowhere"]) | json_values,
        "value": json_values,
        "etag": json_values,
        "v": st.sampled_from([1, 2]),
        "deadline": json_values,
        "metadata": json_values,
        "limit": json_values,
        "other": json_values,
    },
)


def dump(data: Any) -> bytes:
    # Not with orjson: integers may be of any size.
    return json.dumps(data).encode()


@given(
    body=st.binary(max_size=50) | st.builds(dump, somehow | st.lists(somehow | json_values, max_size=5) | json_values),
    reply_to=st.sampled_from(["q", None, "holdfast.dead"]),
    hopped=st.booleans(),
    message_id=st.sampled_from([None, "m", "m" * 200, ""]),
)
def test_no_message_breaks_the_intake(body: bytes, reply_to: str | None, hopped: bool, message_id: str | None) -> None:
    """Given any bytes at all, when they are taken, then each command is on its way, answered, or buried."""
    desk = Desk()
    taken = desk.take(delivery(body, reply_to=reply_to, hopped=hopped, message_id=message_id))
    handed_on = sum(len(items) for elsewhere in desk.elsewhere for items in elsewhere.parts.values())
    assert taken.remaining == len(desk.requests) + len(desk.histories) + handed_on
    assert (taken.tag in desk.finished) == (taken.remaining == 0)
    if reply_to == "q":
        assert desk.buried == []
