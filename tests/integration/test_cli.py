"""The command line, as a shell sees it: what it prints, where, and its exit codes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]
import pytest
from pymongo import MongoClient
from support.service import PARTITIONS, Service
from support.shell import SECRET, Done, environment, failed, holdfast, passwords

from holdfast.events import partition_of
from holdfast.local import LocalStack, MongoReplicaSet

COMMANDS = ["worker", "health", "dev", "save", "patch", "increment", "read", "delete", "history", "restore", "purge"]
COMMANDS += ["keys", "watch", "query", "rebuild", "transact", "migrate", "rotate-keys", "dead"]


@pytest.fixture
def cli(service: Service) -> Callable[..., Done]:
    """Runs a command against a running service."""

    def run(*arguments: str, **options: Any) -> Done:
        return holdfast(*arguments, **({"amqp_url": service.amqp_url} | options))

    return run


# The calls.


def test_a_key_from_save_to_delete(cli: Callable[..., Done]) -> None:
    """Given a running service, when a key is saved, read, changed and deleted, then each prints JSON and exits 0."""
    saved = cli("save", "user/42", '{"name": "Ada ü", "n": 1.0}')
    assert (saved.returncode, saved.stderr) == (0, "")
    first = json.loads(saved.stdout)
    assert first.keys() == {"key", "etag", "version"}
    assert (first["key"], first["version"]) == ("user/42", 1)

    found = json.loads(cli("read", "user/42").stdout)
    assert found.pop("updated_at").endswith("+00:00")
    assert found == {**first, "value": {"name": "Ada ü", "n": 1.0}}

    second = json.loads(cli("save", "user/42", "-", "--etag", first["etag"], stdin="[null]\n").stdout)
    assert second["version"] == 2
    assert json.loads(cli("read", "user/42", "--eventual").stdout)["value"] == [None]

    failed(cli("save", "user/42", "2", "--etag", first["etag"]), 3, "conflict: 'user/42': expected at etag '1-")
    failed(cli("save", "user/42", "2", "--first-write"), 3, "conflict: ")
    failed(cli("delete", "user/42", "--etag", first["etag"]), 3, f"found at etag '{second['etag']}'")

    assert json.loads(cli("delete", "user/42").stdout) == {"key": "user/42", "deleted": True}
    assert json.loads(cli("delete", "user/42").stdout) == {"key": "user/42", "deleted": False}
    failed(cli("read", "user/42"), 2, "'user/42' is absent")
    failed(cli("save", "user/42", "2", "--etag", second["etag"]), 3, "found absent")


def test_a_transaction(cli: Callable[..., Done]) -> None:
    """Given operations, when they are applied, then a line tells of each; a conflict names the one that failed."""
    operations = [
        {"op": "save", "key": "tx/a", "value": {"n": 1}, "concurrency": "first-write"},
        {"op": "delete", "key": "tx/b"},
        {"op": "check", "key": "tx/c", "exists": False},
    ]
    done = cli("transact", "-", stdin=json.dumps(operations))
    assert (done.returncode, done.stderr) == (0, "")
    saved, deleted, checked = map(json.loads, done.stdout.splitlines())
    assert (saved["key"], saved["version"], saved["changed"]) == ("tx/a", 1, True)
    assert (deleted["exists"], deleted["changed"]) == (False, False)
    assert checked == {"key": "tx/c", "exists": False, "version": 0}
    again = [{"op": "save", "key": "tx/c", "value": 1}, operations[0]]
    failed(cli("transact", json.dumps(again)), 3, "conflict: operation 1, 'tx/a': expected absent, found at etag '1-")
    failed(cli("read", "tx/c"), 2, "'tx/c' is absent")
    for wrong, said in (("{}", "is a JSON array"), ('[{"op": "sav"}]', "operations[0]"), ("[]", "no operations")):
        failed(cli("transact", wrong), 1, said)
    # Nobody has allowed an exchange here.
    failed(
        cli("transact", json.dumps(operations), "--message", '{"exchange": "orders"}'), 1, "'orders' are not allowed"
    )
    failed(cli("transact", json.dumps(operations), "--message", '{"routing_key": "x"}'), 1, "messages[0]")


def test_a_value_that_is_patched(cli: Callable[..., Done]) -> None:
    """Given a value, when it is patched in each way, then what came of it is printed, or why nothing did."""
    cli("save", "cart", '{"items": ["apple"], "total": 1}', "--ttl", "3600")
    merged = json.loads(cli("patch", "cart", '{"owner": "Ada", "total": null}').stdout)
    assert merged.pop("expires_at") == json.loads(cli("read", "cart").stdout)["expires_at"]
    assert merged.keys() == {"key", "etag", "version", "value"}
    assert (merged["version"], merged["value"]) == (2, {"items": ["apple"], "owner": "Ada"})

    pear = '[{"op": "test", "path": "/items/0", "value": "apple"}, {"op": "add", "path": "/items/-", "value": "pear"}]'
    patched = json.loads(cli("patch", "cart", "-", "--kind", "json-patch", "--etag", merged["etag"], stdin=pear).stdout)
    assert patched["value"]["items"] == ["apple", "pear"]
    plum = pear.replace("apple", "plum")
    failed(cli("patch", "cart", plum, "--kind", "json-patch"), 3, "conflict: 'cart': test_failed, patch[0]")
    failed(cli("patch", "cart", "{}", "--etag", merged["etag"]), 3, "expected at etag '2-")
    failed(cli("patch", "cart", "{}", "--kind", "json-patch"), 1, "a JSON Patch is an array")

    counted = json.loads(cli("increment", "cart", "2.5", "--path", "/total", "--ttl", "60").stdout)
    assert counted["value"]["total"] == 2.5
    assert json.loads(cli("increment", "hits").stdout)["value"] == 1
    assert json.loads(cli("increment", "hits", "--", "-3").stdout)["value"] == -2
    both = json.loads(cli("patch", "stats", '{"/a": 1, "/b/c": 2}', "--kind", "increment").stdout)
    assert both["value"] == {"a": 1, "b": {"c": 2}}
    failed(cli("increment", "stats"), 3, "what is there is no number")


def test_a_value_that_expires(cli: Callable[..., Done]) -> None:
    """Given a value with a time to live, when it has passed, then the key is absent, and its history says so."""
    saved = json.loads(cli("save", "session", '"here"', "--ttl", "1").stdout)
    assert saved.keys() == {"key", "etag", "version", "expires_at"}
    ends = time.monotonic() + 30
    while cli("read", "session").returncode == 0:
        assert time.monotonic() < ends
    failed(cli("read", "session"), 2, "'session' is absent")
    events = [json.loads(line) for line in cli("history", "session", "--json").stdout.splitlines()]
    assert [event["type"] for event in events] == ["saved", "expired"]
    assert events[1]["time"] == events[0]["expires"] == events[0]["time"] + 1000
    assert "expired" in cli("history", "session").stdout


def test_history_as_table_and_as_json(cli: Callable[..., Done]) -> None:
    """Given a key with three events, when its history is asked for, then it comes as a table or as lines of JSON."""
    cli("save", "h", '{"a": 1}')
    cli("save", "h", "null")
    cli("delete", "h")
    table = cli("history", "h")
    assert table.returncode == 0
    head, *rows = [line.split() for line in table.stdout.splitlines()]
    assert head == ["version", "type", "time", "author", "value"]
    assert [(row[0], row[1]) for row in rows] == [("1", "saved"), ("2", "saved"), ("3", "deleted")]
    assert (rows[0][-1], rows[1][-1]) == ('{"a":1}', "null")

    lines = [json.loads(line) for line in cli("history", "h", "--json").stdout.splitlines()]
    assert [(line["version"], line["type"], line.get("value")) for line in lines] == [
        (1, "saved", {"a": 1}),
        (2, "saved", None),
        (3, "deleted", None),
    ]
    assert "value" in lines[1]
    assert "value" not in lines[2]
    page = cli("history", "h", "--json", "--limit", "1", "--after-version", "1").stdout.splitlines()
    assert [json.loads(line)["version"] for line in page] == [2]
    assert cli("history", "never").returncode == 0


def test_a_watch_from_the_shell(cli: Callable[..., Done], service: Service) -> None:
    """Given some keys, when they are watched, then what is there comes, an end of that, and what changes."""
    cli("save", "user/1", "null")
    cli("save", "other", "1")
    told = [json.loads(line) for line in cli("watch", "user/", "--no-follow").stdout.splitlines()]
    assert [(line.get("key"), line.get("version"), line.get("caught_up")) for line in told] == [
        ("user/1", 1, None),
        (None, None, True),
    ]
    assert told[0].keys() >= {"type", "etag", "id", "time", "value", "author"}
    assert cli("watch", "--since", "2100-01-01", "--no-follow").stdout == '{"caught_up":true}\n'
    failed(cli("watch", "user/", "--pattern", "user/*"), 1, "a prefix or a pattern")
    failed(cli("watch", "--store", "none"), 1, "no store 'none'")

    command = [sys.executable, "-m", "holdfast", "watch", "--pattern", "user/*"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(amqp_url=service.amqp_url))
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["key"] == "user/1"
    assert json.loads(process.stdout.readline()) == {"caught_up": True}
    cli("delete", "user/1")
    gone = json.loads(process.stdout.readline())
    assert (gone["type"], gone["version"], "value" in gone) == ("deleted", 2, False)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    process.stdout.close()


def test_the_past_and_what_is_done_about_it(cli: Callable[..., Done]) -> None:
    """Given a key with a past, when it is looked at, restored and purged, then output and exit codes tell it."""
    for value in ("1", "2"):
        cli("save", "p", value)
    first = json.loads(cli("read", "p", "--version", "1").stdout)
    assert (first["value"], first["version"]) == (1, 1)
    assert json.loads(cli("read", "p", "--at", first["updated_at"]).stdout) == first
    failed(cli("read", "p", "--version", "9"), 2, "'p' was absent")
    restored = json.loads(cli("restore", "p", "1").stdout)
    assert (restored["version"], restored["restored"]) == (3, 1)
    failed(cli("restore", "p", "2", "--etag", first["etag"]), 3, "conflict: 'p': expected at etag '1-")
    failed(cli("restore", "p", "9"), 3, "there is no such version")
    backward = cli(
        "history", "p", "--json", "--backward", "--before-version", "3", "--from", "2020-01-01T00:00:00+01:00"
    )
    assert [json.loads(line)["version"] for line in backward.stdout.splitlines()] == [2, 1]

    for answer in (None, "n\n"):
        asked = cli("purge", "p", stdin=answer)
        assert (asked.returncode, asked.stdout) == (1, "")
        assert "Erase every value that p ever had? [y/N] " in asked.stderr
        assert "nothing was erased" in asked.stderr
    assert json.loads(cli("purge", "p", stdin="y\n").stdout) == {"key": "p", "purged": True}
    assert json.loads(cli("purge", "p", "--yes").stdout) == {"key": "p", "purged": True}
    failed(cli("read", "p", "--version", "1"), 1, "the value of this version was erased")
    assert [line.split()[1] for line in cli("history", "p").stdout.splitlines()[1:]] == ["saved"] * 3 + ["purged"] * 2


def test_keys_as_lines_and_as_json(cli: Callable[..., Done]) -> None:
    """Given some keys, when they are listed, then those that are there come one a line, in order, as they are."""
    names = ["a/1", "a/[red]2", "a/" + "x" * 200, "b"]
    for name in names:
        cli("save", name, "1")
    cli("delete", "b")
    assert cli("keys").stdout.splitlines() == names[:3]
    assert cli("keys", "a/", "--limit", "1", "--after", "a/1").stdout.splitlines() == ["a/[red]2"]
    assert cli("keys", "a/", "--count").stdout == "3\n"
    (found,) = [json.loads(line) for line in cli("keys", "a/1", "--json").stdout.splitlines()]
    assert (found["key"], found["version"]) == ("a/1", 1)
    assert cli("keys", "nothing").stdout == ""


def test_a_history_shows_values_as_they_are(cli: Callable[..., Done]) -> None:
    """Given values that a terminal or a markup language would obey, when listed, then they come out as text."""
    cli("save", "markup", '"[/nothing] [red]no[/red]"')
    cli("save", "markup", '"\u009b31m"')
    table = cli("history", "markup")
    assert table.returncode == 0
    assert '"[/nothing]' in table.stdout
    assert "[red]no[/red]" in table.stdout
    assert '"\\x9b31m"' in table.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["save", "k", "{"], "value: not JSON"),
        (["save", "k", "text"], "A text needs quotes"),
        (["save", "k", "[99999999999999999999]"], "value[0]: integers are limited to 64 bits"),
        (["save", "", "1"], "key: must not be empty"),
        (["save", "k" * 513, "1"], "key: is limited to 512 bytes"),
        (["save", "k", "1", "--store", "nowhere"], "no store 'nowhere' is configured"),
        (["read", "k", "--store", "a/b"], "store: "),
        (["read", "k", "--at", "yesterday"], "'yesterday' is no time; one is written like 2026-"),
        (["history", "k", "--from", "2026-03-01T12:00:00"], "has no time zone"),
        (["read", "k", "--at", "2026-03-01T12:00:00Z", "--version", "1"], "exclude each other"),
        (["keys", "x" * 513], "prefix: is limited to 512 bytes"),
    ],
)
def test_commands_that_are_refused(cli: Callable[..., Done], arguments: list[str], said: str) -> None:
    """Given a running service, when a command breaks a rule, then one line names the fault, and the exit code is 1."""
    failed(cli(*arguments), 1, said)


# Help and arguments.


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)], ids=["holdfast", *COMMANDS])
def test_help(command: list[str]) -> None:
    """Given any command, when --help is asked for, then it explains itself on standard output and exits 0."""
    done = holdfast(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: " in done.stdout
    words = " ".join(done.stdout.split())
    if not command:
        assert all(f" {name} " in words for name in COMMANDS)
        assert "2 the key, or the dead letter, is absent, 3 conflict" in words
    if command == ["worker"]:
        assert "HOLDFAST_CONFIG_FILE: TOML file with stores" in words


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["read"],
        ["read", "a", "b"],
        ["save", "k"],
        ["history", "k", "--limit", "0"],
        ["restore", "k", "0"],
        ["save", "k", "1", "--ttl", "0"],
        ["patch", "k", "1", "--kind", "diff"],
        ["read", "--colour"],
    ],
)
def test_wrong_arguments_have_an_exit_code_of_their_own(arguments: list[str]) -> None:
    """Given wrong arguments, when a command runs, then usage is shown and the code is not the one for absent."""
    done = holdfast(*arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert "Usage: " in done.stderr
    assert "Error: " in done.stderr


# Nobody there.


@contextmanager
def closed_port() -> Iterator[int]:
    """A port of this machine that refuses connections: bound, so that nobody else takes it, and never listening."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_without_a_broker() -> None:
    """Given no broker, when a key is read, then one line names its address without the password, and the code is 1."""
    with closed_port() as port:
        done = holdfast("read", "k", amqp_url=f"amqp://ada:{SECRET}@127.0.0.1:{port}/")
        failed(done, 1, f"cannot connect to amqp://ada:***@127.0.0.1:{port}/")


