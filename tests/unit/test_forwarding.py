"""What came by the ingress, or to a wrong partition, goes to the queues it belongs to, whole, once, and confirmed."""

import asyncio
import json
from collections import defaultdict
from typing import Any

import orjson
import pytest
from aio_pika.exceptions import DeliveryError
from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic
from support.commands import wire
from support.deliveries import RememberingBroker, delivery

from holdfast.events import partition_of
from holdfast.events.limits import MAX_MESSAGE_BYTES, MAX_MESSAGE_COMMANDS
from holdfast.worker.broker import CannotKeepAuthorError
from holdfast.worker.delivery import Delivery
from holdfast.worker.ingress import Forwarder, sort_by_partition
from holdfast.worker.intake import Elsewhere
from holdfast.worker.outbox import Outbox

PARTITIONS = 8


def command(key: str, **more: Any) -> dict[str, Any]:
    return {"op": "save", "id": f"id of {key}", "key": key, "value": 1} | more


def partition(key: str, store: str = "default") -> int:
    return partition_of(store, key, PARTITIONS)


#: A key of each partition.
KEYS = {partition(key): key for key in map(str, range(200))}


class Queues:
    """The queues behind the partitions, some of them full, and a forwarder in front of them."""

    def __init__(self, *full: int, impersonator: bool = True) -> None:
        self.full = set(full)
        self.impersonator = impersonator
        self.got: defaultdict[int, list[bytes]] = defaultdict(list)
        self.broker = RememberingBroker()
        self.outbox = Outbox(self.broker, stamp=dict)
        self.forwarder = Forwarder(outbox=self.outbox, partitions=PARTITIONS, publish=self._publish)

    async def _publish(self, taken: Delivery, to: int, body: bytes) -> None:
        assert taken.tag not in self.outbox._load.done, "acknowledged before it was forwarded"
        await asyncio.sleep(0)
        if taken.author is not None and not self.impersonator:
            raise CannotKeepAuthorError("scripted: no tag")
        if to in self.full:
            raise DeliveryError(None, Basic.Nack())
        self.got[to].append(body)

    @property
    def told(self) -> list[dict[str, Any]]:
        return [wire(reply) for _, reply, _ in self.outbox._load.replies]

    @property
    def buried(self) -> list[tuple[bytes, str]]:
        return [(body, reason) for _, body, reason, _ in self.outbox._load.dead]

    @property
    def finished(self) -> list[int]:
        return self.outbox._load.done


# -- sorting


def test_one_command_goes_as_it_is() -> None:
    """Given an object, when it is sorted, then it goes to its key's partition, byte for byte."""
    body = b'{ "key" : "k", "op": "save", "value": 1.0, "id": "\\u00e9" }'
    parts, is_array = sort_by_partition(body, PARTITIONS)
    assert {to: part for to, (part, _) in parts.items()} == {partition("k"): body}
    assert not is_array


def test_an_array_of_one_partition_goes_as_it_is() -> None:
    """Given an array for one partition, when it is sorted, then it stays whole, byte for byte."""
    body = b'[ {"key": "k", "id": "1"} , {"key": "k", "id": "2"} ]'
    parts, is_array = sort_by_partition(body, PARTITIONS)
    assert {to: part for to, (part, _) in parts.items()} == {partition("k"): body}
    assert is_array


def test_an_array_of_many_partitions_is_split() -> None:
    """Given an array for all partitions, when it is sorted, then each gets its own commands, in their order."""
    commands = [command(KEYS[number % PARTITIONS], id=str(number)) for number in range(50)]
    parts, is_array = sort_by_partition(orjson.dumps(commands), PARTITIONS)
    assert is_array
    assert set(parts) == set(range(PARTITIONS))
    for to, (body, items) in parts.items():
        assert orjson.loads(body) == items == [each for each in commands if partition(each["key"]) == to]


