"""A line to the broker: told when it is lost, in whatever way, and ended whatever the broker does."""

import asyncio
import socket
from collections.abc import Callable, Iterator

import aio_pika
import pytest
from yarl import URL

from holdfast.amqp import Line
from holdfast.client.link import Link
from holdfast.events import InvalidError, Unavailable
from holdfast.local import RabbitServer
from holdfast.local.ports import free_port


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A RabbitMQ that may be frozen and thawed."""
    server = RabbitServer(tmp_path_factory.mktemp("frozen-rabbitmq"))
    server.start()
    yield server
    server.kill()


class Losses:
    """What a line has said."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.told = asyncio.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self.told.set()


def line(server: RabbitServer, losses: Callable[[str], None], heartbeat: int = 1) -> Line:
    return Line(URL(server.url(query={"heartbeat": heartbeat})), name="test", on_lost=losses)


async def test_a_broker_that_says_nothing_is_taken_for_dead(frozen: RabbitServer) -> None:
    """A line to a frozen broker is lost after some heartbeats, and ended without its help."""
    losses = Losses()
    to_broker = line(frozen, losses)
    await to_broker.connect()
    try:
        frozen.pause()
        await asyncio.wait_for(losses.told.wait(), 60)
        await asyncio.wait_for(to_broker.hang_up(), 60)
    finally:
        frozen.resume()

    assert losses.reasons[0] == "nothing heard for 2 s"
    assert to_broker.connection.is_closed


async def test_an_idle_broker_is_alive(frozen: RabbitServer) -> None:
    """A line on which nothing is said but heartbeats is kept, over many times the patience with silence."""
    losses = Losses()
    to_broker = line(frozen, losses)
    await to_broker.connect()
    looks = 0
    enough = asyncio.Event()
    look = to_broker._look

    def counted(patience: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 8:
            enough.set()
        look(patience)

    to_broker._look = counted  # type: ignore[method-assign]
    await asyncio.wait_for(enough.wait(), 60)
    channel = await to_broker.connection.channel()
    await channel.close()
    await to_broker.hang_up()

    assert not [reason for reason in losses.reasons if "nothing heard" in reason]


async def test_a_process_that_slept_hears_first_what_has_come_in(frozen: RabbitServer) -> None:
    """When the event loop stands still for longer than the patience lasts, a broker that has spoken is not given up."""
    losses = Losses()
    to_broker = line(frozen, losses)
    await to_broker.connect()
    to_broker._silence = 2.0  # at the next look without a sign of life it would be over
    to_broker._stream.heard = False
    channel = await to_broker.connection.channel()
    to_broker._look(2.0)
    await channel.close()

    assert losses.reasons == []
    await to_broker.hang_up()


async def test_a_line_without_heartbeats_is_not_watched(frozen: RabbitServer) -> None:
    """Without heartbeats an idle broker says nothing, which means nothing."""
    losses = Losses()
    to_broker = line(frozen, losses, heartbeat=0)
    await to_broker.connect()
    assert to_broker._looking is None
    await to_broker.hang_up()


async def test_a_connection_that_the_broker_closes_is_lost(frozen: RabbitServer) -> None:
    """The broker's reason is told."""
    losses = Losses()
    to_broker = line(frozen, losses)
    await to_broker.connect()
    await asyncio.to_thread(frozen.close_all_connections, "because of a test")
    await asyncio.wait_for(losses.told.wait(), 60)
    await to_broker.hang_up()

    assert "because of a test" in losses.reasons[0]


async def test_a_line_can_be_ended_while_the_broker_takes_nothing(
    frozen: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an alarm lasts, a connection with something to write is ended all the same, also after a cancelled try."""
    monkeypatch.setattr("holdfast.amqp.GOODBYE_TIMEOUT", 0.5)
    to_broker = line(frozen, lambda _: None, heartbeat=60)
    await to_broker.connect()
    channel = await to_broker.connection.channel(publisher_confirms=False)
    body = bytes(1_000_000)
    try:
        await asyncio.to_thread(frozen.ctl, "set_vm_memory_high_watermark", "absolute", "1MB")
        publishing = [
            asyncio.create_task(channel.default_exchange.publish(aio_pika.Message(body), "nowhere")) for _ in range(40)
        ]
        await asyncio.wait(publishing, timeout=2)
        assert not all(task.done() for task in publishing)
        first = asyncio.create_task(to_broker.hang_up())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

        await asyncio.wait_for(to_broker.hang_up(), 60)
        await asyncio.gather(*publishing, return_exceptions=True)
    finally:
        await asyncio.to_thread(frozen.ctl, "set_vm_memory_high_watermark", "absolute", "1GB")

    assert to_broker._closing is not None
    assert to_broker._closing.done()


async def test_a_client_goes_to_another_address(frozen: RabbitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several addresses, one where nothing listens and one where nobody answers cost an attempt each."""
    monkeypatch.setattr("random.sample", lambda urls, _: list(urls))
    down = RabbitServer.url(frozen).replace(f":{frozen.amqp_port}/", f":{free_port()}/")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = frozen.url().replace(f":{frozen.amqp_port}/", f":{silent.getsockname()[1]}/")
        link = Link(f"{down}, {mute}, {frozen.url()}", name="test", on_up=print, on_replies=print, connect_timeout=6)
        # No exchange is there to send to, but a connection can be had.
        await link.open()
        assert link.up
        await link.close()
        only_bad = Link(f"{down},{mute}", name="test", on_up=print, on_replies=print, connect_timeout=1)
        with pytest.raises(Unavailable, match="cannot connect to amqp://holdfast:\\*\\*\\*@") as failed:
            await only_bad.open()

    assert frozen.password not in str(failed.value)


async def test_addresses_of_different_users_are_refused() -> None:
    """Addresses that are not those of one user on one virtual host are a mistake, told without their passwords."""
    with pytest.raises(InvalidError, match="same user") as refused:
        Link("amqp://a:s3cr3t@mq1/,amqp://b:s3cr3t@mq2/", name="test", on_up=print, on_replies=print)
    assert "s3cr3t" not in str(refused.value)
