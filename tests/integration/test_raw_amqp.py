"""Holdfast without its client: amqp-tools, pika and, where there is Node, amqplib talk to a running worker.

docs/protocol.md is the promise that these tests hold Holdfast to.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]
import pika.exceptions  # type: ignore[import-untyped]
import pytest
from support.service import PARTITIONS, Service, running_worker

from holdfast.local import RabbitServer
from holdfast.local.cache import install

DIRECT = "amq.rabbitmq.reply-to"
PATIENCE = 20.0
PROTOCOL = Path(__file__).parents[2] / "docs/protocol.md"

Json = dict[str, Any]


class Raw:
    """A connection of pika, with direct reply-to and with a reply queue of its own."""

    def __init__(self, service: Service, *, own_queue: bool = True) -> None:
        self.partitions = service.partitions
        self._connection = pika.BlockingConnection(pika.URLParameters(service.amqp_url))
        self.channel = self._connection.channel()
        self.channel.confirm_delivery()
        self.arrived: list[tuple[pika.BasicProperties, Any]] = []
        self.channel.basic_consume(DIRECT, self._on_reply, auto_ack=True)
        if own_queue:
            self.queue: str = self.channel.queue_declare("", exclusive=True).method.queue
            self.channel.basic_consume(self.queue, self._on_reply, auto_ack=True)

    def _on_reply(self, _channel: Any, _method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        self.arrived.append((properties, json.loads(body)))

    def send(self, body: Any, routing_key: str, **properties: Any) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.channel.basic_publish(
            "holdfast.commands", routing_key, raw, pika.BasicProperties(**properties), mandatory=True
        )

    def wait(self, done: Callable[[], bool], *, step: float = 0.2) -> None:
        """Let pika work until it is done; fails after a time that is far longer than anything takes."""
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, f"nothing after {PATIENCE} s; arrived: {self.arrived}"
            self._connection.process_data_events(time_limit=step)

    def ask(self, body: Any, routing_key: str, *, reply_to: str = DIRECT, **properties: Any) -> Any:
        """Send, and give back the body of the one message that answers."""
        before = len(self.arrived)
        self.send(body, routing_key, reply_to=reply_to, **properties)
        self.wait(lambda: len(self.arrived) > before)
        return self.arrived[before][1]

    def ask_many(self, commands: list[Json], routing_key: str, **properties: Any) -> dict[str, Json]:
        """Send an array, and give back the replies by id once there is one for each."""
        before = len(self.arrived)
        self.send(commands, routing_key, reply_to=DIRECT, **properties)
        self.wait(lambda: sum(len(body) for _, body in self.arrived[before:]) >= len(commands))
        replies = [reply for _, body in self.arrived[before:] for reply in body]
        assert len(replies) == len(commands)
        return {reply["id"]: reply for reply in replies}

    def dead_letter(self) -> tuple[pika.BasicProperties, bytes]:
        """Take the next message from the dead letter queue, once there is one."""
        found: list[tuple[pika.BasicProperties, bytes]] = []

        def look() -> bool:
            method, properties, body = self.channel.basic_get("holdfast.dead", auto_ack=True)
            if method is not None:
                found.append((properties, body))
            return bool(found)

        self.wait(look, step=0.01)
        return found[0]

    def partition(self, key: str, store: str = "default") -> str:
        return str(zlib.crc32(f"{store}/{key}".encode()) % self.partitions)

    def route(self, way: str, key: str) -> str:
        """The routing key for one of the two routes."""
        return key if way == "ingress" else self.partition(key)

    def close(self) -> None:
        if self._connection.is_open:
            self._connection.close()


@pytest.fixture
def raw(service: Service) -> Iterator[Raw]:
    """A connection of pika to a running service."""
    connection = Raw(service)
    yield connection
    connection.close()


def save(key: str, value: Any = None, **fields: Any) -> Json:
    return {"id": str(uuid.uuid4()), "op": "save", "key": key, "value": value, **fields}


def read(key: str, **fields: Any) -> Json:
    return {"id": str(uuid.uuid4()), "op": "read", "key": key, **fields}


ways = pytest.mark.parametrize("way", ["ingress", "partition"])


# What the page says.


def test_partition_function_has_the_documented_vectors() -> None:
    """Given the page's table of partitions, when an independent CRC computes them, then every cell is right."""
    row = r"^\| `([^`]+)` \| `([^`]+)`" + r" \| (\d+)" * 5 + r" \|$"
    rows = re.findall(row, PROTOCOL.read_text(), re.MULTILINE)
    assert len(rows) == 4
    for store, key, crc, *cells in rows:
        assert zlib.crc32(f"{store}/{key}".encode()) == int(crc)
        assert [int(crc) % partitions for partitions in (1, 4, 8, 16)] == [int(cell) for cell in cells]


