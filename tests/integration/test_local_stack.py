"""The local servers keep their promises: data survives, and nothing else does."""

import contextlib
import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]
import pika.exceptions  # type: ignore[import-untyped]
import pytest
from pymongo import MongoClient
from pymongo.collection import Collection

from holdfast.local import (
    Addresses,
    LocalStack,
    MongoReplicaSet,
    RabbitServer,
    ServerNotFoundError,
    ServerStartError,
    ServerStateError,
    WorkerServer,
)
from holdfast.local import cache as cache_module
from holdfast.local.debian import apt_mirror
from holdfast.local.process import ProcessRef

pytestmark = pytest.mark.usefixtures("local_servers")

QUORUM = {"x-queue-type": "quorum"}


@contextlib.contextmanager
def channel(url: str) -> Iterator[Any]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        opened = connection.channel()
        opened.confirm_delivery()
        yield opened
    finally:
        with contextlib.suppress(pika.exceptions.AMQPError):
            connection.close()


def put(url: str, body: bytes) -> None:
    with channel(url) as opened:
        opened.queue_declare("kept", durable=True, arguments=QUORUM)
        opened.basic_publish("", "kept", body)


def get(url: str) -> bytes:
    with channel(url) as opened:
        _, _, body = opened.basic_get("kept", auto_ack=True)
        assert isinstance(body, bytes)
        return body


@contextlib.contextmanager
def log_of(url: str) -> Iterator[Collection[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](url) as client:
        yield client.get_default_database()["log"]


# The fixtures.


def test_every_test_gets_an_empty_virtual_host(amqp_url: str, amqp_vhost: str, rabbit: RabbitServer) -> None:
    assert amqp_url == rabbit.url(amqp_vhost)
    assert rabbit.ctl("list_queues", "-p", amqp_vhost, "name").split() == []
    put(amqp_url, b"1")


def test_the_next_test_gets_another_one(amqp_url: str) -> None:
    with channel(amqp_url) as opened, pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
        opened.queue_declare("kept", passive=True)


def test_virtual_hosts_are_taken_back(rabbit: RabbitServer) -> None:
    rabbit.create_vhosts(["zwei wörter", 'a"b\\c'])
    assert {"zwei wörter", 'a"b\\c'} <= set(rabbit.ctl("list_vhosts", "name").splitlines())
    put(rabbit.url("zwei wörter"), b"1")
    rabbit.delete_vhosts(["zwei wörter", 'a"b\\c', "there is none"])
    assert not {"zwei wörter", 'a"b\\c'} & set(rabbit.ctl("list_vhosts", "name").splitlines())


def test_queues_can_be_purged_and_deleted(rabbit: RabbitServer, amqp_vhost: str, amqp_url: str) -> None:
    put(amqp_url, b"1")
    rabbit.purge_queue(amqp_vhost, "kept")
    with channel(amqp_url) as opened:
        assert opened.queue_declare("kept", passive=True).method.message_count == 0
    rabbit.delete_queue(amqp_vhost, "kept")
    with pytest.raises(ServerStateError):
        rabbit.delete_queue(amqp_vhost, "kept")


def test_databases_take_writes_and_transactions(mongo: MongoReplicaSet, mongo_url: str) -> None:
    with log_of(mongo_url) as log, log.database.client.start_session() as session, session.start_transaction():
        log.insert_one({"_id": 1}, session=session)


# One server.


def test_rabbitmq_survives_a_kill(own_rabbit: Callable[..., RabbitServer]) -> None:
    server = own_rabbit()
    put(server.url(), b"confirmed")
    before = server.url()
    server.kill()
    assert not server.running
    with pytest.raises(ServerStateError):
        server.eval("ok")
    server.start()
    assert server.url() == before
    assert get(before) == b"confirmed"


def test_rabbitmq_can_be_paused_and_cut_off(own_rabbit: Callable[..., RabbitServer]) -> None:
    server = own_rabbit()
    server.pause()
    with socket.create_connection(("127.0.0.1", server.amqp_port), timeout=0.3) as connection:
        connection.sendall(b"AMQP\x00\x00\x09\x01")
        with pytest.raises(TimeoutError):
            connection.recv(1)
    server.resume()
    with channel(server.url()) as opened:
        server.close_all_connections("because")
        with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="because"):
            opened.connection.process_data_events(time_limit=10)


def test_a_server_that_does_not_start_says_why(own_rabbit: Callable[..., RabbitServer]) -> None:
    with pytest.raises(ServerStartError, match="no_such_setting") as caught:
        own_rabbit(config={"no_such_setting": "1"})
    assert caught.value.log is not None


