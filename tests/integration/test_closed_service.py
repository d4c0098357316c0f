"""A closed service on real servers: users of the broker, and what they can do, learn and forge."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]
import pika.exceptions  # type: ignore[import-untyped]
import pytest
from support.accounts import CLIENT, OPERATOR, WORKER, accounts_on_vhost
from support.service import PARTITIONS, running_worker

import holdfast
from holdfast.events import ConflictError, DeniedError, partition_of
from holdfast.local import Addresses, MongoReplicaSet, RabbitServer, WorkerServer
from holdfast.worker import AccessConfig, AccessRule

Json = dict[str, Any]
#: Of the broker's users in these tests. What is not here has no rights.
ACCESS = AccessConfig(
    default="closed",
    rules=[
        AccessRule(user="owner", store="*", key="*", operations=["*"]),
        AccessRule(user="pen", store="default", key="k/*", operations=["save", "delete"]),
        AccessRule(user="*", store="default", key="home/${user}/*", operations=["read", "save"]),
        AccessRule(anonymous=True, store="default", key="box/*", operations=["save"]),
    ],
)


@dataclass(frozen=True)
class Closed:
    """Addresses of a closed service, by user."""

    owner: str
    pen: str
    stranger: str
    #: Who may read dead letters, and send them in anybody's name.
    digger: str


@pytest.fixture(scope="module")
def closed(rabbit: RabbitServer, mongo: MongoReplicaSet) -> Iterator[Closed]:
    """A worker with rules in force."""
    database = f"access_{uuid.uuid4().hex[:12]}"
    with accounts_on_vhost(rabbit) as accounts:
        worker = accounts.add("worker", WORKER, tag="impersonator")
        users = {name: accounts.add(name) for name in ("owner", "pen", "stranger")}
        users["digger"] = accounts.add("digger", OPERATOR, tag="impersonator")
        with running_worker(worker, mongo.url(database), access=ACCESS):
            yield Closed(**users)
    with mongo.client() as client:
        client.drop_database(database)


class Raw:
    """A connection of pika, which says of itself what it likes."""

    def __init__(self, url: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.queue: str = self.channel.queue_declare("", exclusive=True).method.queue

    def send(self, body: Any, route: str, **properties: Any) -> None:
        """Send a message to which nobody waits for an answer."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.channel.basic_publish("holdfast.commands", route, raw, pika.BasicProperties(**properties), mandatory=True)

    def count(self, queue: str) -> int:
        """Messages that wait in a queue."""
        waiting: int = self.channel.queue_declare(queue, passive=True).method.message_count
        return waiting

    def ask(self, command: Json, route: str, **properties: Any) -> Json:
        """Send a command, and give back the reply."""
        (reply,) = self.ask_all(command, 1, route, **properties)
        return reply

    def ask_all(self, body: Any, count: int, route: str, **properties: Any) -> list[Json]:
        """Send a message, and give back so many replies."""
        made = pika.BasicProperties(reply_to=self.queue, **properties)
        self.channel.basic_publish("holdfast.commands", route, json.dumps(body).encode(), made, mandatory=True)
        replies: list[Json] = []
        for _, _, answer in self.channel.consume(self.queue, auto_ack=True, inactivity_timeout=30):
            assert answer is not None, f"nothing more within 30 s after {replies}"
            data = json.loads(answer)
            replies += data if isinstance(data, list) else [data]
            if len(replies) >= count:
                break
        self.channel.cancel()
        return replies


@pytest.fixture
def raw() -> Iterator[Callable[[str], Raw]]:
    """Opens connections of pika."""
    opened: list[Raw] = []

    def open_(url: str) -> Raw:
        opened.append(Raw(url))
        return opened[-1]

    yield open_
    for each in opened:
        if each.connection.is_open:
            each.connection.close()


def command(op: str, key: str, **fields: Any) -> Json:
    return {"op": op, "id": str(uuid.uuid4()), "key": key, **fields} | ({"value": 1} if op == "save" else {})


def route(way: str, key: str) -> str:
    """The routing key by each of the ways on which a command can come."""
    home = partition_of("default", key, PARTITIONS)
    return {"partition": str(home), "wrong partition": str((home + 1) % PARTITIONS), "ingress": key}[way]


ways = pytest.mark.parametrize("way", ["partition", "wrong partition", "ingress"])


async def test_the_client_is_told_what_it_may_not_do(closed: Closed) -> None:
    """Given a user without rights, when its client asks for anything, then DeniedError says who may not do what."""
    async with holdfast.connect(closed.owner) as owner, holdfast.connect(closed.stranger) as stranger:
        saved = await owner.save("told", "secret")
        calls = {
            "read": stranger.read("told"),
            "history": stranger.history("told"),
            "delete": stranger.delete("told", etag=saved.etag, return_current=True),
            "save": stranger.save("told", 1, return_current=True),
        }
        for operation, call in calls.items():
            with pytest.raises(DeniedError) as denied:
                await call
            said = f"the user 'stranger' may not {operation} the key 'told' of the store 'default'"
            assert str(denied.value) == said
        with pytest.raises(DeniedError):
            await stranger.state("told", str).read()
        assert (await owner.read("told")) == saved
        assert (await stranger.describe()).stores == ("default",)