def example(language: str) -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PROTOCOL.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def run(command: list[str], service: Service, cwd: Path | None = None) -> list[str]:
    environment = os.environ | {"HOLDFAST_AMQP_URL": service.amqp_url}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_example_for_amqp_tools(service: Service, raw: Raw) -> None:
    """Given the page's shell example, when it runs, then it saves, reads back and deletes."""
    saved, found = (json.loads(line) for line in run(["sh", "-c", example("sh")], service))
    assert (saved["id"], saved["status"], saved["version"], saved["changed"]) == ("9b1c6a", "ok", 1, True)
    assert (found["id"], found["exists"], found["value"], found["etag"]) == ("1", True, {"name": "Ada"}, saved["etag"])
    raw.wait(lambda: raw.ask(read("user/42"), "user/42")["version"] == 2)


def test_example_for_pika(service: Service) -> None:
    """Given the page's Python example, when it runs, then it saves, reads back and meets a conflict."""
    assert [
        re.sub("1-[0-9a-f]{8}", "ETAG", line) for line in run([sys.executable, "-c", example("python")], service)
    ] == [
        "ok 1 ETAG",
        "{'name': 'Grace'}",
        "conflict etag_mismatch {'name': 'Grace'}",
    ]


if shutil.which("node") and shutil.which("npm"):

    @pytest.fixture(scope="module")
    def node_modules() -> Path:
        """Node's amqplib, fetched once into the cache."""

        def build(folder: Path) -> None:
            command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-save", "amqplib@2"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=100)

        return install("amqplib-2", build, print) / "node_modules"

    def test_example_for_amqplib(service: Service, node_modules: Path, tmp_path: Path) -> None:
        """Given the page's Node example, when it runs, then it saves and reads back."""
        (tmp_path / "node_modules").symlink_to(node_modules)
        (tmp_path / "example.mjs").write_text(example("js"))
        saved, found = run(["node", "example.mjs"], service, cwd=tmp_path)
        assert saved.startswith("ok 1 1-")
        assert found == "{ name: 'Edsger' }"


# amqp-tools.