def test_the_store_counts() -> None:
    """Given the same key in two stores, when it is sorted, then by the store too, and without one by the default."""
    store = next(name for name in "abcdefgh" if partition("k", name) != partition("k"))
    parts, _ = sort_by_partition(orjson.dumps([command("k"), command("k", store=store)]), PARTITIONS)
    assert set(parts) == {partition("k"), partition("k", store)}


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[" * 5000, b'"text"', b"7", b"null", b" " * (MAX_MESSAGE_BYTES + 1), b"\xff"]
)
def test_what_cannot_be_sorted_goes_to_one_place_to_be_judged(body: bytes) -> None:
    """Given a message that holds no commands, when it is sorted, then it goes to partition 0 as it came."""
    parts, is_array = sort_by_partition(body, PARTITIONS)
    assert {to: part for to, (part, _) in parts.items()} == {0: body}
    assert sum(len(items) for _, items in parts.values()) == 1
    assert not is_array


@pytest.mark.parametrize("odd", [{"id": "x"}, {"key": 7}, {"key": "k", "store": 7}, None, "text", [1]])
def test_elements_that_cannot_be_sorted_go_to_partition_zero(odd: Any) -> None:
    """Given an element without a usable key, when it is sorted, then it goes to partition 0, the others to theirs."""
    parts, _ = sort_by_partition(orjson.dumps([odd, command(KEYS[3])]), PARTITIONS)
    assert {to: items for to, (_, items) in parts.items()} == {0: [odd], 3: [command(KEYS[3])]}


def test_numbers_that_cannot_be_written_again_keep_the_whole_together() -> None:
    """Given an integer beyond 64 bits in an array, when it cannot be split without loss, then it goes as a whole."""
    body = b'[{"key":"%s","value":123456789012345678901234567890},{"key":"%s"}]' % (KEYS[2].encode(), KEYS[3].encode())
    parts, is_array = sort_by_partition(body, PARTITIONS)
    assert {to: part for to, (part, _) in parts.items()} == {0: body}
    assert sum(len(items) for _, items in parts.values()) == 2
    assert is_array


@given(st.lists(st.sampled_from([command(key) for key in KEYS.values()]) | st.none(), max_size=20), st.integers(1, 16))
def test_nothing_is_lost_or_doubled_by_a_split(commands: list[Any], partitions: int) -> None:
    """Given any array, when it is sorted, then every element is in exactly one part."""
    parts, is_array = sort_by_partition(orjson.dumps(commands), partitions)
    assert is_array
    together = [orjson.dumps(item) for _, items in parts.values() for item in items]
    assert sorted(together) == sorted(map(orjson.dumps, commands))
    assert all(orjson.loads(body) == items for body, items in parts.values())


# -- forwarding


async def test_a_message_is_done_when_all_of_its_parts_are_confirmed() -> None:
    """Given an array for two partitions, when both have confirmed their part, then it is finished, and not before."""
    queues = Queues()
    taken = delivery([command(KEYS[1]), command(KEYS[2]), command(KEYS[1], id="2")])
    await queues.forwarder.take(taken)
    assert {to: [orjson.loads(body) for body in bodies] for to, bodies in queues.got.items()} == {
        1: [[command(KEYS[1]), command(KEYS[1], id="2")]],
        2: [[command(KEYS[2])]],
    }
    assert queues.finished == [taken.tag]
    assert queues.told == []


async def test_an_empty_array_from_the_ingress_is_done() -> None:
    """Given an array without commands, when it is taken from the ingress, then nothing is forwarded, and it is done."""
    queues = Queues()
    taken = delivery([])
    await queues.forwarder.take(taken)
    assert (dict(queues.got), queues.finished) == ({}, [taken.tag])


async def test_a_reserved_reply_address_is_buried_where_it_comes_in() -> None:
    """Given an array of many partitions whose reply_to is one of our own queues, then it makes one dead letter."""
    queues = Queues()
    taken = delivery([command(key) for key in KEYS.values()], reply_to="holdfast.dead")
    await queues.forwarder.take(taken)
    assert queues.buried == [(taken.body, "bad_reply_to")]
    assert queues.got == {}
    assert queues.finished == [taken.tag]


async def test_a_full_queue_is_told_and_holds_up_no_other() -> None:
    """Given a partition that takes no more, when an array is forwarded, then the others go on."""
    queues = Queues(2)
    taken = delivery([command(KEYS[1]), command(KEYS[2]), command(KEYS[2], id="2")])
    await queues.forwarder.take(taken)
    assert list(queues.got) == [1]
    assert [(answer["id"], answer["status"], answer["error"]["code"]) for answer in queues.told] == [
        (f"id of {KEYS[2]}", "unavailable", "queue_full"),
        ("2", "unavailable", "queue_full"),
    ]
    assert queues.buried == []
    assert queues.finished == [taken.tag]


