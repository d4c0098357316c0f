"""docs/change-feed.md and docs/outbox.md: their examples are run as they stand there."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pika  # type: ignore[import-untyped]
import pytest
from support.service import Service, running_worker
from support.shell import environment

from holdfast.config import Config
from holdfast.worker.feed import OutboxConfig

DOCS = Path(__file__).parents[2] / "docs"
FEED, OUTBOX = ((DOCS / name).read_text(encoding="utf-8") for name in ("change-feed.md", "outbox.md"))


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def run(code: str, amqp_url: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment(amqp_url=amqp_url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def save(service: Service, key: str) -> None:
    run(
        "import asyncio, holdfast, os\n"
        "async def main():\n"
        "    async with holdfast.connect(os.environ['HOLDFAST_AMQP_URL']) as client:\n"
        f"        await client.save({key!r}, 1)\n"
        "asyncio.run(main())\n",
        service.amqp_url,
    )


def test_following_changes_in_python(service: Service) -> None:
    """The first example prints what the page says that it prints."""
    assert run(blocks(FEED, "python")[0], service.amqp_url) == blocks(FEED, "text")[0].splitlines()


def test_plain_consumers(service: Service) -> None:
    """Both consumers print what is in the feed, the one from when its queue is bound, the other from the beginning."""
    _, on_exchange, on_stream = blocks(FEED, "python")
    connection = pika.BlockingConnection(pika.URLParameters(service.amqp_url))
    channel = connection.channel()
    channel.queue_declare("my.users", durable=True, arguments={"x-queue-type": "quorum"})
    channel.queue_bind("my.users", "holdfast.events", "default.user")
    save(service, "user/1")
    save(service, "other/1")
    assert run(on_exchange, service.amqp_url) == ["holdfast.saved user/1 1"]
    told = [line.split() for line in run(on_stream, service.amqp_url)]
    assert [words[1:] for words in told] == [["holdfast.saved", "user/1"], ["holdfast.saved", "other/1"]]
    connection.close()


def test_settings() -> None:
    """What the pages put into the configuration file is one that can be read."""
    (settings,) = blocks(FEED, "toml")
    config = Config.model_validate(tomllib.loads(settings))
    assert [config.feed.of(store).mode for store in ("any", "sessions", "scratch")] == ["levels", "store", "off"]
    allowed, rule = blocks(OUTBOX, "toml")
    read = Config.model_validate(tomllib.loads(f'{allowed}[access]\ndefault = "closed"\n{rule}'))
    assert (read.outbox.exchanges, read.access.rules[0].operations) == (["orders"], ["save", "publish"])


@pytest.fixture
def shop(amqp_url: str, mongo_url: str) -> Iterator[Service]:
    with running_worker(amqp_url, mongo_url, outbox=OutboxConfig(exchanges=["orders"])) as service:
        yield service


def test_the_outbox(shop: Service) -> None:
    """The example publishes one message, and none for the save that is refused."""
    connection = pika.BlockingConnection(pika.URLParameters(shop.amqp_url))
    channel = connection.channel()
    channel.exchange_declare("orders", "topic", durable=True)
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, "orders", "#")

    example, with_a_transaction = blocks(OUTBOX, "python")
    assert run(example, shop.amqp_url) == ["refused, and no second message"]

    _, properties, body = next(iter(channel.consume(queue, inactivity_timeout=30)))
    channel.cancel()
    assert json.loads(body) == {"order": 42}
    assert properties.headers == {
        "x-holdfast-store": "default",
        "x-holdfast-key": "order/42",
        "x-holdfast-version": 1,
    }
    assert channel.basic_get(queue)[0] is None

    assert run(with_a_transaction, shop.amqp_url) == [
        "43 is placed",
        "44 is not, and nobody hears of it: stock/apple",
    ]
    _, properties, body = next(iter(channel.consume(queue, inactivity_timeout=30)))
    channel.cancel()
    assert (json.loads(body), properties.headers["x-holdfast-key"]) == ({"order": 43}, "order/43")
    assert channel.basic_get(queue)[0] is None
    connection.close()