class Tools:
    """Debian's amqp-tools."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._queue = f"replies-{uuid.uuid4()}"
        self._run("amqp-declare-queue", "-d", "-q", self._queue)

    def _run(self, tool: str, *arguments: str) -> list[str]:
        return run([tool, "-u", self._service.amqp_url, *arguments], self._service)

    def tell(self, body: str, routing_key: str, *more: str) -> None:
        self._run("amqp-publish", "-e", "holdfast.commands", "-r", routing_key, "-p", "-b", body, *more)

    def ask(self, body: Any, routing_key: str) -> Any:
        self.tell(json.dumps(body), routing_key, "-t", self._queue)
        (line,) = self._run("amqp-consume", "-q", self._queue, "-c", "1", "cat")
        return json.loads(line)


@ways
def test_amqp_tools_with_reply(service: Service, raw: Raw, way: str) -> None:
    """Given amqp-publish, when it sends an object or an array, then amqp-consume gets an object or an array."""
    tools = Tools(service)
    route = raw.route(way, "tools")
    saved = tools.ask(save("tools", [1, 2.5, "drei"], id="t1"), route)
    assert (saved["id"], saved["status"], saved["version"]) == ("t1", "ok", 1)
    assert tools.ask(read("tools"), route)["value"] == [1, 2.5, "drei"]
    several = tools.ask([read("tools", id="r1"), save("tools", None, id="t2"), read("tools", id="r2")], route)
    assert {reply["id"]: reply["version"] for reply in several} == {"r1": 1, "t2": 2, "r2": 2}


@ways
def test_amqp_tools_without_reply(service: Service, raw: Raw, way: str) -> None:
    """Given amqp-publish without a reply address, when it saves, then the key is saved and nothing is buried."""
    Tools(service).tell(json.dumps(save("silent", "saved")), raw.route(way, "silent"))
    raw.wait(lambda: bool(raw.ask(read("silent"), raw.route(way, "silent"))["exists"]))
    assert raw.channel.queue_declare("holdfast.dead", passive=True).method.message_count == 0


# pika: routes, replies, ids.


@ways
@pytest.mark.parametrize("address", ["direct", "own queue"])
def test_objects_are_answered_by_objects(raw: Raw, way: str, address: str) -> None:
    """Given either route and either kind of reply address, when an object is sent, then an object answers it."""
    reply_to = DIRECT if address == "direct" else raw.queue
    route = raw.route(way, "a/b")
    saved = raw.ask(save("a/b", {"x": 1}, id="s"), route, reply_to=reply_to, correlation_id="c-1")
    assert raw.arrived[-1][0].correlation_id == "c-1"
    assert saved == {
        "id": "s",
        "status": "ok",
        "exists": True,
        "changed": True,
        "etag": saved["etag"],
        "version": 1,
        "updated_at": saved["updated_at"],
        "epoch": 1,
        "time": saved["time"],
    }
    found = raw.ask(read("a/b", id="r"), route, reply_to=reply_to)
    assert found == {
        "id": "r",
        "status": "ok",
        "exists": True,
        "etag": saved["etag"],
        "version": 1,
        "value": {"x": 1},
        "updated_at": saved["updated_at"],
        "epoch": 1,
        "time": found["time"],
    }


@ways
def test_deleted_and_unknown_keys_are_absent(raw: Raw, way: str) -> None:
    """Given a key, when it is deleted twice, then the second changes nothing, and it reads as absent at its version."""
    route = raw.route(way, "gone")
    assert raw.ask(read("gone"), route).items() >= {"exists": False, "etag": None, "version": 0}.items()
    raw.ask(save("gone"), route)
    deleted = raw.ask({"id": "d1", "op": "delete", "key": "gone"}, route)
    assert deleted.items() >= {"exists": False, "changed": True, "etag": None, "version": 2}.items()
    again = raw.ask({"id": "d2", "op": "delete", "key": "gone"}, route)
    assert again.items() >= {"exists": False, "changed": False, "etag": None, "version": 2}.items()
    found = raw.ask(read("gone"), route)
    assert found.items() >= {"exists": False, "etag": None, "version": 2}.items()
    assert "value" not in found


@ways
def test_arrays_are_answered_by_one_reply_for_each_command(raw: Raw, way: str) -> None:
    """Given an array over many partitions with bad elements, when it is sent, then each is answered for itself."""
    commands = [save(f"k{number}", number, id=f"s{number}") for number in range(40)]
    commands += [read(f"k{number}", id=f"r{number}") for number in range(40)]
    commands += [save("k0", id="wrong", colour="red"), save("k1", id="other", store="nowhere")]
    replies = raw.ask_many(commands, raw.route(way, "k0"), correlation_id="all")
    assert {properties.correlation_id for properties, _ in raw.arrived} == {"all"}
    for number in range(40):
        assert (replies[f"s{number}"]["status"], replies[f"s{number}"]["version"]) == ("ok", 1)
        assert replies[f"r{number}"]["value"] == number
    wrong, other = replies["wrong"], replies["other"]
    assert (wrong["status"], wrong["error"]["code"], wrong["error"]["field"]) == ("invalid", "unknown_field", "colour")
    assert (other["status"], other["error"]["code"]) == ("unknown_store", "unknown_store")


def test_commands_of_an_array_are_applied_in_its_order(raw: Raw) -> None:
    """Given fifty saves of one key in one array, when it is sent, then the versions follow the array."""
    replies = raw.ask_many([save("one", number, id=str(number)) for number in range(50)], "one")
    assert [replies[str(number)]["version"] for number in range(50)] == list(range(1, 51))


def test_large_replies_come_in_parts(raw: Raw) -> None:
    """Given twenty values of 300 KB, when one array reads them, then several messages bring each reply once."""
    value = "x" * 300_000
    for number in range(20):
        raw.ask(save(f"big{number}", value), "any")
    raw.arrived.clear()
    replies = raw.ask_many([read(f"big{number}", id=str(number)) for number in range(20)], raw.partition("big0"))
    assert {reply["value"] for reply in replies.values()} == {value}
    assert len(raw.arrived) > 5


def test_an_empty_array_gets_no_reply(raw: Raw) -> None:
    """Given an empty array, when a command follows it on its partition, then only the command is answered."""
    raw.send([], "0", reply_to=DIRECT)
    raw.ask({"op": "describe", "id": "d"}, "0")
    assert [body["id"] for _, body in raw.arrived] == ["d"]


def test_message_id_is_the_id_of_an_object_without_one(raw: Raw) -> None:
    """Given an object without id, when it is sent twice under one message id, then it is applied once."""
    command = {"op": "save", "key": "m", "value": 1}
    for way in ("ingress", "partition"):
        first = raw.ask(command, raw.route(way, "m"), message_id=f"m-{way}")
        second = raw.ask(command, raw.route(way, "m"), message_id=f"m-{way}")
        assert first["id"] == second["id"] == f"m-{way}"
        assert first["version"] == second["version"]
    assert raw.ask(read("m"), "m")["version"] == 2


def test_commands_without_any_id_are_applied_each_time(raw: Raw, service: Service) -> None:
    """Given objects without id and message id, when they come by the ingress, then each has an id of its own."""
    command = {"op": "save", "key": "n", "value": 1}
    replies = [raw.ask(command, route) for route in ("n", "n", raw.partition("n"), raw.partition("n"))]
    assert [reply["version"] for reply in replies] == [1, 2, 3, 4]
    assert len({reply["id"] for reply in replies}) == 4
    # They have to be unique for ever, whichever worker and session made them.
    assert all(uuid.UUID(reply["id"]).version == 7 for reply in replies)


def test_elements_of_an_array_need_ids_of_their_own(raw: Raw) -> None:
    """Given an array with a missing and a doubled id, when it is sent, then these two elements are refused."""
    command = {"op": "save", "key": "e", "value": 1}
    raw.send([command, {**command, "id": "e"}, {**command, "id": "e"}], raw.partition("e"), reply_to=DIRECT)
    raw.wait(lambda: sum(len(body) for _, body in raw.arrived) == 3)
    replies = [reply for _, body in raw.arrived for reply in body]
    codes = {(reply["id"], reply.get("error", {}).get("code")) for reply in replies}
    assert codes == {(None, "missing_field"), ("e", "duplicate_id"), ("e", None)}


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (save("twice", {"a": 1, "b": 2}, id="i"), "ok"),
        (save("twice", 1, id="i", concurrency="first-write"), "conflict"),
        ({"id": "i", "op": "delete", "key": "absent"}, "ok"),
        (save("twice", 1, id="i", deadline=1), "expired"),
    ],
    ids=["save", "conflict", "delete of nothing", "expired"],
)
def test_the_same_id_gets_the_same_answer(raw: Raw, command: Json, status: str) -> None:
    """Given an answered write, when it comes again by either route, in an array too, then nothing new happens."""
    raw.ask(save("twice", 0), "twice")
    first = raw.ask(command, raw.route("partition", command["key"]))
    assert first["status"] == status
    # What the first answer rested on is changed, so that a second decision would come out differently.
    raw.ask({"op": "delete", "key": "twice"}, "twice")
    raw.ask(save("absent"), "absent")
    version = raw.ask(read(command["key"]), command["key"])["version"]
    again = [
        raw.ask(command, raw.route("partition", command["key"])),
        raw.ask(command, command["key"]),
        raw.ask_many([command], command["key"])["i"],
    ]
    for answer in again:
        assert {**answer, "time": 0} == {**first, "time": 0}
    assert raw.ask(read(command["key"]), command["key"])["version"] == version


def test_an_id_belongs_to_one_command(raw: Raw) -> None:
    """Given an applied save, when its id comes with other content, then it is refused and nothing changes."""
    command = save("mine", {"a": 1, "b": 2}, id="i")
    raw.ask(command, "mine")
    for other in (
        {**command, "value": 2},
        {**command, "key": "yours"},
        {**command, "metadata": {"by": "x"}},
        {**command, "concurrency": "first-write"},
        {"id": "i", "op": "delete", "key": "mine"},
    ):
        answer = raw.ask(other, "mine")
        assert (answer["status"], answer["error"]["code"]) == ("invalid", "id_reused")
    same = {**command, "value": {"b": 2, "a": 1}, "sent_at": raw.arrived[-1][1]["time"], "return_current": True, "v": 1}
    assert raw.ask(same, "mine")["status"] == "ok"
    assert raw.ask(read("mine"), "mine")["version"] == 1


# What a write means.


def test_conflicts_say_what_was_found(raw: Raw) -> None:
    """Given a key that moved on, when writes demand otherwise, then each conflict has the documented fields."""
    first = raw.ask(save("c", 1, id="first"), "c")
    second = raw.ask(save("c", 2, id="second", etag=first["etag"]), "c")
    stale = raw.ask(save("c", 3, etag=first["etag"], return_current=True), "c")
    assert (stale["status"], stale["exists"], stale["version"]) == ("conflict", True, 2)
    assert stale["error"].items() >= {
        "code": "etag_mismatch", "expected": first["etag"], "actual": second["etag"], "winner": "second", "current": 2
    }.items()  # fmt: skip
    exists = raw.ask(save("c", 3, concurrency="first-write"), "c")
    assert (exists["error"]["code"], exists["error"]["expected"]) == ("exists", None)
    assert "current" not in exists["error"]
    absent = raw.ask(save("never", 1, etag="1-00000000"), "never")
    assert absent["error"].items() >= {"code": "absent", "actual": None, "winner": None}.items()
    assert (absent["exists"], absent["version"]) == (False, 0)
    empty = raw.ask({"op": "delete", "key": "c", "etag": ""}, "c")
    assert (empty["status"], empty["error"]["code"]) == ("conflict", "etag_mismatch")
    assert raw.ask(save("c", 3, etag=None, metadata=None, sent_at=None, deadline=None), "c")["version"] == 3


def test_values_come_back_as_they_were_sent(raw: Raw) -> None:
    """Given awkward but legal JSON, when it is saved and read, then the very same text comes back."""
    text = (
        '{"z":9223372036854775807,"a":[1.0,1,-0.5,1e+300,"","\\u0000",null,true],"$.":{"":{"$ref":1,"$id":2}},"ü🚀":[]}'
    )
    raw.send(f'{{"id":"v","op":"save","key":"v","value":{text}}}'.encode(), "v", reply_to=DIRECT)
    raw.wait(lambda: bool(raw.arrived))
    value = raw.ask(read("v"), "v")["value"]
    assert json.dumps(value) == json.dumps(json.loads(text))
    raw.ask(b'{"id":"w","op":"save","key":"w","value":{"a":1,"a":2}}', "w")
    assert raw.ask(read("w"), "w")["value"] == {"a": 2}


# Refusals.


REFUSED = [
    (b"{nope", "invalid", "malformed", None),
    (b"", "invalid", "malformed", None),
    (b"3", "invalid", "malformed", None),
    (b'{"id":"x"}', "invalid", "bad_op", "op"),
    (b'{"id":"x","op":"smash","key":"k"}', "invalid", "bad_op", "op"),
    (b'{"id":"x","op":"read","key":"k","v":2}', "invalid", "bad_version", "v"),
    (b'{"id":"x","op":"read","key":"k","etag":"e"}', "invalid", "unknown_field", "etag"),
    (b'{"id":"x","op":"save","key":"k"}', "invalid", "missing_field", "value"),
    (b'{"id":"x","op":"read"}', "invalid", "missing_field", "key"),
    (b'{"id":"x","op":"read","key":""}', "invalid", "bad_key", "key"),
    (b'{"id":"x","op":"read","key":"a\\u0000b"}', "invalid", "bad_key", "key"),
    (b'{"id":"x","op":"read","key":"' + b"k" * 513 + b'"}', "invalid", "bad_key", "key"),
    (b'{"id":"x","op":"read","key":"k","store":"a/b"}', "invalid", "bad_store", "store"),
    (b'{"id":"x","op":"read","key":"k","store":"other"}', "unknown_store", "unknown_store", None),
    (b'{"id":"x","op":"read","key":"k","consistency":"none"}', "invalid", "bad_consistency", "consistency"),
    (b'{"id":"x","op":"save","key":"k","value":1,"etag":1}', "invalid", "bad_etag", "etag"),
    (b'{"id":"x","op":"save","key":"k","value":1,"concurrency":null}', "invalid", "bad_concurrency", "concurrency"),
    (
        b'{"id":"x","op":"save","key":"k","value":1,"return_current":1}',
        "invalid",
        "bad_return_current",
        "return_current",
    ),
    (b'{"id":"x","op":"save","key":"k","value":1,"metadata":{"a":1}}', "invalid", "bad_metadata", "metadata.a"),
    (b'{"id":"x","op":"save","key":"k","value":1,"sent_at":"now"}', "invalid", "bad_sent_at", "sent_at"),
    (b'{"id":"x","op":"save","key":"k","value":1,"deadline":-1}', "invalid", "bad_deadline", "deadline"),
    (b'{"id":"x","op":"history","key":"k","limit":1001}', "invalid", "bad_limit", "limit"),
    (b'{"id":"x","op":"history","key":"k","after_version":-1}', "invalid", "bad_after_version", "after_version"),
    (b'{"id":"x","op":"save","key":"k","value":[{"a":1e999}]}', "invalid", "malformed", None),
    (b'{"id":"x","op":"save","key":"k","value":[{"a":99999999999999999999}]}', "invalid", "bad_value", "value[0].a"),
    (b'{"id":"x","op":"save","key":"k","value":' + b"[" * 101 + b"]" * 101 + b"}", "invalid", "bad_value", None),
    (b'{"id":"x","op":"save","key":"k","value":' + b"[" * 300 + b"]" * 300 + b"}", "invalid", "bad_value", None),
    (b'{"id":"x","op":"read","key":"k","' + b"f" * 200_000 + b'":1}', "invalid", "unknown_field", "f" * 200 + "…"),
    (b'{"id":"x","op":"save","key":"k","value":"' + b"v" * 2**20 + b'"}', "too_large", "too_large", "value"),
    (b" " * (4 * 2**20 + 1), "too_large", "too_large", None),
]


@ways
def test_refusals_name_status_code_and_field(raw: Raw, way: str) -> None:
    """Given bad messages with a reply address, when they are sent, then each is answered and none is buried."""
    for body, status, code, field in REFUSED:
        answer = raw.ask(body, "k" if way == "ingress" else raw.partition("k"), correlation_id="c")
        error = answer["error"]
        assert (answer["status"], error["code"]) == (status, code), body[:100]
        if code != "bad_value" or field is not None:
            assert error.get("field") == field, body[:100]
        assert answer["id"] == ("x" if body.startswith(b'{"id"') and code != "malformed" else None)
        assert raw.arrived[-1][0].correlation_id == "c"
    assert raw.channel.queue_declare("holdfast.dead", passive=True).method.message_count == 0


@ways
def test_refusals_without_reply_address_are_buried_with_the_reason(raw: Raw, way: str) -> None:
    """Given bad messages without a reply address, when they are sent, then each is a dead letter with its reason."""
    for body, _, code, _ in REFUSED:
        raw.send(body, "k" if way == "ingress" else raw.partition("k"), message_id="the-original")
        properties, letter = raw.dead_letter()
        assert properties.headers["x-holdfast-reason"] == code
        assert properties.headers["x-holdfast-detail"]
        assert properties.message_id == "the-original"
        try:
            assert json.loads(letter) == json.loads(body)
        except ValueError:
            assert letter == body
    # The worker is none the worse for it.
    assert raw.ask(read("k"), "k")["exists"] is False


def test_bad_elements_without_reply_address_are_buried_alone(raw: Raw) -> None:
    """Given an array with one bad element, when nobody waits for replies, then that element alone is buried."""
    raw.send([save("good", 1), save("bad", 2**70, id="b"), save("fine", 1)], "any")
    properties, letter = raw.dead_letter()
    assert properties.headers["x-holdfast-reason"] == "bad_value"
    assert b'"bad"' in letter
    raw.wait(lambda: bool(raw.ask(read("good"), "any")["exists"] and raw.ask(read("fine"), "any")["exists"]))
    assert raw.ask(read("bad"), "any")["exists"] is False


@ways
@pytest.mark.parametrize("address", ["holdfast.commands.0", "holdfast.dead", "holdfast.ingress"])
def test_reserved_reply_addresses_are_dead_letters(raw: Raw, way: str, address: str) -> None:
    """Given one of Holdfast's queues as reply address, when a save names it, then it is buried and not applied."""
    command = save("reserved", 1)
    raw.send(command, raw.route(way, "reserved"), reply_to=address)
    properties, letter = raw.dead_letter()
    assert properties.headers["x-holdfast-reason"] == "bad_reply_to"
    assert json.loads(letter) == command
    assert raw.ask(read("reserved"), raw.route(way, "reserved"))["version"] == 0


