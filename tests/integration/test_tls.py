"""Encrypted connections to real servers that demand certificates, and what is said when one cannot be made."""

import asyncio
import json
import os
import re
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.accounts import Accounts
from support.tls import Authority, TlsRabbit

import holdfast
from holdfast.events import StoreError, Unavailable
from holdfast.events.urls import amqp_urls
from holdfast.local import Addresses, MongoReplicaSet, WorkerServer
from holdfast.stores import MongoStore
from holdfast.worker import WorkerOptions
from holdfast.worker.broker import AmqpBroker, BrokerLostError

LOCAL = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Servers:
    """Two servers that speak to those only whom their authority knows."""

    authority: Authority
    rabbit: TlsRabbit
    mongo: MongoReplicaSet

    def amqp(self, query: str, *, port: int | None = None, user: str | None = None, host: str = "127.0.0.1") -> str:
        user = user or f"{self.rabbit.user}:{self.rabbit.password}"
        return f"amqps://{user}@{host}:{port or self.rabbit.tls_port}/?{query}"

    @property
    def good(self) -> str:
        return self.authority.query("client")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A RabbitMQ and a MongoDB with TLS, and certificates of all kinds."""
    directory = tmp_path_factory.mktemp("tls")
    authority = Authority(directory / "certificates")
    authority.issue("server", *LOCAL)
    authority.issue("elsewhere", "elsewhere.example")
    authority.issue("bygone", *LOCAL, expired=True)
    authority.issue("client")
    authority.issue("shop")
    authority.issue("expired", expired=True)
    Authority(directory / "strangers").issue("foreign")
    rabbit = TlsRabbit(directory / "rabbitmq", authority, "server")
    tls = authority.of_mongo("server", "client")
    mongo = MongoReplicaSet(directory / "mongodb", cache_gb=0.25, tls=tls)
    try:
        rabbit.start()
        mongo.start()
        yield Servers(authority, rabbit, mongo)
    finally:
        rabbit.kill()
        mongo.kill()


async def run(*arguments: str, **environment: str) -> tuple[int | None, str, str]:
    """The command line as a process of its own: exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast", *arguments),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def test_everything_works_encrypted(servers: Servers, tmp_path: Path) -> None:
    """Given servers that demand certificates, when worker, client and command line work, then all is encrypted, and a
    certificate alone is a login. Writes are kept under its name if the URL says it, and otherwise are anonymous.
    """
    rabbit = servers.rabbit
    accounts = Accounts(rabbit, "/")
    accounts.add("shop")
    worker = WorkerServer(
        tmp_path / "worker",
        addresses=Addresses(servers.amqp(servers.good), servers.mongo.url("tls")),
        environment={"HOLDFAST_PARTITIONS": "2"},
    )
    await asyncio.to_thread(worker.start)
    try:
        async with (
            holdfast.connect(servers.amqp(servers.good)) as client,
            holdfast.connect(servers.amqp(f"auth=external&{servers.authority.query('shop')}", user="shop")) as shop,
        ):
            await client.save("k", {"of": "client"})
            await shop.save("k", {"of": "shop"})
            encrypted = rabbit.eval(
                "pg_local:sync(), [rabbit_networking:connection_info(P, [ssl, peer_cert_validity, auth_mechanism]) "
                "|| P <- rabbit_networking:local_connections()]"
            )
            assert encrypted.count("{ssl,true}") == encrypted.count("{ssl,") == 4
            assert encrypted.count("EXTERNAL") == 1
            await asyncio.to_thread(rabbit.close_all_connections)
            nameless = f"amqps://127.0.0.1:{rabbit.tls_port}/?auth=external&{servers.authority.query('shop')}"
            async with holdfast.connect(nameless) as anonymous:
                await anonymous.save("k", {"of": "nobody"})
            assert [event.author for event in await shop.history("k")] == ["holdfast", "shop", None]
        code, output, errors = await run("read", "k", HOLDFAST_AMQP_URL=servers.amqp(servers.good))
        assert (code, errors) == (0, "")
        assert json.loads(output)["value"] == {"of": "nobody"}
    finally:
        await asyncio.to_thread(worker.stop)
        accounts.remove()
    log = worker.log_path.read_text()
    assert "is ready: amqps://holdfast:***@" in log
    assert "not encrypted" not in log