async def test_everybody_has_what_is_his(closed: Closed) -> None:
    """Given a rule for users' own keys, when two of them use theirs and each other's, then the first is done."""
    async with holdfast.connect(closed.pen) as pen, holdfast.connect(closed.stranger) as stranger:
        await pen.save("home/pen/x", 1)
        await stranger.save("home/stranger/x", 2)
        for client, name in ((pen, "stranger"), (stranger, "pen"), (pen, "pen2"), (pen, "pe")):
            with pytest.raises(DeniedError):
                await client.read(f"home/{name}/x")
            with pytest.raises(DeniedError):
                await client.save(f"home/{name}/x", 3)
        assert (await pen.read("home/pen/x")).value == 1  # type: ignore[union-attr]


@ways
def test_rights_are_the_same_on_every_way(closed: Closed, raw: Callable[[str], Raw], way: str) -> None:
    """Given any route, a forged hop and forged headers, when a user asks, then what counts is the validated user."""
    pen, owner = raw(closed.pen), raw(closed.owner)
    key, other = f"k/{way}", f"other/{way}"
    assert owner.ask(command("save", other), route(way, other), user_id="owner")["status"] == "ok"
    assert pen.ask(command("save", key), route(way, key), user_id="pen")["status"] == "ok"
    forged = {"x-holdfast-hop": 1, "x-holdfast-author": "owner", "x-holdfast-user": "owner", "user_id": "owner"}
    for headers in (None, forged):
        for refused in (command("read", other), command("save", other), command("read", key)):
            told = pen.ask(refused, route(way, refused["key"]), user_id="pen", headers=headers)
            assert told["status"] == "denied"
            assert set(told) == {"id", "status", "error", "epoch", "time"}
    events = owner.ask(command("history", key), route(way, key), user_id="owner")["events"]
    assert [event["author"] for event in events] == ["pen"]


def test_no_user_can_be_forged(closed: Closed, raw: Callable[[str], Raw]) -> None:
    """Given a client's account, when it sets another's name as user-id, then the broker refuses the message."""
    for name in ("owner", "worker", "", "PEN"):
        pen = raw(closed.pen)
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refused:
            pen.ask(command("read", "told"), "0", user_id=name)
        assert refused.value.reply_code == 406


@ways
def test_who_is_anonymous_has_the_rights_of_everybody(closed: Closed, raw: Callable[[str], Raw], way: str) -> None:
    """Given commands without a user-id, when they are asked for, then only what is for anonymous is done."""
    owner = raw(closed.owner)
    for key, status in (("box/1", "ok"), ("k/1", "denied"), ("home/owner/1", "denied"), ("home//1", "denied")):
        assert owner.ask(command("save", key), route(way, key))["status"] == status
    told = owner.ask(command("read", "told"), "0")
    assert told["error"]["message"].startswith("nobody (the command has no user-id) may not read the key 'told'")


def test_in_an_array_each_command_is_judged(closed: Closed, raw: Callable[[str], Raw]) -> None:
    """Given an array of allowed and forbidden commands by the ingress, when it is answered, then each for itself."""
    pen = raw(closed.pen)
    key = "k/array"
    commands = [command("save", key), command("read", key), command("delete", key)]
    by_id = {reply["id"]: reply["status"] for reply in pen.ask_all(commands, 3, "any", user_id="pen")}
    assert [by_id[each["id"]] for each in commands] == ["ok", "denied", "ok"]


@ways
def test_who_may_not_read_learns_nothing_from_writing(closed: Closed, raw: Callable[[str], Raw], way: str) -> None:
    """Given keys of different pasts, when a writer tries all it can, then the answers tell no more than done or not."""
    owner, pen = raw(closed.owner), raw(closed.pen)
    told: list[list[Json]] = []
    for past in ([], ["save"], ["save", "delete"], ["save", "save", "delete", "save"]):
        key = f"k/past-{way}-{len(past)}"
        for op in past:
            owner.ask(command(op, key), route(way, key), user_id="owner")
        etag = "1-00000000"
        attempts = [
            command("delete", key, etag=etag, return_current=True),
            command("save", key, etag=etag, return_current=True),
            command("save", key, return_current=True),
            command("save", key, concurrency="first-write", return_current=True),
            command("delete", key, return_current=True),
            command("delete", key),
            command("save", key, id=str(uuid.uuid4())),
        ]
        answers = []
        for attempt in attempts + attempts:
            answer = pen.ask(attempt, route(way, key), user_id="pen")
            assert answer.pop("id") == attempt["id"]
            assert isinstance(answer.pop("time"), int)
            answers.append(answer)
        told.append(answers)
    ok = {"status": "ok", "epoch": 1}
    message = "the key is not in the state demanded; in which one it is this user may not know"
    mismatch, exists = (
        {"status": "conflict", "epoch": 1, "error": {"code": "hidden", "message": message, "expected": expected}}
        for expected in ("1-00000000", None)
    )
    whole = [mismatch, mismatch, ok, exists, ok, ok, ok]
    assert told == [whole + whole] * 4