def test_a_reply_address_that_is_gone_costs_only_the_reply(raw: Raw) -> None:
    """Given a reply queue that does not exist, when a save names it, then it is applied, and asking again tells."""
    command = save("lost", 1)
    raw.send(command, raw.partition("lost"), reply_to="nobody-has-declared-this")
    again = raw.ask(command, raw.partition("lost"))
    assert (again["status"], again["version"]) == ("ok", 1)
    assert raw.ask(read("lost"), "lost")["version"] == 1


# What the broker says.


def test_before_the_first_worker_there_is_no_exchange(amqp_url: str) -> None:
    """Given a broker that no worker has been at, when a command is published, then the channel is closed."""
    sender = Raw(Service(amqp_url, "", PARTITIONS))
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="404"):
        sender.send(save("k"), "k")
    sender.close()


def test_a_full_queue_gives_a_negative_confirm(amqp_url: str, mongo_url: str) -> None:
    """Given queues of three messages and no worker, when more are sent, then the rest is refused and not applied."""
    with running_worker(amqp_url, mongo_url, queue_max_length=3) as service:
        sender = Raw(service)

    def takes(number: int) -> bool:
        try:
            sender.send(save("full", number), sender.partition("full"))
        except pika.exceptions.NackError:
            return False
        return True

    # The broker counts a little late, so a few more than three may pass.
    taken = next(number for number in range(100) if not takes(number))
    assert taken >= 3
    with running_worker(amqp_url, mongo_url, queue_max_length=3):
        versions: list[int] = []

        def asks() -> bool:
            # Until the worker has made room, what is sent is refused like before.
            with contextlib.suppress(pika.exceptions.NackError):
                versions.append(sender.ask(read("full"), sender.partition("full"))["version"])
            return bool(versions)

        sender.wait(asks)
        assert versions == [taken]
    sender.close()


