"""The change feed on real servers: watches, plain AMQP consumers, streams, rights, and stores without a feed."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]
import pytest
from support.accounts import Accounts, accounts_on_vhost
from support.service import Service, running_worker

import holdfast
from holdfast import CaughtUp, Watch
from holdfast.client import subscription
from holdfast.local import RabbitServer
from holdfast.worker import AccessConfig, AccessRule
from holdfast.worker.feed import FeedConfig, FeedsConfig


async def take(watch: Watch, count: int) -> list[Any]:
    """The next items, as far as tests look at them."""
    async with asyncio.timeout(30):
        items = [await anext(watch) for _ in range(count)]
    return [item if isinstance(item, CaughtUp) else (item.key, item.version, item.value) for item in items]


async def test_first_what_is_there_then_what_changes(service: Service) -> None:
    """A watch begins among keys that are there, were deleted, or belong to others, and follows all that comes."""
    async with holdfast.connect(service.amqp_url) as client:
        for key in ("user/1", "user/2", "user/3", "other/1"):
            await client.save(key, key)
        await client.delete("user/3")
        async with client.watch("user/") as watch:
            assert await take(watch, 3) == [("user/1", 1, "user/1"), ("user/2", 1, "user/2"), CaughtUp()]
            saves = [client.save(f"user/{number % 3}", number, metadata={"n": str(number)}) for number in range(30)]
            await asyncio.gather(*saves, client.save("other/2", 1))
            with pytest.raises(holdfast.ConflictError):
                await client.save("user/1", "never", first_write=True)
            await client.delete("user/1")
            async with asyncio.timeout(30):
                changes = [await anext(watch) for _ in range(31)]

    by_key: dict[str, list[Any]] = {}
    for change in changes:
        assert isinstance(change, holdfast.Change)
        assert change.author == "holdfast"
        assert not change.initial
        by_key.setdefault(change.key, []).append((change.version, change.value, (change.metadata or {}).get("n")))
    assert by_key["user/0"] == [(n + 1, 3 * n, str(3 * n)) for n in range(10)]
    assert by_key["user/1"] == [*((n + 2, 3 * n + 1, str(3 * n + 1)) for n in range(10)), (12, None, None)]


async def test_pages_and_large_values(service: Service) -> None:
    """What is there is more than a page, and more than a reply: all of it is told, and what changes meanwhile too."""
    async with holdfast.connect(service.amqp_url, timeout=60) as client:
        await client.save_many({f"small/{number:04}": number for number in range(1100)})
        await client.save_many({f"large/{number}": "x" * 700_000 for number in range(5)})
        async with client.watch() as watch:
            told = dict.fromkeys(item[0] for item in await take(watch, 1105))
            assert await take(watch, 1) == [CaughtUp()]
            await client.save("large/0", "y" * 1_000_000)
            ((key, version, value),) = await take(watch, 1)
    assert len(told) == 1105
    assert (key, version, len(value)) == ("large/0", 2, 1_000_000)


async def test_since_a_time(service: Service) -> None:
    """A watch since a time tells all of its changes out of the log, those of keys that are gone too."""
    async with holdfast.connect(service.amqp_url) as client:
        await client.save("a", 0)
        first = await client.save("b", 0)
        for number in range(1, 4):
            await client.save("a", number)
        await client.delete("b")
        async with client.watch(since=first.updated_at + timedelta(milliseconds=1)) as watch:
            assert await take(watch, 5) == [
                *(("a", number + 1, number) for number in range(1, 4)),
                ("b", 2, None),
                CaughtUp(),
            ]
        async with client.watch(since=datetime.now(UTC) + timedelta(hours=1)) as watch:
            assert await take(watch, 1) == [CaughtUp()]
            await client.save("b", 1)
            assert await take(watch, 1) == [("b", 3, 1)]


async def test_two_watches_and_a_client_that_closes(service: Service) -> None:
    """Watches of one client do not disturb each other, and end with it."""
    async with holdfast.connect(service.amqp_url) as client:
        async with client.watch("a/") as one, client.watch(pattern="*/1") as other:
            assert [await take(each, 1) for each in (one, other)] == [[CaughtUp()], [CaughtUp()]]
            await client.save("a/1", 1)
            await client.save("b/1", 1)
            assert await take(one, 1) == [("a/1", 1, 1)]
            assert await take(other, 2) == [("a/1", 1, 1), ("b/1", 1, 1)]
        left = client.watch()
        await left.__aenter__()
        assert (await take(left, 3))[-1] == CaughtUp()
    with pytest.raises(holdfast.ClosedError):
        await anext(left)


async def test_who_falls_behind_catches_up_from_the_log(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """More comes than may wait for a slow caller: the subscription is given up, and what it lacks is read."""
    monkeypatch.setattr(subscription, "MAX_WAITING_BYTES", 100_000)
    async with holdfast.connect(service.amqp_url, timeout=60) as client, client.watch() as watch:
        assert await take(watch, 1) == [CaughtUp()]
        for number in range(40):
            await client.save("k", [number, "x" * 20_000])
        told = await take(watch, 40)
    assert [(version, value[0]) for _, version, value in told] == [(number + 1, number) for number in range(40)]


async def test_a_store_without_a_feed(amqp_url: str, mongo_url: str) -> None:
    """Where the feed is switched off, watching is refused in words, nothing is published, and there is no stream."""

    def run() -> None:
        options = FeedsConfig(stores={"default": FeedConfig(mode="off")})
        with running_worker(amqp_url, mongo_url, feed=options):
            asyncio.run(watch())
            with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
                channel = connection.channel()
                queue = channel.queue_declare("", exclusive=True).method.queue
                channel.queue_bind(queue, "holdfast.events", "#")
                asyncio.run(save())
                assert channel.basic_get(queue)[0] is None
                with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="404"):
                    channel.queue_declare("holdfast.events.default", passive=True)

    async def watch() -> None:
        async with holdfast.connect(amqp_url) as client, client.watch() as watch:
            with pytest.raises(holdfast.InvalidError, match="no change feed") as refused:
                await take(watch, 1)
            assert refused.value.code == "feed_off"
            with pytest.raises(holdfast.UnknownStoreError):
                async with client.watch(store="none") as other:
                    await take(other, 1)

    async def save() -> None:
        async with holdfast.connect(amqp_url) as client:
            await client.save("k", 1)

    await asyncio.to_thread(run)


async def test_one_message_for_a_batch(amqp_url: str, mongo_url: str) -> None:
    """In the mode `store` first levels play no part: one routing key, and a watch of one level sees its own."""

    def run() -> None:
        with running_worker(amqp_url, mongo_url, feed=FeedsConfig(mode="store")):
            asyncio.run(watch())

    async def watch() -> None:
        async with holdfast.connect(amqp_url) as client, client.watch("b/") as watch:
            assert await take(watch, 1) == [CaughtUp()]
            await client.save_many({"a/1": 1, "b/1": 2, "c/1": 3, "b/2": 4})
            assert sorted(await take(watch, 2)) == [("b/1", 1, 2), ("b/2", 1, 4)]

    await asyncio.to_thread(run)


# -- without our client


class Consumer:
    """pika, and nothing else."""

    def __init__(self, amqp_url: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
        self.channel = self.connection.channel()
        self.channel.basic_qos(prefetch_count=10)

    def bound(self, *routing_keys: str) -> str:
        queue: str = self.channel.queue_declare("", exclusive=True).method.queue
        for routing_key in routing_keys:
            self.channel.queue_bind(queue, "holdfast.events", routing_key)
        return queue

    def events(self, queue: str, count: int, **arguments: Any) -> list[tuple[pika.BasicProperties, Any]]:
        """The next events of a queue, each with the properties of its message."""
        told: list[tuple[pika.BasicProperties, Any]] = []
        for method, properties, body in self.channel.consume(queue, arguments=arguments, inactivity_timeout=30):
            assert method is not None, f"{len(told)} of {count} after 30 s"
            told += [(properties, event) for event in json.loads(body)]
            self.channel.basic_ack(method.delivery_tag)
            if len(told) >= count:
                break
        self.channel.cancel()
        return told


@pytest.fixture
def consumer(service: Service) -> Iterator[Consumer]:
    made = Consumer(service.amqp_url)
    yield made
    made.connection.close()


async def save_all(service: Service, *keys: str) -> None:
    async with holdfast.connect(service.amqp_url) as client:
        for key in keys:
            await client.save(key, {"key": key})


def test_a_plain_consumer_on_the_exchange(service: Service, consumer: Consumer) -> None:
    """Pika binds to one level and to the whole store, and gets CloudEvents in batches."""
    users, everything = consumer.bound("default.user"), consumer.bound("default.*")
    asyncio.run(save_all(service, "user/1", "other/1", "flat", "user/2"))

    told = consumer.events(users, 2)
    whole = consumer.events(everything, 4)

    assert [event["subject"] for _, event in told] == ["user/1", "user/2"]
    assert [event["subject"] for _, event in whole] == ["user/1", "other/1", "flat", "user/2"]
    properties, event = told[0]
    assert properties.content_type == "application/cloudevents-batch+json"
    assert properties.headers == {"x-holdfast-feed": "events"}
    assert {name: event[name] for name in ("specversion", "id", "source", "type", "subject", "datacontenttype")} == {
        "specversion": "1.0",
        "id": "user/1@1",
        "source": "/holdfast/default",
        "type": "holdfast.saved",
        "subject": "user/1",
        "datacontenttype": "application/json",
    }
    data = event["data"]
    assert (data["key"], data["version"], data["value"], data["author"]) == ("user/1", 1, {"key": "user/1"}, "holdfast")
    assert datetime.fromisoformat(event["time"]).timestamp() * 1000 == pytest.approx(data["time"])


def test_a_stream_is_read_from_any_offset(service: Service, consumer: Consumer) -> None:
    """Pika reads the stream from its beginning, again from a number, and as often as it likes."""
    keys = [f"user/{number}" for number in range(6)]
    asyncio.run(save_all(service, *keys))

    told = consumer.events("holdfast.events.default", 6, **{"x-stream-offset": "first"})
    numbers = [properties.headers["x-stream-offset"] for properties, _ in told]
    middle = numbers[3]
    later = consumer.events("holdfast.events.default", 3, **{"x-stream-offset": middle})
    asyncio.run(save_all(service, "late/1"))
    again = consumer.events("holdfast.events.default", 7, **{"x-stream-offset": "first"})

    assert [event["subject"] for _, event in told] == keys
    assert numbers == sorted(numbers)
    assert later[0][0].headers["x-stream-offset"] == middle
    assert [event["subject"] for _, event in later] == keys[3:]
    assert [event["subject"] for _, event in again] == [*keys, "late/1"]


def test_refusals_are_never_in_the_feed(service: Service, consumer: Consumer) -> None:
    """Whatever is refused, or changes nothing, is not told; nor is what was applied before told as something new."""
    queue = consumer.bound("default.*")

    async def run() -> None:
        async with holdfast.connect(service.amqp_url) as client:
            await client.save("k", 1, id="one")
            for refused in (
                client.save("k", 2, first_write=True),
                client.save("k", 3, etag="1-00000000"),
                client.delete("none"),
                client.save("k", 4, id="one"),
            ):
                await asyncio.gather(refused, return_exceptions=True)
            await client.save("k", 1, id="one")
            await client.save("last", 1)

    asyncio.run(run())
    told = consumer.events(queue, 2)
    while told[-1][1]["subject"] != "last":
        told += consumer.events(queue, 1)

    # The repeat under one id may be published again, as itself.
    assert {event["id"] for _, event in told} == {"k@1", "last@1"}


# -- who may see it

SHOP = (r"^amq\.gen-", r"^(amq\.gen-|holdfast\.commands$)", r"^(amq\.gen-|holdfast\.events$)")


@pytest.fixture
def accounts(rabbit: RabbitServer) -> Iterator[Accounts]:
    with accounts_on_vhost(rabbit) as made:
        yield made


def test_rights_on_the_broker(rabbit: RabbitServer, accounts: Accounts, mongo_url: str) -> None:
    """Who may not read the exchange is denied, and with topic permissions who may sees no other store or level."""
    admin = rabbit.url(accounts.vhost)
    shop, nobody = accounts.add("shop", SHOP), accounts.add("nobody")
    section = (Path(__file__).parents[2] / "docs/change-feed.md").read_text().split("## Who may see it")[1]
    (command,) = (line.split() for line in section.splitlines() if "set_topic_permissions" in line)
    assert command[:5] == ["rabbitmqctl", "set_topic_permissions", "-p", "holdfast", "shop"]
    rabbit.ctl("set_topic_permissions", "-p", accounts.vhost, *(word.strip("'") for word in command[4:]))
    assert f"'{SHOP[0]}' '{SHOP[1]}' '{SHOP[2]}'" in section

    async def run() -> None:
        async with holdfast.connect(admin) as writer:
            await writer.save("user/1", 1)
            async with holdfast.connect(shop) as client:
                async with client.watch("user/") as watch:
                    assert await take(watch, 2) == [("user/1", 1, 1), CaughtUp()]
                    await writer.save("user/1", 2)
                    assert await take(watch, 1) == [("user/1", 2, 2)]
                for prefix in ("", "other/", "use"):
                    async with client.watch(prefix) as watch:
                        with pytest.raises(holdfast.DeniedError):
                            await take(watch, 1)
            async with holdfast.connect(nobody) as client, client.watch("user/") as watch:
                with pytest.raises(holdfast.DeniedError):
                    await take(watch, 1)

    with running_worker(admin, mongo_url):
        asyncio.run(run())


def test_access_rules(accounts: Accounts, rabbit: RabbitServer, mongo_url: str) -> None:
    """In a closed service a watch takes the rights to watch and to read all that begins like that."""

    def rule(user: str, key: str, *operations: str) -> AccessRule:
        return AccessRule(user=user, store="default", key=key, operations=list(operations))

    rules = [
        rule("owner", "*", "*"),
        rule("eye", "user/*", "watch", "read"),
        rule("half", "*", "watch"),
        rule("half", "*", "save"),
        rule("other", "*", "read"),
        rule("one", "user/1", "watch", "read"),
    ]
    urls = {name: accounts.add(name, SHOP) for name in ("owner", "eye", "half", "other", "one")}

    async def denied(name: str, prefix: str) -> None:
        async with holdfast.connect(urls[name]) as client, client.watch(prefix) as watch:
            with pytest.raises(holdfast.DeniedError, match="may not watch"):
                await take(watch, 1)

    async def run() -> None:
        async with holdfast.connect(urls["owner"]) as owner:
            await owner.save("user/1", 1)
            async with holdfast.connect(urls["eye"]) as eye, eye.watch("user/") as watch:
                assert await take(watch, 2) == [("user/1", 1, 1), CaughtUp()]
                await owner.save("user/1", 2)
                assert await take(watch, 1) == [("user/1", 2, 2)]
            for name, prefix in (("eye", ""), ("eye", "use"), ("half", "user/"), ("other", "user/"), ("one", "user/1")):
                await denied(name, prefix)

    access = AccessConfig(default="closed", rules=rules)
    with running_worker(rabbit.url(accounts.vhost), mongo_url, access=access):
        asyncio.run(run())


async def test_sealed_values_and_spaces_of_keys(service: Service) -> None:
    """A watch of a client that seals its values, in a space of keys, tells both as the client calls them."""
    sealed = holdfast.Encryption({"k1": bytes(32)})
    async with (
        holdfast.connect(service.amqp_url) as plain,
        holdfast.connect(service.amqp_url, encryption=sealed, keys=holdfast.by_name("shop")) as client,
    ):
        await plain.save("cart/1", "of nobody")
        await client.save("cart/1", "secret")
        async with client.watch("cart/") as watch:
            assert await take(watch, 2) == [("cart/1", 1, "secret"), CaughtUp()]
            await client.save("cart/1", "later")
            await plain.save("cart/1", "of nobody")
            await client.save("cart/2", "last")
            assert await take(watch, 2) == [("cart/1", 2, "later"), ("cart/2", 1, "last")]
            assert "later" not in str(await plain.read("shop/cart/1"))


async def test_transactions_are_told(service: Service) -> None:
    """What a transaction has changed is told like everything else, also when it comes again; what it refused is not."""
    async with holdfast.connect(service.amqp_url) as client, client.watch() as watch:
        assert await take(watch, 1) == [CaughtUp()]
        steps = [holdfast.Save("a/1", 1), holdfast.Save("b/1", 2)]
        await client.transact(steps, id="one")
        assert sorted(await take(watch, 2)) == [("a/1", 1, 1), ("b/1", 1, 2)]
        await client.transact(steps, id="one")
        with pytest.raises(holdfast.ConflictError):
            await client.transact([holdfast.Save("a/1", 3), holdfast.Save("b/1", 4, first_write=True)])
        await client.save("a/1", 5)
        assert await take(watch, 1) == [("a/1", 2, 5)]
