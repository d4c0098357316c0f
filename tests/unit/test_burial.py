"""What a dead letter tells about the message that it was."""

import re
from typing import Any

import pytest
from pamqp.commands import Basic
from pamqp.header import ContentHeader
from support.deliveries import delivery

from holdfast.worker.burial import MAX_DETAIL, burial_headers, replayed
from holdfast.worker.delivery import Delivery

NOW = 1_768_471_200_000


def headers(letter: Delivery | None = None, detail: str = "why") -> dict[str, Any]:
    return burial_headers(letter or delivery(), reason="malformed", detail=detail, now=NOW)


def test_everything_that_is_known_is_noted() -> None:
    """Given a message with all properties, when it is buried, then its letter has what it takes to send it again."""
    message = delivery(
        message_id="m-1", author="ada", reply_to="amq.gen-7", queue="holdfast.commands.3", count=4, headers={"own": 1}
    )
    noted = headers(message)
    assert re.fullmatch("[0-9a-f]{16}", noted.pop("x-holdfast-letter"))
    assert noted == {
        "x-holdfast-reason": "malformed",
        "x-holdfast-detail": "why",
        "x-holdfast-time": NOW,
        "x-holdfast-queue": "holdfast.commands.3",
        "x-holdfast-deliveries": 4,
        "x-holdfast-author": "ada",
        "x-holdfast-message-id": "m-1",
        "x-holdfast-reply-to": "amq.gen-7",
    }


def test_what_a_message_did_not_have_its_letter_does_not_have() -> None:
    """Given a message without properties, when it is buried, then nothing is made up for them."""
    assert (
        not {"x-holdfast-author", "x-holdfast-message-id", "x-holdfast-reply-to"}
        & headers(delivery(reply_to=None)).keys()
    )


def test_every_burial_has_an_id_of_its_own() -> None:
    """Given one message, when commands of it are buried one by one, then each letter has another id."""
    message = delivery()
    assert len({headers(message)["x-holdfast-letter"] for _ in range(100)}) == 100


@pytest.mark.parametrize("value", ["00ff" * 4, ""])
def test_a_replayed_message_is_told_by_its_header(value: str) -> None:
    """Given a message that is replayed from a dead letter, when it fails or is forwarded, then that is still known."""
    mark = {"x-holdfast-replay": value}
    assert replayed(delivery(headers=mark | {"other": 1})) == mark


@pytest.mark.parametrize("forged", [7, None, ["00ff" * 4], b"\xff", {"a": 1}])
def test_what_is_no_replay_is_not_taken_for_one(forged: Any) -> None:
    """Given another header, or nobody who waits for an answer, when the message fails, then it is buried."""
    assert replayed(delivery(headers={"x-holdfast-replay": forged})) == {}
    assert replayed(delivery(headers={})) == {}
    assert replayed(delivery(headers={"x-holdfast-letter": "00ff" * 4})) == {}
    assert replayed(delivery(headers={"x-holdfast-replay": "00ff" * 4}, reply_to=None)) == {}


@pytest.mark.parametrize("count", [2**63 - 1, -(2**63), 10**30])
def test_headers_fit_into_a_frame_whatever_was_sent(count: int) -> None:
    """Given the longest of everything and absurd counts, when the message is buried, then its headers can be sent."""
    properties = Basic.Properties(
        message_id="ü" * 127, user_id="ü" * 127, reply_to="ü" * 127, headers={"x-delivery-count": count}
    )
    message: Any = type(
        "Message",
        (),
        {"header": ContentHeader(properties=properties), "delivery_tag": 1, "body": b"", "redelivered": True},
    )
    noted = headers(Delivery.of(message, "holdfast.commands.255"), detail="🚀" * 5000)
    assert 1 <= noted["x-holdfast-deliveries"] < 2**31
    assert len(noted["x-holdfast-detail"]) == MAX_DETAIL
    assert len(Basic.Properties(headers=noted).marshal()) < 8192