def test_mongodb_fails_over_and_keeps_what_it_acknowledged(own_mongo: Callable[..., MongoReplicaSet]) -> None:
    replica_set = own_mongo(members=3)
    with replica_set.client(timeout=30) as client:
        log = client["t"]["log"]
        log.insert_one({"_id": 1})
        old = replica_set.primary()
        old.kill()
        assert replica_set.primary() is not old
        log.insert_one({"_id": 2})
        old.start()
        replica_set.step_down()
        log.insert_one({"_id": 3})
        assert log.count_documents({}) == 3


def test_mongodb_finds_its_data_when_its_port_is_taken(own_mongo: Callable[..., MongoReplicaSet]) -> None:
    replica_set = own_mongo()
    with replica_set.client() as client:
        client["t"]["log"].insert_one({"_id": 1})
    replica_set.stop()
    before = replica_set.url()
    taken = ("127.0.0.1", replica_set.members[0].port)
    with socketserver.TCPServer(taken, socketserver.BaseRequestHandler) as somebody_else:
        thread = threading.Thread(target=somebody_else.serve_forever)
        thread.start()
        replica_set.start()
        somebody_else.shutdown()
        thread.join()
    assert replica_set.url() != before
    with replica_set.client() as client:
        assert client["t"]["log"].count_documents({}) == 1


# The stack.


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A folder for a stack, which is gone afterwards with all that runs in it."""
    directory = tmp_path / "stack"
    yield directory
    LocalStack(directory).stop()
    shutil.rmtree(directory, ignore_errors=True)


def test_a_stack_keeps_its_data_and_its_addresses(directory: Path) -> None:
    with LocalStack(directory) as first:
        put(first.amqp_url, b"kept")
        with log_of(first.mongo_url) as log:
            log.insert_one({"_id": 1})
        assert (directory / "stack.json").stat().st_mode & 0o777 == 0o600
    assert LocalStack(directory).status().processes == {}
    with LocalStack(directory) as again:
        assert again == first
        assert get(again.amqp_url) == b"kept"
        with log_of(again.mongo_url) as log:
            assert log.count_documents({}) == 1


def test_servers_that_the_user_gave_are_not_started(tmp_path: Path) -> None:
    with LocalStack(tmp_path, amqp_url="amqp://there", mongo_url="mongodb://there") as addresses:
        assert addresses == Addresses("amqp://there", "mongodb://there")
        assert LocalStack(tmp_path).status().processes == {}


@contextlib.contextmanager
def stack_of_another_process(directory: Path, *, detach: bool) -> Iterator[subprocess.Popen[str]]:
    program = (
        "import sys, holdfast.local\n"
        f"holdfast.local.LocalStack({str(directory)!r}, detach={detach}).start()\n"
        "print('up', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


def processes_of(stack: LocalStack) -> list[ProcessRef]:
    found = [ProcessRef.of(pid) for pid in stack.status().processes.values() if pid is not None]
    assert len(found) == 2
    return [ref for ref in found if ref is not None]


def test_nothing_outlives_a_killed_parent(directory: Path) -> None:
    with stack_of_another_process(directory, detach=False) as parent:
        servers = processes_of(LocalStack(directory))
        parent.kill()
        assert [server.wait(10) for server in servers] == [True, True]
    assert set(LocalStack(directory).status().processes.values()) == {None}


def test_a_detached_stack_outlives_its_parent_and_can_be_joined_and_stopped(directory: Path) -> None:
    with stack_of_another_process(directory, detach=True) as parent:
        parent.kill()
    stack = LocalStack(directory)
    servers = processes_of(stack)
    try:
        assert stack.start() == stack.status().addresses
        assert processes_of(stack) == servers
    finally:
        stack.stop()
    assert [server.wait(10) for server in servers] == [True, True]


def test_a_stranger_with_a_remembered_process_id_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        ref = ProcessRef.of(stranger.pid)
        assert ref is not None
        stale = ref.to_json() | {"started": ref.started - 1}
        (tmp_path / "rabbitmq").mkdir()
        (tmp_path / "rabbitmq/server.json").write_text(json.dumps({"process": {"supervisor": stale, "main": stale}}))
        (tmp_path / "stack.json").write_text(json.dumps({"parts": ["rabbitmq"]}))
        stack = LocalStack(tmp_path)
        assert stack.status().processes == {"rabbitmq": None}
        stack.stop()
        assert stranger.poll() is None
        stranger.kill()


class FakeWorker(WorkerServer):
    """A worker whose whole work is the given program."""

    program = ""

    def _prepare(self) -> tuple[Sequence[str], dict[str, str]]:
        _, environment = super()._prepare()
        return [sys.executable, "-c", self.program], environment


def test_a_worker_is_ready_when_it_says_so(tmp_path: Path) -> None:
    worker = FakeWorker(tmp_path / "worker-1", addresses=Addresses("amqp://a", "mongodb://m"))
    worker.program = (
        "import json, os, signal\n"
        "report = {'ready': os.environ['HOLDFAST_AMQP_URL'] == 'amqp://a'}\n"
        "open(os.environ['HOLDFAST_HEALTH_FILE'], 'w').write(json.dumps(report))\n"
        "signal.pause()\n"
    )
    worker.start(timeout=20)
    assert worker.running
    worker.stop()
    assert not worker.running


def test_a_worker_that_dies_leaves_its_last_words(tmp_path: Path) -> None:
    worker = FakeWorker(tmp_path / "worker-1")
    worker.health_path.write_text('{"ready": true}')  # of an earlier one
    worker.program = "raise SystemExit('no partition for me')"
    with pytest.raises(ServerStartError, match="no partition for me"):
        worker.start(timeout=20)


def test_what_a_server_started_ends_with_it(tmp_path: Path) -> None:
    worker = FakeWorker(tmp_path / "worker-1")
    worker.program = (
        "import json, os, subprocess, signal\n"
        "child = subprocess.Popen(['setsid', 'sleep', '60'])\n"
        "json.dump({'ready': True, 'child': child.pid}, open(os.environ['HOLDFAST_HEALTH_FILE'], 'w'))\n"
        "signal.pause()\n"
    )
    worker.start(timeout=20)
    child = ProcessRef.of(json.loads(worker.health_path.read_text())["child"])
    assert child is not None
    worker.stop()
    assert not child.alive()


# How servers get into the cache.


def test_what_is_fetched_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE_DIR", str(tmp_path))

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise ServerNotFoundError("no network")

    with pytest.raises(ServerNotFoundError, match="no network"):
        cache_module.install("thing", fail, cache_module.log_progress)
    (tmp_path / "thing.partial-0").mkdir()  # of a process that was killed
    folder = cache_module.install("thing", lambda folder: (folder / "whole").touch(), cache_module.log_progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thing", "thing.lock"]
    assert [path.name for path in folder.iterdir()] == ["whole"]


def test_two_that_want_the_same_fetch_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE_DIR", str(tmp_path))
    building, go_on, waiting = threading.Event(), threading.Event(), threading.Event()
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        building.set()
        assert go_on.wait(10)

    first = threading.Thread(target=cache_module.install, args=("thing", build, print))
    first.start()
    assert building.wait(10)
    second = threading.Thread(target=cache_module.install, args=("thing", build, lambda _: waiting.set()))
    second.start()
    assert waiting.wait(10)
    go_on.set()
    first.join(10)
    second.join(10)
    assert len(built) == 1


DEB822 = """\
Types: deb
URIs: http://vendor.example/apt
Suites: stable
Components: main

