"""Messages that writes carry, on real servers: where they may go, and what becomes of those that nobody takes."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pika  # type: ignore[import-untyped]
import pytest
from support.accounts import accounts_on_vhost
from support.service import Service, running_worker
from support.shell import holdfast as command_line

import holdfast
from holdfast import Check, ConflictError, Delete, OutboxMessage, Save, Step
from holdfast.local import RabbitServer
from holdfast.worker import AccessConfig, AccessRule
from holdfast.worker.feed import OutboxConfig

ALLOWED = OutboxConfig(exchanges=["orders", "missing", ""])


@pytest.fixture
def shop(amqp_url: str, mongo_url: str) -> Iterator[Service]:
    with running_worker(amqp_url, mongo_url, outbox=ALLOWED) as service:
        yield service


@pytest.fixture
def channel(shop: Service) -> Iterator[Any]:
    connection = pika.BlockingConnection(pika.URLParameters(shop.amqp_url))
    yield connection.channel()
    connection.close()


def taken(channel: Any, queue: str, count: int) -> list[tuple[Any, Any]]:
    messages: list[tuple[Any, Any]] = []
    for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=30):
        assert method is not None, f"{len(messages)} of {count} messages after 30 s"
        messages.append((properties, json.loads(body)))
        if len(messages) == count:
            break
    channel.cancel()
    return messages


def save(service: Service, key: str, *messages: OutboxMessage, **options: Any) -> Any:
    async def run() -> Any:
        async with holdfast.connect(service.amqp_url) as client:
            return await client.save(key, 1, messages=messages, **options)

    return asyncio.run(run())


def transact(service: Service, steps: list[Step], *messages: OutboxMessage, **options: Any) -> Any:
    async def run() -> Any:
        async with holdfast.connect(service.amqp_url) as client:
            return await client.transact(steps, messages=messages, **options)

    return asyncio.run(run())


def test_messages_go_where_they_are_meant_for(shop: Service, channel: Any) -> None:
    """Exchanges by name, queues by the broker's own; in order, with headers, ids and what belongs to them."""
    channel.exchange_declare("orders", "direct")
    channel.queue_declare("mine", durable=True)
    channel.queue_bind("mine", "orders", "placed")
    save(
        shop,
        "order/1",
        OutboxMessage(exchange="orders", routing_key="placed", body={"n": 1.0}, headers={"a": 1, "b": True, "c": "ü"}),
        OutboxMessage(exchange="", routing_key="mine"),
        OutboxMessage(exchange="orders", routing_key="nobody", body="lost"),
        OutboxMessage(exchange="orders", routing_key="placed", body=[None]),
        id="command",
    )
    messages = taken(channel, "mine", 3)
    assert [body for _, body in messages] == [{"n": 1.0}, None, [None]]
    assert [properties.message_id for properties, _ in messages] == ["command/0", "command/1", "command/3"]
    properties, _ = messages[0]
    assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
    told = {"x-holdfast-store": "default", "x-holdfast-key": "order/1", "x-holdfast-version": 1}
    assert properties.headers == {"a": 1, "b": True, "c": "ü"} | told


def to_mine(body: Any) -> OutboxMessage:
    return OutboxMessage(exchange="", routing_key="mine", body=body)


def test_a_transaction_publishes_if_it_is_committed(shop: Service, channel: Any) -> None:
    """All of it: then its messages are out, in one line with those of its first key; refused, none ever is."""
    channel.queue_declare("mine", durable=True)
    save(shop, "a", to_mine("before"), id="one")
    transact(shop, [Save("a", 2), Save("b", 1), Delete("a")], to_mine("two"), to_mine("three"), id="t")
    conditions: list[Step] = [Check("a", exists=True), Save("b", 2, etag="1-00000000")]
    for broken in conditions:
        with pytest.raises(ConflictError):
            transact(shop, [Save("c", 1), broken], to_mine("never"))
    transact(shop, [Save("a", 2), Save("b", 1), Delete("a")], to_mine("two"), to_mine("three"), id="t")
    transact(shop, [Check("b", exists=True), Delete("none")], to_mine("nothing changed"), id="checks")
    save(shop, "a", to_mine("after"), id="two")

    told: dict[str, Any] = {}
    places: dict[str, tuple[str, int]] = {}
    for method, properties, body in channel.consume("mine", auto_ack=True, inactivity_timeout=30):
        assert method is not None, f"only {told} after 30 s"
        told.setdefault(properties.message_id, json.loads(body))
        headers = properties.headers
        places[properties.message_id] = (headers["x-holdfast-key"], headers["x-holdfast-version"])
        if {"two/0", "checks/0"} <= told.keys():
            break
    channel.cancel()
    of_a = {name: body for name, body in told.items() if name != "checks/0"}
    assert list(of_a.items()) == [("one/0", "before"), ("t/0", "two"), ("t/1", "three"), ("two/0", "after")]
    assert told["checks/0"] == "nothing changed"
    assert places == {"one/0": ("a", 1), "t/0": ("a", 3), "t/1": ("a", 3), "checks/0": ("b", 1), "two/0": ("a", 4)}