@asynccontextmanager
async def impostor(servers: Servers, name: str) -> AsyncIterator[int]:
    """Something that speaks TLS with another certificate. Gives its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate = servers.authority.directory / f"{name}.pem"
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


#: How an AMQP URL can be wrong, and what is said then.
AMQP_FAULTS: dict[str, tuple[Callable[[Servers], str], str]] = {
    "no CA": (lambda it: it.amqp(""), "the server's certificate is not accepted: "),
    "wrong CA": (
        lambda it: it.amqp(f"cafile={it.authority.directory.parent}/strangers/ca.pem"),
        "the server's certificate is not accepted: self-signed certificate in certificate chain",
    ),
    "no certificate": (lambda it: it.amqp(f"cafile={it.authority.ca}"), "the server demands a client certificate"),
    "foreign certificate": (
        lambda it: it.amqp(
            f"cafile={it.authority.ca}&certfile={it.authority.directory.parent}/strangers/foreign.pem"
            f"&keyfile={it.authority.directory.parent}/strangers/foreign.key"
        ),
        "the server does not know the CA of the client certificate",
    ),
    "expired certificate": (
        lambda it: it.amqp(it.authority.query("expired")),
        "the server finds the client certificate expired",
    ),
    "no such CA file": (
        lambda it: it.amqp("cafile=/there/is/none.pem"),
        "a file with a certificate or key cannot be read: No such file or directory",
    ),
    "a key for a CA": (
        lambda it: it.amqp(f"cafile={it.authority.directory}/client.key"),
        "the CA file holds no certificate",
    ),
    "certificate of another key": (
        lambda it: it.amqp(it.good.replace("client.key", "shop.key")),
        "certificate and key do not belong together",
    ),
    "a port without TLS": (
        lambda it: it.amqp(it.good, port=it.rabbit.amqp_port),
        "the server does not speak TLS on this port",
    ),
    "no TLS on its port": (
        lambda it: it.amqp("").replace("amqps:", "amqp:"),
        "the server ended the connection without a word; it may expect TLS there, or no AMQP at all",
    ),
    "wrong password": (
        lambda it: it.amqp(it.good, user="holdfast:wrong").replace("wrong", "wrong-" + it.rabbit.password),
        "the server refused the login",
    ),
    "a way to log in that it does not have": (
        lambda it: it.amqp("auth=amqplain&" + it.good),
        "the server refused the login: it offers ",
    ),
    "nobody there": (lambda it: it.amqp(it.good, port=1), "nothing listens there"),
    "no such host": (
        lambda it: it.amqp(it.good, host="none.invalid"),
        "the name of the host cannot be resolved",
    ),
}


async def refusals(url: str) -> list[str]:
    """What a client and a worker say of a URL with which they cannot connect."""
    with pytest.raises(Unavailable) as of_client:
        async with holdfast.connect(url, timeout=30):
            pass
    broker = AmqpBroker(WorkerOptions(amqp_url=url), *amqp_urls(url))
    with pytest.raises(BrokerLostError) as of_worker:
        await broker.open()
    await broker.close()
    return [str(of_client.value), str(of_worker.value)]


@pytest.mark.parametrize("fault", AMQP_FAULTS)
async def test_what_is_wrong_with_amqp_is_said(servers: Servers, fault: str) -> None:
    """Given a URL that cannot work, when client and worker connect, then both say why at once, without the password."""
    make, said = AMQP_FAULTS[fault]
    for message in await refusals(make(servers)):
        assert said in message
        assert "holdfast:***@" in message
        assert servers.rabbit.password not in message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bygone", "the server's certificate is not accepted: certificate has expired"),
        ("elsewhere", "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ],
)
async def test_a_server_that_is_not_who_it_should_be(servers: Servers, name: str, said: str) -> None:
    """Given a server whose certificate is expired, or another's, when it is connected to, then it is not trusted."""
    async with impostor(servers, name) as port:
        for message in await refusals(servers.amqp(servers.good, port=port)):
            assert said in message