def test_with_a_wrong_password(amqp_url: str) -> None:
    """Given a broker that refuses the login, when a key is read, then one line says so."""
    done = holdfast("read", "k", amqp_url=re.sub("//.*@", f"//ada:{SECRET}@", amqp_url))
    failed(done, 1, "refused the login")


def test_without_a_worker(amqp_url: str) -> None:
    """Given a broker without a worker, when a key is read, then one line says what to start, within the timeout."""
    began = time.monotonic()
    done = holdfast("read", "k", "--timeout", "1", amqp_url=amqp_url)
    failed(done, 1, "Start one with `holdfast worker`")
    assert time.monotonic() - began < 20


def test_ctrl_c_while_waiting_for_an_answer(amqp_url: str) -> None:
    """Given a broker without a worker, when Ctrl-C interrupts a read, then the exit code is the shell's for that."""
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    channel = connection.channel()
    # In place of a worker's queues: this one shows that the command was sent.
    channel.exchange_declare("holdfast.commands", "fanout", durable=True)
    channel.queue_declare("seen", exclusive=True)
    channel.queue_bind("seen", "holdfast.commands")
    command = [sys.executable, "-m", "holdfast", "read", "k", "--timeout", "60"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(amqp_url=amqp_url)) as process:
        try:
            next(channel.consume("seen"))
            process.send_signal(signal.SIGINT)
            assert "Traceback" not in finish(process)
            assert process.returncode == 130
        finally:
            process.kill()
            connection.close()