def test_a_transaction_whose_message_nobody_takes(shop: Service, channel: Any) -> None:
    """It is applied, and a dead letter; replayed when that is mended, it publishes, and changes nothing."""
    channel.queue_declare("mine", durable=True)
    missing = OutboxMessage(exchange="missing", routing_key="x", body="late")
    transact(shop, [Save("a", 1), Save("b", 1)], missing, id="t")
    transact(shop, [Save("a", 2)], to_mine("in time"))
    assert [body for _, body in taken(channel, "mine", 1)] == ["in time"]
    told = command_line("dead", "list", "--json", amqp_url=shop.amqp_url).stdout.splitlines()
    (letter,) = map(json.loads, told)
    assert letter["reason"] == "outbox_refused"

    channel.exchange_declare("missing", "fanout")
    channel.queue_bind("mine", "missing")
    replayed = command_line("dead", "replay", letter["id"], amqp_url=shop.amqp_url)
    assert replayed.returncode == 0, replayed.stderr
    assert [body for _, body in taken(channel, "mine", 1)] == ["late"]
    assert save(shop, "a").version == 3


def test_a_delete_carries_messages_too(shop: Service, channel: Any) -> None:
    """If there was something to delete, they are published; where there was nothing, or not that etag, nothing is."""
    channel.queue_declare("gone", durable=True)

    def note(body: str) -> list[OutboxMessage]:
        return [OutboxMessage(routing_key="gone", exchange="", body=body)]

    async def run() -> None:
        async with holdfast.connect(shop.amqp_url) as client:
            saved = await client.save("order/1", 1)
            assert not await client.delete("order/0", messages=note("of nothing"))
            with pytest.raises(holdfast.ConflictError):
                await client.delete("order/1", etag="1-00000000", messages=note("refused"))
            assert await client.delete("order/1", etag=saved.etag, messages=note("cancelled"))
            # Behind the others in their partitions' order, so that whatever they published is there before it.
            for key in ("order/0", "order/1"):
                await client.save(key, 1, messages=note(f"{key} last"))

    asyncio.run(run())
    messages = taken(channel, "gone", 3)
    assert sorted(body for _, body in messages) == ["cancelled", "order/0 last", "order/1 last"]
    assert [properties.headers["x-holdfast-version"] for properties, body in messages if body == "cancelled"] == [2]


@pytest.mark.parametrize(
    "message",
    [
        OutboxMessage(exchange="other", routing_key="x"),
        OutboxMessage(exchange="holdfast.commands", routing_key="0"),
        OutboxMessage(exchange="holdfast.events", routing_key="default.user"),
        OutboxMessage(exchange="", routing_key="holdfast.commands.0"),
        OutboxMessage(exchange="", routing_key="holdfast.dead"),
    ],
)
def test_what_is_not_allowed_is_denied(shop: Service, message: OutboxMessage) -> None:
    """A message to an exchange that nobody allowed, or to Holdfast's own: the write is denied, and nothing happens."""
    with pytest.raises(holdfast.DeniedError, match="not allowed"):
        save(shop, "k", OutboxMessage(exchange="orders"), message)
    with pytest.raises(holdfast.DeniedError, match="not allowed"):
        transact(shop, [Save("k", 1)], OutboxMessage(exchange="orders"), message)
    assert save(shop, "k").version == 1