async def test_a_full_queue_and_nobody_to_tell() -> None:
    """Given a partition that takes no more and no reply_to, when a command is forwarded, then it is buried."""
    queues = Queues(2)
    taken = delivery(command(KEYS[2]), reply_to=None)
    await queues.forwarder.take(taken)
    assert queues.buried == [(taken.body, "queue_full")]
    assert queues.finished == [taken.tag]


async def test_a_full_queue_does_not_unsay_an_earlier_attempt() -> None:
    """Given a message that was delivered before, when its queue is full, then what became of it is not known.

    The worker that had it first may have forwarded it, so nobody can say that it is certainly not applied.
    """
    queues = Queues(2)
    looking = {"op": "read", "id": "r", "key": KEYS[2]}
    await queues.forwarder.take(delivery([command(KEYS[2]), looking], redelivered=True))
    assert [(answer["status"], answer["error"]["code"]) for answer in queues.told] == [
        ("unknown", "queue_full"),
        ("unavailable", "queue_full"),
    ]


async def test_what_cannot_be_passed_on_in_its_senders_name_is_denied() -> None:
    """Given a worker that may not name the author, when an array is forwarded, then all of it is denied, or buried.

    Also what was delivered before: a denial speaks of this delivery alone.
    """
    queues = Queues(impersonator=False)
    taken = delivery([command(KEYS[1]), command(KEYS[2])], author="ada", redelivered=True)
    await queues.forwarder.take(taken)
    silent = delivery(command(KEYS[3]), author="ada", reply_to=None)
    await queues.forwarder.take(silent)
    await queues.forwarder.take(delivery(command(KEYS[4])))
    assert [(answer["id"], answer["status"], answer["error"]["code"]) for answer in queues.told] == [
        (f"id of {KEYS[1]}", "denied", "no_impersonator"),
        (f"id of {KEYS[2]}", "denied", "no_impersonator"),
    ]
    assert queues.buried == [(silent.body, "no_impersonator")]
    assert list(queues.got) == [4]
    assert queues.finished[:2] == [taken.tag, silent.tag]


@pytest.mark.parametrize(("message_id", "told"), [("m-1", "m-1"), (None, None)])
async def test_a_command_without_id_is_told_by_its_message_id(message_id: str | None, told: str | None) -> None:
    """Given an object without id, when its queue is full, then the answer has the message id, which is its own."""
    queues = Queues(2)
    body = command(KEYS[2])
    del body["id"]
    await queues.forwarder.take(delivery(body, message_id=message_id))
    assert [answer["id"] for answer in queues.told] == [told]


async def test_what_came_to_a_wrong_partition_is_passed_on() -> None:
    """Given commands that an intake found at the wrong place, when they are passed on, then only they are done."""
    queues = Queues()
    taken = delivery([command(KEYS[1]), command(KEYS[2])], is_array=True)
    queues.outbox.expect(taken, 2)
    await queues.forwarder.pass_on(Elsewhere(taken, {2: [command(KEYS[2])]}))
    assert queues.got == {2: [orjson.dumps([command(KEYS[2])])]}
    assert taken.remaining == 1


async def test_an_object_is_passed_on_as_an_object() -> None:
    """Given one command at a wrong partition, when it is passed on, then its answer can be an object still."""
    queues = Queues()
    taken = delivery(command(KEYS[2]))
    queues.outbox.expect(taken, 1)
    await queues.forwarder.pass_on(Elsewhere(taken, {2: [command(KEYS[2])]}))
    assert queues.got == {2: [orjson.dumps(command(KEYS[2]))]}
    assert queues.finished == [taken.tag]