def test_messages_that_run_out_are_buried_by_the_broker(amqp_url: str, mongo_url: str) -> None:
    """Given no worker, when a message has an expiration, then the broker buries it as it is and says why."""
    with running_worker(amqp_url, mongo_url) as service:
        sender = Raw(service)
    command = save("late", 1)
    sender.send(command, sender.partition("late"), expiration="1", message_id="m")
    properties, letter = sender.dead_letter()
    assert json.loads(letter) == command
    assert properties.message_id == "m"
    assert properties.headers["x-first-death-reason"] == "expired"
    assert "x-death" in properties.headers
    sender.close()


# Time.


def test_deadlines_are_in_service_time(raw: Raw) -> None:
    """Given service time from describe, when commands come in time or too late, then the late ones are refused."""
    now = raw.ask({"op": "describe"}, "any")["time"]
    assert raw.ask(save("t", 1, deadline=now + 60_000, sent_at=now), "t")["status"] == "ok"
    late = raw.ask(save("t", 2, deadline=now - 1), "t")
    assert (late["status"], late["error"]["code"]) == ("expired", "deadline")
    old = raw.ask(save("t", 2, sent_at=now - 7 * 86_400_000 - 1), "t")
    assert (old["status"], old["error"]["code"]) == ("expired", "too_old")
    assert raw.ask(read("t", deadline=now - 1), "t")["status"] == "expired"
    assert raw.ask({"op": "history", "key": "t", "deadline": 1}, "t")["status"] == "expired"
    assert raw.ask(read("t"), "t")["version"] == 1