async def test_the_client_copes_with_what_is_hidden(closed: Closed) -> None:
    """Given a writer who may not read, when its client meets success and conflict, then it makes sense of both."""
    async with holdfast.connect(closed.owner) as owner, holdfast.connect(closed.pen) as pen:
        entry = await pen.save("k/client", 1)
        assert (entry.value, entry.etag, entry.version) == (1, "", 0)
        with pytest.raises(ConflictError) as conflict:
            await pen.save("k/client", 2, first_write=True, return_current=True)
        assert conflict.value.code == "hidden"
        assert (conflict.value.actual, conflict.value.winner, conflict.value.current) == (None, None, None)
        assert str(conflict.value) == "'k/client': expected absent, found another state, which this user may not know"
        await pen.delete("k/client")
        assert [event.author for event in await owner.history("k/client")] == ["pen", "pen"]


def test_a_replayed_letter_has_the_rights_of_its_author(closed: Closed, raw: Callable[[str], Raw]) -> None:
    """Given letters of one who may and of one who may not, when both are replayed, then the second is denied again."""
    owner, stranger = raw(closed.owner), raw(closed.stranger)
    refused = command("save", "letter", id="not-allowed")
    stranger.send(refused, "0", user_id="stranger", message_id="not-allowed")
    owner.send(b'{"id": "broken", "op": "sav"}', "0", user_id="owner")
    while owner.count("holdfast.dead") < 2:
        owner.connection.process_data_events(time_limit=0.05)

    def dead(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", "dead", *arguments],
            env=os.environ | {"HOLDFAST_AMQP_URL": closed.digger},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout + done.stderr

    assert "the user 'stranger' may not save the key 'letter'" in dead("list", "--json")
    said = dead("replay", "not-allowed")
    assert "denied" in said
    assert "not-allowed" in dead("list", "--json")
    assert owner.ask(command("read", "letter"), "0", user_id="owner")["exists"] is False


@ways
def test_an_author_that_is_lost_gains_nothing(
    rabbit: RabbitServer, mongo_url: str, raw: Callable[[str], Raw], way: str
) -> None:
    """Given a worker that may not forward in others' names, when commands are forwarded, then none is gained."""
    rules = [
        AccessRule(user="named", store="*", key="*", operations=["*"]),
        AccessRule(anonymous=True, store="*", key="box/*", operations=["save"]),
    ]
    with accounts_on_vhost(rabbit) as accounts:
        worker = accounts.add("poor-worker", WORKER)
        named, unknown = (raw(accounts.add(name)) for name in ("named", "unknown"))
        with running_worker(worker, mongo_url, access=AccessConfig(default="closed", rules=rules)):
            stays = way == "partition"
            told = named.ask(command("save", "k"), route(way, "k"), user_id="named")["status"]
            assert told == ("ok" if stays else "denied")
            assert unknown.ask(command("save", "k"), route(way, "k"), user_id="unknown")["status"] == "denied"
            told = unknown.ask(command("save", "box/1"), route(way, "box/1"), user_id="unknown")["status"]
            assert told == ("ok" if stays else "denied")
            assert unknown.ask(command("save", "box/1"), route(way, "box/1"))["status"] == "ok"
        for each in (named, unknown):
            each.connection.close()


async def test_a_file_closes_a_worker(rabbit: RabbitServer, mongo_url: str, tmp_path: Path) -> None:
    """Given a configuration file with rules, when a worker process runs with it, then they are in force."""
    file = tmp_path / "holdfast.toml"
    file.write_text(
        f'[stores.default]\nurl = "{mongo_url}"\n[access]\ndefault = "closed"\n'
        '[[access.rules]]\nuser = "reader"\nstore = "default"\nkey = "*"\noperations = ["read"]\n'
    )
    with accounts_on_vhost(rabbit) as accounts:
        worker_url = accounts.add("filed-worker", WORKER, tag="impersonator")
        reader_url = accounts.add("reader", CLIENT)
        worker = WorkerServer(
            tmp_path / "worker",
            addresses=Addresses(worker_url, ""),
            environment={"HOLDFAST_CONFIG_FILE": str(file), "HOLDFAST_PARTITIONS": "2"},
        )
        await asyncio.to_thread(worker.start)
        try:
            async with holdfast.connect(reader_url) as reader:
                assert await reader.read("k") is None
                with pytest.raises(DeniedError):
                    await reader.save("k", 1)
        finally:
            await asyncio.to_thread(worker.stop)
        log = worker.log_path.read_text()
    assert "denied: the user 'reader' may not save the key 'k' of the store 'default'" in log