def test_a_reader_that_has_read_enough(service: Service) -> None:
    """Given a pipe that nobody reads, when a command prints into it, then it ends without a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "save", "k", "1"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        env=environment(amqp_url=service.amqp_url),
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


# Settings.


@pytest.mark.parametrize(
    ("command", "settings", "said"),
    [
        ("worker", {"partitions": "many"}, "HOLDFAST_PARTITIONS: "),
        ("worker", {"log_level": "loud"}, "HOLDFAST_LOG_LEVEL: "),
        ("worker", {"amqp_url": f"amqp://ada:{SECRET}@broker:port/"}, "HOLDFAST_AMQP_URL: "),
        ("read", {"amqp_url": f"ada:{SECRET}"}, "HOLDFAST_AMQP_URL: "),
        ("read", {"timeout": "0"}, "HOLDFAST_TIMEOUT: "),
        ("worker", {}, "set HOLDFAST_MONGO_URL"),
        ("worker", {"mongo_url": f"postgres://ada:{SECRET}@db/x"}, "not a usable MongoDB URL: postgres://ada:***@db/x"),
        ("worker", {"config_file": "/there/is/none.toml"}, "cannot read /there/is/none.toml"),
    ],
)
def test_wrong_settings_name_the_variable(command: str, settings: dict[str, str], said: str) -> None:
    """Given a wrong setting, when a command starts, then one line names it, and the exit code is 1."""
    arguments = [command, "k"] if command == "read" else [command]
    failed(holdfast(*arguments, **settings), 1, said)


def test_a_bad_entry_in_the_configuration_file_is_named(tmp_path: Path) -> None:
    """Given a TOML file with a misspelt option, when a worker starts, then one line names file, store and option."""
    file = tmp_path / "holdfast.toml"
    file.write_text(f'[stores.default]\nurl = "mongodb://ada:{SECRET}@db/"\nreplicas = 3\n')
    failed(holdfast("worker", "--config-file", str(file)), 1, f"{file}: stores.default.replicas: ")


def test_a_worker_without_its_database() -> None:
    """Given no MongoDB, when a worker starts, then one line names its address without the password."""
    with closed_port() as port:
        url = f"mongodb://ada:{SECRET}@127.0.0.1:{port}/x?replicaSet=rs0"
        failed(holdfast("worker", mongo_url=url), 1, f"mongodb://ada:***@127.0.0.1:{port}/x")


def test_a_worker_that_differs_from_the_others(service: Service) -> None:
    """Given a service of four partitions, when a worker is set to five, then it does not start, and says both."""
    settings = {"amqp_url": service.amqp_url, "mongo_url": service.mongo_url, "partitions": "5"}
    failed(holdfast("worker", **settings), 1, "set to partitions 5, but the service runs with 4")


# health.


def test_health_of_a_fresh_file(tmp_path: Path) -> None:
    """Given a file that a ready worker has just written, when health is asked, then the code is 0."""
    file = tmp_path / "worker.json"
    file.write_text(json.dumps({"ready": True, "name": "w-1", "pid": 1, "time": time.time()}))
    for done in (holdfast("health", "--file", str(file)), holdfast("health", health_file=str(file))):
        assert (done.returncode, done.stdout, done.stderr) == (0, "worker w-1 is ready\n", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps({"ready": True, "name": "w-1", "time": 0}), "worker w-1 has not written for"),
        (json.dumps({"ready": False, "name": "w-1", "time": 4e9}), "worker w-1 is not ready"),
        ('{"ready": tr', "is not a worker's health file"),
        ("[]", "is not a worker's health file"),
        ("{}", "is not a worker's health file"),
        (None, "no worker writes"),
    ],
    ids=["stale", "not ready", "broken", "foreign", "empty", "missing"],
)
def test_health_of_anything_else(tmp_path: Path, text: str | None, said: str) -> None:
    """Given a stale, foreign or missing file, when health is asked, then one line says why, and the code is 1."""
    file = tmp_path / "worker.json"
    if text is not None:
        file.write_text(text)
    failed(holdfast("health", "--file", str(file)), 1, said)


def test_health_needs_a_file() -> None:
    """Given no file, when health is asked, then one line names option and variable."""
    failed(holdfast("health"), 1, "--file, or HOLDFAST_HEALTH_FILE")


# worker.


@contextmanager
def worker_process(amqp_url: str, mongo_url: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """A `holdfast worker` that has said that it is ready."""
    settings = {"amqp_url": amqp_url, "mongo_url": mongo_url, "partitions": str(PARTITIONS)} | settings
    with subprocess.Popen(
        [sys.executable, "-m", "holdfast", "worker"], stderr=subprocess.PIPE, text=True, env=environment(**settings)
    ) as process:
        try:
            assert process.stderr is not None
            assert any(" is ready: " in line for line in process.stderr), "it ended before it was ready"
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[str], *, within: float = 30) -> str:
    """What a process said until its end."""
    _, said = process.communicate(timeout=within)
    return said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_drains_and_exits_when_it_is_asked_to(
    amqp_url: str, mongo_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    """Given a worker with work in hand, when it gets SIGTERM or SIGINT, then it exits 0; nothing is lost or twice."""
    health = tmp_path / "health.json"
    keys = [key for key in (f"k{count}" for count in range(1600)) if partition_of("default", key, PARTITIONS) == 0]
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    channel = connection.channel()
    with worker_process(amqp_url, mongo_url, health_file=str(health)) as process:
        assert holdfast("health", "--file", str(health)).returncode == 0
        for key in keys:
            body = json.dumps({"id": key, "op": "save", "key": key, "value": key}).encode()
            channel.basic_publish("holdfast.commands", "0", body)
        process.send_signal(number)
        said = finish(process)
        assert process.returncode == 0
    assert "asked to stop" in said
    assert "draining" in said
    assert "Traceback" not in said
    for secret in passwords({"amqp_url": amqp_url}):
        assert secret not in said
    # Each command is either in the log or in the queue: what it had taken is finished, what it had not taken waits.
    with MongoClient[Any](mongo_url) as client:
        applied = client.get_default_database()["default.events"].count_documents({})
    end = time.monotonic() + 30
    left = -1
    while applied + left < len(keys):  # the broker puts back what it had sent and nobody has taken
        assert time.monotonic() < end, (applied, left)
        left = channel.queue_declare("holdfast.commands.0", passive=True).method.message_count
    assert applied + left == len(keys)
    with worker_process(amqp_url, mongo_url) as process:
        replies: dict[str, int] = {}

        def on_reply(_channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
            replies.update({reply["id"]: reply["version"] for reply in json.loads(body)})

        channel.basic_consume("amq.rabbitmq.reply-to", on_reply, auto_ack=True)
        reads = [{"id": key, "op": "read", "key": key} for key in keys]
        end = time.monotonic() + 30
        while set(replies.values()) != {1} or len(replies) < len(keys):
            assert time.monotonic() < end, replies
            channel.basic_publish(
                "holdfast.commands",
                "0",
                json.dumps(reads).encode(),
                pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"),
            )
            connection.process_data_events(time_limit=0.5)
        connection.close()
        process.send_signal(signal.SIGTERM)
        finish(process)
        assert process.returncode == 0


def test_a_worker_tells_where_it_is_when_it_is_asked_to(
    amqp_url: str, own_mongo: Callable[..., MongoReplicaSet]
) -> None:
    """Given a worker whose database hangs, when it gets SIGUSR1, then its log says where that is, and it goes on."""
    mongo = own_mongo()
    with worker_process(amqp_url, mongo.url("holdfast"), store_patience="60") as process:
        with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
            channel = connection.channel()
            mongo.members[0].pause()
            channel.basic_publish("holdfast.commands", "0", b'{"id": "1", "op": "save", "key": "secret", "value": 1}')
            assert process.stderr is not None
            told: list[str] = []
            end = time.monotonic() + 30
            while not any("Engine.apply" in line for line in told):
                assert time.monotonic() < end, told
                process.send_signal(signal.SIGUSR1)
                for line in process.stderr:
                    told.append(line)
                    if "Lane.run" in line:
                        break
            mongo.members[0].resume()
        assert any(line.startswith("Current thread ") for line in told)
        assert not any("secret" in line for line in told)
        process.send_signal(signal.SIGTERM)
        finish(process)
        assert process.returncode == 0


def test_a_second_signal_leaves_at_once(amqp_url: str, own_mongo: Callable[..., MongoReplicaSet]) -> None:
    """Given a worker whose database hangs, when it gets two signals, then it leaves at once, with exit code 1."""
    mongo = own_mongo()
    with worker_process(amqp_url, mongo.url("holdfast"), store_patience="60") as process:
        mongo.members[0].pause()
        connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
        body = b'{"id": "1", "op": "save", "key": "k", "value": 1}'
        connection.channel().basic_publish("holdfast.commands", "k", body)
        connection.close()
        assert process.stderr is not None
        process.send_signal(signal.SIGTERM)
        assert any("asked to stop" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert "second signal" in finish(process, within=10)
        assert process.returncode == 1
        mongo.members[0].resume()


# dev.


@pytest.mark.usefixtures("local_servers")
def test_a_detached_stack_from_start_to_stop(tmp_path: Path) -> None:
    """Given an empty folder, when a stack is started, used, looked at and stopped, then each command does its part."""
    folder = tmp_path / "stack"

    def dev(*arguments: str) -> Done:
        return holdfast("dev", "--directory", str(folder), *arguments)

    failed(dev("--status"), 1, "nothing runs")
    try:
        started = dev("--detach")
        assert started.returncode == 0, started.stderr
        addresses = dict(line.split("=", 1) for line in started.stdout.splitlines())
        assert addresses.keys() == {"HOLDFAST_AMQP_URL", "HOLDFAST_MONGO_URL"}

        status = dev("--status")
        assert (status.returncode, status.stdout) == (0, started.stdout)
        running = re.findall(r"^([\w-]+): running, process \d+$", status.stderr, re.MULTILINE)
        assert running == ["rabbitmq", "mongodb-0", "worker-1"]

        amqp_url = addresses["HOLDFAST_AMQP_URL"]
        assert holdfast("save", "k", "1", amqp_url=amqp_url).returncode == 0
        again = dev("--detach")
        assert (again.returncode, again.stdout) == (0, started.stdout)
        assert json.loads(holdfast("read", "k", amqp_url=amqp_url).stdout)["value"] == 1
    finally:
        stopped = dev("--stop")
    assert (stopped.returncode, stopped.stdout) == (0, "")
    assert LocalStack(folder).status().processes == {}
    failed(dev("--status"), 1, "nothing runs")
    assert dev("--stop").returncode == 0


@pytest.mark.usefixtures("local_servers")
def test_a_stack_in_the_foreground_ends_with_ctrl_c(tmp_path: Path) -> None:
    """Given a stack in the foreground, when Ctrl-C is pressed, then it stops all it started and exits 0."""
    command = [sys.executable, "-m", "holdfast", "dev", "--directory", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline(), process.stdout.readline()]
            assert [line.split("=")[0] for line in lines] == ["HOLDFAST_AMQP_URL", "HOLDFAST_MONGO_URL"]
            assert LocalStack(tmp_path).status().running
            process.send_signal(signal.SIGINT)
            said = finish(process, within=60)
            assert process.returncode == 0, said
        finally:
            process.kill()
    assert "ready. Ctrl-C stops it" in said
    assert LocalStack(tmp_path).status().processes == {}


def test_dev_takes_one_thing_at_a_time() -> None:
    """Given two options that exclude each other, when dev starts, then one line says so."""
    failed(holdfast("dev", "--stop", "--status"), 1, "exclude each other")