# describe and history.


@pytest.mark.parametrize("route", ["any", "0", "3", "4", ""])
def test_describe_is_answered_on_any_route(raw: Raw, service: Service, route: str) -> None:
    """Given any routing key, when describe is sent, then the service tells of itself."""
    answer = raw.ask({"op": "describe", "id": "d"}, route)
    assert answer == {
        "id": "d",
        "status": "ok",
        "epoch": 1,
        "time": answer["time"],
        "protocol": {"min": 1, "max": 1},
        "partitions": service.partitions,
        "stores": ["default"],
        "limits": {"value_bytes": 2**20, "message_bytes": 4 * 2**20, "message_commands": 10_000},
        "feed": {"default": "levels"},
        "capabilities": {"default": ["erasing", "expiry", "indexes", "inspection", "transactions"]},
        "ttl_seconds": {},
    }


def test_a_wrong_partition_costs_only_a_hop(raw: Raw) -> None:
    """Given every partition's routing key, when one key is saved through each, then each save is applied once."""
    versions = [raw.ask(save("hop", number), str(number))["version"] for number in range(raw.partitions)]
    assert versions == [1, 2, 3, 4]
    replies = raw.ask_many([save(f"h{number}", id=str(number)) for number in range(20)], "2")
    assert {reply["version"] for reply in replies.values()} == {1}