async def test_a_lost_connection_leaves_the_message_in_hand() -> None:
    """Given a connection that breaks while a message is forwarded, when it does, then the message is not finished."""
    queues = Queues()

    async def lost(taken: Delivery, to: int, body: bytes) -> None:
        raise ConnectionError("scripted: gone")

    forwarder = Forwarder(outbox=queues.outbox, partitions=PARTITIONS, publish=lost)
    with pytest.raises(ConnectionError):
        await forwarder.take(delivery([command(KEYS[1]), command(KEYS[2])]))
    assert queues.finished == []


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["key", "store", "op", "value"]) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=50) | anything.map(lambda data: json.dumps(data).encode()), st.integers(1, 16))
def test_no_message_breaks_the_sorting(body: bytes, partitions: int) -> None:
    """Given any bytes at all, when they are sorted, then they go somewhere, and nothing of them is left out."""
    parts, is_array = sort_by_partition(body, partitions)
    assert all(0 <= to < partitions for to in parts)
    if len(parts) == 1:
        assert [part for part, _ in parts.values()] == [body]
    elif not parts:
        assert (orjson.loads(body), is_array) == ([], True)
    else:
        assert sum(len(items) for _, items in parts.values()) == len(orjson.loads(body))


# -- sizes


def bulky(key: str, count: int) -> bytes:
    """A command that takes nearly four times as many bytes when it is written again."""
    return b'{"op":"save","id":"id of %s","key":"%s","value":[%s]}' % (
        key.encode(),
        key.encode(),
        b",".join([b"1e15"] * count),
    )


def test_an_array_of_too_many_commands_goes_as_a_whole() -> None:
    """Given more commands than a message may have, when they are sorted, then they are left to whoever refuses them."""
    items = [command(key) for key in KEYS.values()] * (MAX_MESSAGE_COMMANDS // len(KEYS) + 1)
    body = orjson.dumps(items)
    assert sort_by_partition(body, PARTITIONS) == ({0: (body, [None])}, False)


def test_parts_that_grow_beyond_a_message_keep_the_whole_together() -> None:
    """Given an array that was small enough, when a part of it would not be any more, then it goes as it came."""
    body = b"[" + bulky(KEYS[2], 400_000) + b"," + bulky(KEYS[3], 1) + b"]"
    assert len(body) < MAX_MESSAGE_BYTES
    parts, is_array = sort_by_partition(body, PARTITIONS)
    assert {to: (part, len(items)) for to, (part, items) in parts.items()} == {0: (body, 2)}
    assert is_array


async def test_what_grows_beyond_a_message_is_passed_on_in_several() -> None:
    """Given commands on a wrong partition that are too large together when written again, then they go in parts."""
    queues = Queues()
    body = b"[" + b",".join(bulky(f"{n}", 50_000) for n in range(8)) + b"]"
    taken = delivery(body)
    taken.is_array = True
    queues.outbox.expect(taken, 8)
    await queues.forwarder.pass_on(Elsewhere(taken, {5: orjson.loads(body)}))
    assert all(len(part) <= MAX_MESSAGE_BYTES for part in queues.got[5])
    together = [item["id"] for part in queues.got[5] for item in orjson.loads(part)]
    assert together == [f"id of {n}" for n in range(8)]
    assert queues.finished == [taken.tag]


@pytest.mark.parametrize("reply_to", ["somebody", None])
async def test_a_command_that_grows_beyond_a_message_is_told(reply_to: str | None) -> None:
    """Given one command that does not fit into a message of its own any more, then it is refused under its id."""
    queues = Queues()
    body = b"[" + bulky("large", 500_000) + b"," + bulky("small", 1) + b"]"
    taken = delivery(body, reply_to=reply_to)
    taken.is_array = True
    queues.outbox.expect(taken, 2)
    await queues.forwarder.pass_on(Elsewhere(taken, {5: orjson.loads(body)}))
    assert [item["id"] for part in queues.got[5] for item in orjson.loads(part)] == ["id of small"]
    if reply_to:
        assert [(told["id"], told["status"]) for told in queues.told] == [("id of large", "too_large")]
    else:
        assert [(orjson.loads(part)[0]["id"], reason) for part, reason in queues.buried] == [
            ("id of large", "too_large")
        ]
    assert queues.finished == [taken.tag]


@pytest.mark.parametrize("bad_id", ["x" * 1_000_000, "", "a\0", 7, None])
async def test_an_id_that_is_none_does_not_come_back(bad_id: Any) -> None:
    """Given a command whose id is no id, when its queue is full, then the answer has none, however long it is."""
    queues = Queues(2)
    await queues.forwarder.take(delivery(command(KEYS[2], id=bad_id), message_id="m"))
    assert [told["id"] for told in queues.told] == [None]
