"""Networks that cut, delay and lose: what was told is true, nothing happens twice, and all goes on by itself."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from support.load import read_log
from support.proxied import ProxiedService
from support.traffic import traffic

import holdfast
from chaos.faults import Fault
from chaos.faults.clients import MessagesCopied
from chaos.faults.network import CutBeforeReply, SilentLoss, WorkerWithoutBroker, WorkerWithoutStore
from chaos.proxy import TO_CLIENT, TO_SERVER, Direction
from holdfast import OutcomeUnknown
from holdfast.events import Event


async def made_by(proxied: ProxiedService, command_id: str) -> list[tuple[str, int]]:
    """What a command has made: keys and versions."""
    log = await read_log(proxied.cluster.mongo_url)
    return [(record.key, record.version) for record in log if isinstance(record, Event) and record.id == command_id]


@pytest.mark.parametrize("direction", [TO_SERVER, TO_CLIENT], ids=["at the request", "at the reply"])
async def test_a_call_that_is_cut(proxied: ProxiedService, direction: Direction) -> None:
    """The connection is cut when the request, or when its reply passes: it is saved once, and its caller is told."""
    name = f"cut {direction.value}"
    async with holdfast.connect(proxied.amqp_url) as client:
        trap = await asyncio.to_thread(proxied.at_clients.trap, direction, containing=name.encode())
        entry = await client.save(name, 1, id=f"id: {name}")
    assert trap.sprung
    assert entry.version == 1
    assert await made_by(proxied, f"id: {name}") == [(name, 1)]


async def test_a_reply_that_comes_too_late(proxied: ProxiedService) -> None:
    """It was applied, but its caller's time is over: he knows that he does not know, and can ask under the same id."""
    async with holdfast.connect(proxied.amqp_url) as client:
        trap = await asyncio.to_thread(proxied.at_clients.trap, TO_CLIENT, containing=b"id: late", holds=True)
        with pytest.raises(OutcomeUnknown):
            await client.save("late", 1, id="id: late", timeout=3)
        assert trap.sprung
        await asyncio.to_thread(trap.release)
        assert (await client.save("late", 1, id="id: late")).version == 1
        assert (await client.save("late", 2)).version == 2
    assert await made_by(proxied, "id: late") == [("late", 1)]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda on: CutBeforeReply(on.at_clients), id="cut before the reply"),
        pytest.param(lambda on: SilentLoss(on.at_clients, hold=3), id="silent loss"),
        pytest.param(lambda on: MessagesCopied(on.cluster), id="messages come twice"),
    ],
)
async def test_what_happens_between_clients_and_broker(
    proxied: ProxiedService, tmp_path: Path, make: Callable[[ProxiedService], Fault]
) -> None:
    """Under traffic: what was told is true, and what was acknowledged is there once."""
    fault = make(proxied)
    async with traffic(proxied.cluster, proxied.amqp_url, tmp_path):
        try:
            await fault.strike()
        finally:
            await fault.heal()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda on, random: WorkerWithoutBroker(on.cluster, on.at_workers, random, silently=True), id="the broker"
        ),
        pytest.param(
            lambda on, random: WorkerWithoutStore(on.cluster, on.replicas, random, silently=False), id="MongoDB"
        ),
    ],
)
async def test_a_worker_that_is_cut_off_from(
    proxied: ProxiedService, tmp_path: Path, make: Callable[[ProxiedService, Random], Fault]
) -> None:
    """A worker that reaches only one of its two servers is no use: the other worker serves every partition."""
    fault = make(proxied, Random(1))  # noqa: S311
    async with traffic(proxied.cluster, proxied.amqp_url, tmp_path) as running:
        try:
            await fault.strike()
            await running.flows()
        finally:
            await fault.heal()