def test_history_tells_every_event(raw: Raw) -> None:
    """Given a key with a null value, an author and a deletion, when its history is asked for, then it has all."""
    raw.ask(save("h", None, id="1", metadata={"why": "test"}), "h", user_id="holdfast")
    raw.ask({"op": "delete", "key": "h", "id": "2"}, raw.partition("h"))
    answer = raw.ask({"op": "history", "key": "h", "id": "q"}, "h")
    one, two = answer["events"]
    assert (answer["status"], answer["next"]) == ("ok", None)
    assert one.items() >= {"version": 1, "type": "saved", "id": "1", "value": None, "metadata": {"why": "test"}}.items()
    assert (two["version"], two["type"], two["id"]) == (2, "deleted", "2")
    assert not {"value", "author", "metadata"} & two.keys()
    page = raw.ask({"op": "history", "key": "h", "limit": 1}, "h")
    assert ([event["version"] for event in page["events"]], page["next"]) == ([1], 1)
    rest = raw.ask({"op": "history", "key": "h", "limit": 1, "after_version": page["next"]}, "h")
    assert ([event["version"] for event in rest["events"]], rest["next"]) == ([2], None)


def test_history_of_large_values_comes_in_pages(raw: Raw) -> None:
    """Given forty values of 500 KB, when one page of all is asked for, then pages fit into replies and miss nothing."""
    for number in range(40):
        raw.ask(save("heavy", f"{number}" + "x" * 500_000), "heavy")
    versions: list[int] = []
    after: int | None = 0
    while after is not None:
        page = raw.ask({"op": "history", "key": "heavy", "limit": 1000, "after_version": after}, "heavy")
        assert len(json.dumps(page)) < 1.2 * 2**20
        versions += [event["version"] for event in page["events"]]
        after = page["next"]
    assert versions == list(range(1, 41))