# the system's own
Types: deb deb-src
URIs: http://mirror.example/debian
 http://second.example/debian
Suites: bookworm bookworm-updates
Components: main
"""

ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb-src http://sources.example/debian bookworm main
deb [arch=amd64 signed-by=/x.gpg] https://mirror.example/debian bookworm main
"""


@pytest.mark.parametrize(
    ("file", "text", "address"),
    [
        ("sources.list.d/debian.sources", DEB822, "http://mirror.example/debian"),
        ("sources.list", ONE_LINE, "https://mirror.example/debian"),
        ("sources.list.d/own.list", ONE_LINE, "https://mirror.example/debian"),
    ],
)
def test_the_mirror_is_the_one_that_apt_uses(tmp_path: Path, file: str, text: str, address: str) -> None:
    os_release = tmp_path / "os-release"
    os_release.write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    (tmp_path / "apt" / file).write_text(text)
    assert apt_mirror(tmp_path / "apt", os_release) == address


def test_no_mirror_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ServerNotFoundError, match="no mirror"):
        apt_mirror(tmp_path, Path(os.devnull))


@pytest.mark.parametrize("error", [ProcessLookupError, FileNotFoundError])
def test_a_process_that_ends_at_this_moment_is_gone(error: type[OSError], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever way the kernel says that there is no such process any more, signals and waits say so too."""
    ref = ProcessRef.of(os.getpid())
    assert ref is not None

    def gone(_: int) -> int:
        raise error

    monkeypatch.setattr(os, "pidfd_open", gone)
    assert not ref.signal(signal.SIGTERM)
    assert ref.wait(0)