def test_by_default_no_exchange_is_allowed(service: Service) -> None:
    """Without a configuration writes carry nothing."""
    for exchange in ("", "amq.topic", "orders"):
        with pytest.raises(holdfast.DeniedError):
            save(service, "k", OutboxMessage(exchange=exchange))


def test_the_right_to_publish(rabbit: RabbitServer, mongo_url: str) -> None:
    """In a closed service only those who may publish on the key can have their writes carry messages."""

    def rule(user: str, *operations: str) -> AccessRule:
        return AccessRule(user=user, store="default", key=f"{user}/*", operations=list(operations))

    with accounts_on_vhost(rabbit) as accounts:
        urls = {name: accounts.add(name) for name in ("shop", "pen")}
        rules = [rule("shop", "save", "publish"), rule("pen", "save")]
        access = AccessConfig(default="closed", rules=rules)
        with running_worker(rabbit.url(accounts.vhost), mongo_url, access=access, outbox=ALLOWED):
            message = OutboxMessage(exchange="", routing_key="nobody")
            save(Service(urls["shop"], mongo_url, 4), "shop/1", message)
            with pytest.raises(holdfast.DeniedError, match="'pen' may not publish"):
                save(Service(urls["pen"], mongo_url, 4), "pen/1", message)
            save(Service(urls["pen"], mongo_url, 4), "pen/1")
            # Messages of a transaction are of its first key.
            transact(Service(urls["shop"], mongo_url, 4), [Save("shop/1", 2)], message)
            with pytest.raises(holdfast.DeniedError, match="'pen' may not publish"):
                transact(Service(urls["pen"], mongo_url, 4), [Save("pen/1", 1)], message)


def test_a_message_that_nobody_takes(shop: Service, channel: Any) -> None:
    """No such exchange: the write is applied, and a dead letter, which publishes what it carries when replayed."""
    channel.exchange_declare("orders", "fanout")
    channel.queue_declare("mine", durable=True)
    channel.queue_bind("mine", "orders")
    missing = OutboxMessage(exchange="missing", routing_key="x", body="late")
    assert save(shop, "k", missing, OutboxMessage(exchange="orders", body="in time"), id="write").version == 1
    assert save(shop, "other", OutboxMessage(exchange="orders", body="other")).version == 1
    assert sorted(body for _, body in taken(channel, "mine", 2)) == ["in time", "other"]

    def listed() -> list[Any]:
        told = command_line("dead", "list", "--json", amqp_url=shop.amqp_url).stdout.splitlines()
        return [json.loads(line) for line in told]

    (letter,) = listed()
    assert letter["reason"] == "outbox_refused"
    # Not mended yet: it becomes another letter, and is never lost.
    replayed = command_line("dead", "replay", letter["id"], amqp_url=shop.amqp_url)
    assert replayed.returncode == 0, replayed.stderr
    assert [body for _, body in taken(channel, "mine", 1)] == ["in time"]
    (again,) = listed()
    assert again["reason"] == "outbox_refused"

    channel.exchange_declare("missing", "fanout")
    channel.queue_bind("mine", "missing")
    assert command_line("dead", "replay", again["id"], amqp_url=shop.amqp_url).returncode == 0
    assert sorted(body for _, body in taken(channel, "mine", 2)) == ["in time", "late"]
    assert listed() == []
    assert save(shop, "k").version == 2


def test_a_full_queue_holds_up_nobody_for_long(shop: Service, channel: Any) -> None:
    """A bounded queue that refuses more: those writes become dead letters, and all that is acknowledged is applied."""
    channel.exchange_declare("orders", "direct")
    arguments = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare("full", durable=True, arguments=arguments)
    channel.queue_bind("full", "orders", "full")
    message = OutboxMessage(exchange="orders", routing_key="full")

    async def run() -> list[int]:
        async with holdfast.connect(shop.amqp_url, timeout=60) as client:
            return [(await client.save("k", n, messages=[message])).version for n in range(20)]

    assert asyncio.run(run()) == list(range(1, 21))
    # Answers do not wait for what is told to others.
    patience = time.monotonic() + 30
    while channel.queue_declare("holdfast.dead", passive=True).method.message_count == 0:
        assert time.monotonic() < patience, "no dead letter after 30 s"
        time.sleep(0.05)
    assert '"outbox_refused"' in command_line("dead", "list", "--json", amqp_url=shop.amqp_url).stdout
