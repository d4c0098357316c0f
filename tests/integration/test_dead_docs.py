"""docs/dead-letters.md: its commands are run as they stand there, and it names every reason that there is."""

import re
import shlex
import time
from pathlib import Path
from typing import Any

import orjson
import pika  # type: ignore[import-untyped]
from support.service import Service
from support.shell import in_shell

from holdfast.events.topology import DEAD
from holdfast.local import RabbitServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/dead-letters.md").read_text(encoding="utf-8")
PROTOCOL = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


def bury(amqp_url: str, letters: list[tuple[str, Any]]) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    channel = connection.channel()
    channel.confirm_delivery()
    for number, (reason, body) in enumerate(letters):
        told = {"letter": f"{number:016x}", "reason": reason, "detail": "", "time": int(time.time() * 1000)}
        headers = {f"x-holdfast-{name}": value for name, value in told.items()}
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        channel.basic_publish("", DEAD, raw, pika.BasicProperties(headers=headers, delivery_mode=2), mandatory=True)
    connection.close()


def left(amqp_url: str) -> int:
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    count: int = connection.channel().queue_declare(DEAD, passive=True).method.message_count
    connection.close()
    return count


def save(command_id: str, key: str) -> dict[str, Any]:
    return {"op": "save", "id": command_id, "key": key, "value": 1}


def test_the_commands_of_the_page(service: Service, tmp_path: Path) -> None:
    """Given the letters that the page speaks of, when its commands are run one after the other, then each does it."""
    look, replay, discard, policy = BLOCKS
    bury(
        service.amqp_url,
        [
            ("internal", save("9b1c6a", "user/42")),
            ("unknown_store", save("9b1c6c", "user/43")),
            ("malformed", b"no JSON"),
            ("bad_op", {"op": "sav", "id": "9b1c6b", "key": "user/44"}),
        ],
    )
    shown = in_shell(look, service.amqp_url, tmp_path)
    assert shown.count("0000000000000001") == 2  # in both lists
    assert '"id": "9b1c6a"' in shown
    assert left(service.amqp_url) == 4

    outcomes = in_shell(replay, service.amqp_url, tmp_path)
    assert [line.split()[1] for line in outcomes.splitlines()] == ["ok", "ok"]
    assert left(service.amqp_url) == 2

    in_shell(discard, service.amqp_url, tmp_path)
    assert left(service.amqp_url) == 0
    (record,) = [orjson.loads(line) for line in (tmp_path / "malformed.jsonl").read_bytes().splitlines()]
    assert record["body"] == "no JSON"
    assert policy.startswith("rabbitmqctl set_policy ")


def test_the_policy_of_the_page(rabbit: RabbitServer, amqp_vhost: str) -> None:
    """Given the policy for older queues, when it is set as the page has it, then RabbitMQ takes it."""
    program, command, *arguments = shlex.split(BLOCKS[-1])
    assert (program, command) == ("rabbitmqctl", "set_policy")
    rabbit.ctl(command, "-p", amqp_vhost, *arguments)
    policies = rabbit.ctl("list_policies", "-p", amqp_vhost)
    assert '"delivery-limit":1000000000' in policies.replace(" ", "")


def test_every_reason_is_named() -> None:
    """Given the reasons and codes that stand in the sources, when the page is read, then it says what to do."""
    reasons = set()
    for path in (ROOT / "worker").glob("*.py"):
        reasons |= set(re.findall(r'\breason="(\w+)"', path.read_text(encoding="utf-8")))
    # What forwarding meets is buried under its error code.
    reasons |= set(re.findall(r'\bcode="(\w+)"', (ROOT / "worker/ingress.py").read_text(encoding="utf-8")))
    assert {"internal", "poison", "queue_full", "store_away", "bad_reply_to", "bad_properties"} <= reasons
    table = PAGE.split("## What the reasons mean")[1].split("## ")[0]
    named = set(re.findall(r"`(\w+)`", table))
    by_the_broker = {"delivery_limit", "expired"}
    told_to_nobody = {"too_large", "unknown_store", "denied"}
    assert reasons | by_the_broker | told_to_nobody <= named
    # Whatever else is buried is a code of `invalid`, for which the page sends its reader to the protocol's.
    assert "(protocol.md#statuses-and-error-codes)" in table
    assert "### Statuses and error codes" in PROTOCOL
