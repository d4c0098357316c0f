"""Accounts with the rights that docs/security.md gives them: what a worker and a client need, and nothing beyond."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]
import pika.exceptions  # type: ignore[import-untyped]
import pytest
from pydantic import BaseModel
from support.service import Service, running_worker

import holdfast
from holdfast.local import RabbitServer

PAGE = (Path(__file__).parents[2] / "docs/security.md").read_text(encoding="utf-8")
VHOST = "holdfast"
PASSWORDS = {
    "$WORKER_PASSWORD": "of-the-worker",
    "$SHOP_PASSWORD": "of-the-shop",
    "$OPERATOR_PASSWORD": "of-the-operator",
}
QUEUES = ["holdfast.commands.0", "holdfast.ingress", "holdfast.dead"]
REFUSED, LOCKED, FORGED = 403, 405, 406


class Accounts:
    """What the commands of the page make, on a server where nothing else is called like that."""

    def __init__(self, rabbit: RabbitServer) -> None:
        self.rabbit = rabbit
        self.users: list[str] = []
        section = PAGE.split("## Accounts on the broker")[1].split("\n## ")[0]
        (commands,) = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        for program, *words in filter(None, (shlex.split(line, comments=True) for line in commands.splitlines())):
            assert program == "rabbitmqctl"
            self.rabbit.ctl(*(PASSWORDS.get(word, word) for word in words))
            if words[0] == "add_user":
                self.users.append(words[1])

    def url(self, user: str) -> str:
        place = f"127.0.0.1:{self.rabbit.amqp_port}/{VHOST}"
        return f"amqp://{user}:{PASSWORDS[f'${user.upper()}_PASSWORD']}@{place}"

    def remove(self) -> None:
        for user in self.users:
            self.rabbit.ctl("delete_user", user)
        self.rabbit.delete_vhosts([VHOST])


@pytest.fixture(scope="module")
def accounts(rabbit: RabbitServer) -> Iterator[Accounts]:
    """The virtual host and the accounts of the page."""
    accounts = Accounts(rabbit)
    yield accounts
    accounts.remove()


@pytest.fixture
def service(accounts: Accounts, mongo_url: str) -> Iterator[Service]:
    """A worker that has no more than the worker's rights."""
    with running_worker(accounts.url("worker"), mongo_url) as service:
        yield service


class Shop(BaseModel):
    """What is kept in a handle."""

    items: list[str] = []


async def test_a_whole_session_with_the_rights_of_the_page(
    accounts: Accounts, service: Service, rabbit: RabbitServer
) -> None:
    """Given the page's accounts, when a client does all that clients do, also over a lost connection, then it works."""
    async with holdfast.connect(accounts.url("shop")) as client:
        saved = await client.save("user/1", {"name": "Ada"})
        assert (await client.read("user/1")) == saved
        shop = client.state("user/1/cart", Shop, default=Shop)
        await shop.update(lambda cart: cart.items.append("apple"))
        await asyncio.to_thread(rabbit.close_all_connections)
        await shop.update(lambda cart: cart.items.append("pear"))
        assert await client.delete("user/1", etag=saved.etag)
        events = await client.history("user/1")
        assert [(event.version, event.author) for event in events] == [(1, "shop"), (2, "shop")]
        assert (await client.history("user/1/cart"))[-1].value == {"items": ["apple", "pear"]}


