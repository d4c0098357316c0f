"""One test file of a user, run by his pytest in memory, on servers of its own, and on a service that runs."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.service import Service

TESTS = """
import asyncio
import holdfast
import pytest
from holdfast.testing import Service

pytestmark = pytest.mark.asyncio

async def test_the_fixtures_work(holdfast_client: holdfast.Client) -> None:
    saved = await holdfast_client.save("user/42", {"name": "Ada"})
    again = await holdfast_client.save("user/42", {"name": "Eve"}, etag=saved.etag)
    assert (saved.version, again.version) == (1, 2)

async def test_state_of_another_test_is_not_seen(holdfast_client: holdfast.Client) -> None:
    assert await holdfast_client.read("user/42") is None

async def test_faults(holdfast_service: Service) -> None:
    async with holdfast_service.connect() as client:
        cart = client.state("cart", list[str], default=list)
        holdfast_service.faults.conflict()
        holdfast_service.faults.lose_reply()
        await cart.update(lambda items: items.append("apple"))
        holdfast_service.faults.timeout(applied=True)
        with pytest.raises(holdfast.OutcomeUnknown):
            await cart.update(lambda items: items.append("pear"))
        await cart.read()
        assert cart.value == ["apple", "pear"]
        assert len(holdfast_service.faults.happened) == 3
"""

STORES = """
@pytest.mark.holdfast(stores=["default", "carts"])
async def test_stores(holdfast_client: holdfast.Client) -> None:
    await holdfast_client.save("a", 1, store="carts")
    with pytest.raises(holdfast.UnknownStoreError):
        await holdfast_client.save("a", 1, store="profiles")
"""


def run(directory: Path, source: str, *arguments: str) -> tuple[int, str]:
    """A run of pytest as a user has it, without any of our own configuration."""
    (directory / "test_of_a_user.py").write_text(source)
    (directory / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(directory)]
    ended = subprocess.run(
        [*command, *arguments, str(directory)], capture_output=True, text=True, timeout=110, check=False, cwd=directory
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_in_memory(tmp_path: Path) -> None:
    """Given a user's tests, when pytest runs them, then there is a service in memory for each."""
    code, told = run(tmp_path, TESTS + STORES)
    assert code == 0, told
    assert "4 passed" in told


@pytest.mark.usefixtures("local_servers")
def test_on_servers_of_its_own(tmp_path: Path) -> None:
    """Given the same tests, when the switch says `servers`, then RabbitMQ and MongoDB are started for them."""
    code, told = run(tmp_path, TESTS + STORES, "--holdfast", "servers")
    assert code == 0, told
    assert "4 passed" in told


def test_on_a_service_that_runs(tmp_path: Path, service: Service) -> None:
    """Given the same tests, when the switch names a broker, then they run on the service behind it, again and again."""
    for _ in range(2):
        code, told = run(tmp_path, TESTS, "--holdfast", service.amqp_url)
        assert code == 0, told
        assert "3 passed" in told


def test_elsewhere(tmp_path: Path) -> None:
    """Given a switch that names nothing, when tests ask for a service, then they are told what can be named."""
    code, told = run(tmp_path, TESTS, "--holdfast", "nowhere")
    assert code == 1
    assert "neither `memory` nor `servers` nor an AMQP URL" in told