async def test_a_worker_that_cannot_connect_says_so_each_time(servers: Servers, tmp_path: Path) -> None:
    """Given a CA that the broker's certificate is not of, when a worker runs, then its log tells of every attempt."""
    url = servers.amqp(f"cafile={servers.authority.directory.parent}/strangers/ca.pem")
    worker = WorkerServer(tmp_path / "worker", addresses=Addresses(url, servers.mongo.url("lost")))
    environment = os.environ | worker._environment
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast", "worker"), env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(60):
            while sum("session lost" in line for line in lines) < 3:
                line = (await process.stderr.readline()).decode()
                assert line, f"it has ended, after saying {lines}"
                lines.append(line)
    finally:
        process.kill()
        await process.wait()
    told = [line for line in lines if "session lost" in line]
    assert all("the server's certificate is not accepted: self-signed certificate" in line for line in told)
    assert not any("Traceback" in line or servers.rabbit.password in line for line in lines)


async def test_the_command_line_says_it_in_one_line(servers: Servers) -> None:
    """Given a URL without the CA, when the command line is used, then one line says what is wrong, with exit code 1."""
    code, output, errors = await run("read", "k", HOLDFAST_AMQP_URL=servers.amqp(""))
    assert (code, output) == (1, "")
    assert "the server's certificate is not accepted" in errors
    assert len(errors.splitlines()) == 1


def of_mongo(servers: Servers, **options: str | None) -> str:
    """An address of the MongoDB, with these options of its URL replaced or, if None, left out."""
    address, _, query = servers.mongo.url("wrong").partition("?")
    given = dict(option.split("=", 1) for option in query.split("&")) | options
    return f"{address}?{'&'.join(f'{name}={value}' for name, value in given.items() if value is not None)}".replace(
        "mongodb://", "mongodb://ada:hunter2@"
    )


async def test_what_is_wrong_with_mongodb_is_said(servers: Servers) -> None:
    """Given addresses that cannot work, when a store is opened, then it fails and says why, without the password."""
    strangers = servers.authority.directory.parent / "strangers"
    away, unfit = "StoreUnavailable: .*", "StoreConfigError: .*"
    faults: dict[str, tuple[dict[str, str | None], str]] = {
        "no CA": ({"tlsCAFile": None}, away + "certificate verify failed: self-signed certificate"),
        "wrong CA": ({"tlsCAFile": f"{strangers}/ca.pem"}, away + "certificate verify failed: self-signed certificate"),
        "no certificate": ({"tlsCertificateKeyFile": None}, away + "connection closed"),
        "foreign certificate": ({"tlsCertificateKeyFile": f"{strangers}/foreign.both.pem"}, away + "connection closed"),
        "no TLS": ({"tls": None, "tlsCAFile": None, "tlsCertificateKeyFile": None}, away + "connection closed"),
        "no such file": ({"tlsCAFile": "/there/is/none.pem"}, unfit + "cannot be read: No such file or directory"),
        "a key for a CA": ({"tlsCAFile": f"{servers.authority.directory}/client.key"}, unfit + "holds no certificate"),
    }

    async def refusal(options: dict[str, str | None]) -> str:
        store: MongoStore | None = None
        try:
            store = MongoStore(of_mongo(servers, **options), timeout_seconds=2)
            await store.open()
        except StoreError as refused:
            return f"{type(refused).__name__}: {refused}"
        finally:
            if store is not None:
                await store.close()
        return "it works"

    told = await asyncio.gather(*(refusal(options) for options, _ in faults.values()))
    for (fault, (_, said)), message in zip(faults.items(), told, strict=True):
        assert re.search(said, message), (fault, message)
        assert "hunter2" not in message
        assert "ada:***@" in message