def test_a_worker_forwards_and_buries_and_an_operator_digs_up(accounts: Accounts, service: Service) -> None:
    """Given the page's accounts, when commands come by the ingress and some fail, then authors and letters are kept,
    and the operator can list letters and replay them in their authors' names.
    """
    with pika.BlockingConnection(pika.URLParameters(accounts.url("shop"))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for body in (b'{"id": "1", "op": "save", "key": "k", "value": 1}', b'{"id": "2", "op": "sav"}'):
            channel.basic_publish("holdfast.commands", "k", body, pika.BasicProperties(user_id="shop"), mandatory=True)
    with pika.BlockingConnection(pika.URLParameters(accounts.url("worker"))) as connection:
        # Until it has come, nothing of this account's could say so.
        channel = connection.channel()
        for method, _, body in channel.consume("holdfast.dead", inactivity_timeout=30):
            assert body == b'{"id": "2", "op": "sav"}'
            channel.basic_nack(method.delivery_tag)
            break
    listed = holdfast_dead(accounts, "list", "--json")
    assert '"shop"' in listed.stdout
    replayed = holdfast_dead(accounts, "replay", "--all")
    assert "bad_op" in replayed.stdout + replayed.stderr
    assert asyncio.run(authors(accounts.url("shop"), "k")) == ["shop"]


def holdfast_dead(accounts: Accounts, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "holdfast", "dead", *arguments],
        env=os.environ | {"HOLDFAST_AMQP_URL": accounts.url("operator")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def authors(url: str, key: str) -> list[str | None]:
    async with holdfast.connect(url) as client:
        return [event.author for event in await client.history(key)]


def test_direct_reply_to_needs_nothing_but_the_right_to_publish(
    accounts: Accounts, service: Service, rabbit: RabbitServer
) -> None:
    """Given the page's permissions for direct reply-to, when a client with these asks that way, then it is answered."""
    (permissions,) = re.findall(r"direct reply-to[^`]*`(rabbitmqctl set_permissions [^`]+)`", PAGE)
    rabbit.ctl("add_user", "asker", "of-the-asker")
    try:
        rabbit.ctl(*shlex.split(permissions)[1:])
        url = accounts.url("shop").replace("shop:of-the-shop", "asker:of-the-asker")
        replies: list[bytes] = []
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            channel.basic_consume("amq.rabbitmq.reply-to", lambda *said: replies.append(said[-1]), auto_ack=True)
            properties = pika.BasicProperties(user_id="asker", reply_to="amq.rabbitmq.reply-to")
            channel.basic_publish("holdfast.commands", "0", b'{"op": "describe"}', properties)
            deadline = time.monotonic() + 30
            while not replies:
                assert time.monotonic() < deadline, "no reply within 30 s"
                connection.process_data_events(time_limit=1)
        assert b'"status":"ok"' in replies[0]
    finally:
        rabbit.ctl("delete_user", "asker")


Attempt = Callable[[Any], Any]


def attempts(of_another: str) -> list[tuple[str, int, Attempt]]:
    """What a client must not be able to do, with the code by which the broker refuses it."""
    made: list[tuple[str, int, Attempt]] = [
        ("forge a reply", REFUSED, lambda it: it.basic_publish("", of_another, b"[]")),
        ("forge a dead letter", REFUSED, lambda it: it.basic_publish("", "holdfast.dead", b"{}")),
        ("pass by the exchange", REFUSED, lambda it: it.basic_publish("", "holdfast.commands.0", b"{}")),
        ("publish to the ingress", REFUSED, lambda it: it.basic_publish("holdfast.ingress", "k", b"{}")),
        ("publish elsewhere", REFUSED, lambda it: it.basic_publish("amq.topic", "k", b"{}")),
        (
            "be somebody else",
            FORGED,
            lambda it: it.basic_publish("holdfast.commands", "0", b"{}", pika.BasicProperties(user_id="worker")),
        ),
        (
            "be nobody",
            FORGED,
            lambda it: it.basic_publish("holdfast.commands", "0", b"{}", pika.BasicProperties(user_id="")),
        ),
        ("read another's replies", LOCKED, lambda it: it.basic_consume(of_another, print)),
        ("take another's reply", LOCKED, lambda it: it.basic_get(of_another)),
        ("drop another's replies", LOCKED, lambda it: it.queue_purge(of_another)),
        ("delete another's reply queue", LOCKED, lambda it: it.queue_delete(of_another)),
        ("look at another's reply queue", LOCKED, lambda it: it.queue_declare(of_another, passive=True)),
        ("bind another's reply queue", REFUSED, lambda it: it.queue_bind(of_another, "holdfast.commands", "0")),
        ("copy commands", REFUSED, lambda it: it.queue_bind(own(it), "holdfast.commands", "0")),
        ("listen to the firehose", REFUSED, lambda it: it.queue_bind(own(it), "amq.rabbitmq.trace", "#")),
        ("have the broker bury", REFUSED, lambda it: own(it, **{"x-dead-letter-exchange": "", "x-message-ttl": 1})),
        ("make a queue", REFUSED, lambda it: it.queue_declare("mine")),
        ("make a queue of ours", REFUSED, lambda it: it.queue_declare("holdfast.commands.4096", durable=True)),
        ("make an exchange", REFUSED, lambda it: it.exchange_declare("mine")),
        ("delete the exchange", REFUSED, lambda it: it.exchange_delete("holdfast.commands")),
        ("bind the exchange", REFUSED, lambda it: it.exchange_bind("holdfast.commands", "amq.direct", "0")),
    ]
    for queue in QUEUES:
        made += touching(queue)
    return made


def touching(queue: str) -> list[tuple[str, int, Attempt]]:
    """What a client must not be able to do with a queue of ours."""
    return [
        (f"consume {queue}", REFUSED, lambda it: it.basic_consume(queue, print)),
        (f"get {queue}", REFUSED, lambda it: it.basic_get(queue)),
        (f"purge {queue}", REFUSED, lambda it: it.queue_purge(queue)),
        (f"delete {queue}", REFUSED, lambda it: it.queue_delete(queue)),
        (f"unbind {queue}", REFUSED, lambda it: it.queue_unbind(queue, "holdfast.commands", "0")),
    ]


def own(channel: Any, **arguments: Any) -> str:
    """A reply queue, as clients make it."""
    name: str = channel.queue_declare("", exclusive=True, arguments=arguments).method.queue
    return name


def test_what_a_client_cannot_do(accounts: Accounts, service: Service) -> None:
    """Given a client's account, when it tries what is not its business, then the broker refuses each of it."""
    shop = pika.BlockingConnection(pika.URLParameters(accounts.url("shop")))
    other = pika.BlockingConnection(pika.URLParameters(accounts.url("shop")))
    try:
        tried = attempts(own(other.channel()))
        told: dict[str, int | None] = {}
        for what, _, attempt in tried:
            channel = shop.channel()
            channel.confirm_delivery()
            told[what] = None
            try:
                attempt(channel)
            except pika.exceptions.ChannelClosedByBroker as refusal:
                told[what] = refusal.reply_code
        assert told == {what: code for what, code, _ in tried}
    finally:
        shop.close()
        other.close()