# Users.


@pytest.fixture
def add_user(rabbit: RabbitServer, amqp_vhost: str, amqp_url: str) -> Iterator[Callable[..., tuple[str, str]]]:
    """Makes users of the test's virtual host, gone afterwards; gives a name and the address with it."""
    made: list[str] = []

    def add(*permissions: str, tag: str = "") -> tuple[str, str]:
        name = f"user-{uuid.uuid4()}"
        rabbit.ctl("add_user", name, "secret")
        made.append(name)
        rabbit.ctl("set_permissions", "-p", amqp_vhost, name, *permissions)
        if tag:
            rabbit.ctl("set_user_tags", name, tag)
        return name, re.sub("//.*@", f"//{name}:secret@", amqp_url)

    yield add
    for name in made:
        rabbit.ctl("delete_user", name)


def test_a_client_needs_few_permissions_and_becomes_the_author(
    raw: Raw, service: Service, add_user: Callable[..., tuple[str, str]]
) -> None:
    """Given a user who may only publish commands, when it saves, then it is answered and its name is kept."""
    name, url = add_user("", r"^holdfast\.commands$", "")
    shop = Raw(replace(service, amqp_url=url), own_queue=False)
    command = save("author", 1)
    assert shop.ask(command, shop.partition("author"), user_id=name)["status"] == "ok"
    assert shop.ask(save("author", 2), shop.partition("author"))["status"] == "ok"
    # Another user who knows the id gets neither the answer nor its effect.
    stolen = raw.ask(command, raw.partition("author"), user_id="holdfast")
    assert stolen["error"]["code"] == "id_reused"
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="user_id"):
        shop.send(save("author", 3), "0", user_id="holdfast")
    shop.close()
    events = raw.ask({"op": "history", "key": "author"}, "author")["events"]
    assert [event.get("author") for event in events] == [name, None]


@pytest.mark.parametrize("tag", ["", "impersonator"])
def test_forwarding_keeps_the_author_it_may_name(
    amqp_url: str, mongo_url: str, add_user: Callable[..., tuple[str, str]], tag: str
) -> None:
    """Given a worker with and without the tag impersonator, when commands are forwarded, then it names whom it may.

    Those of others it refuses, rather than to send them on as nobody's. With nobody to tell, they are dead letters.
    """
    worker, worker_url = add_user(".*", ".*", ".*", tag=tag)
    with running_worker(worker_url, mongo_url) as service:
        for url, author in ((worker_url, worker), (amqp_url, "holdfast"), (amqp_url, "holdfast")):
            sender = Raw(replace(service, amqp_url=url))
            answer = sender.ask(save("a", 1), "any", user_id=author)
            if tag or author == worker:
                events = sender.ask({"op": "history", "key": "a"}, "any")["events"]
                assert events[-1]["author"] == author
            else:
                assert (answer["status"], answer["error"]["code"]) == ("denied", "no_impersonator")
                sender.send(save("a", 2), "any", user_id=author)
                properties, _ = sender.dead_letter()
                assert properties.headers["x-holdfast-reason"] == "no_impersonator"
            sender.close()
