"""What a delivery tells about its message, and which deliveries are acknowledged when."""

import itertools
from typing import Any, cast

import pytest
from aiormq.abc import AbstractChannel, DeliveredMessage
from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from holdfast.events.topology import HOP_HEADER
from holdfast.worker.delivery import Acknowledger, Delivery


class StrictChannel:
    """Deliveries as RabbitMQ keeps them: an acknowledgement of a tag that is not open closes the channel."""

    def __init__(self, tags: int) -> None:
        self.open = set(range(1, tags + 1))

    def acknowledge(self, tag: int, *, multiple: bool) -> set[int]:
        assert tag in self.open, f"PRECONDITION_FAILED - unknown delivery tag {tag}"
        gone = {open_ for open_ in self.open if open_ <= tag} if multiple else {tag}
        self.open -= gone
        return gone


@st.composite
def finishings(draw: st.DrawFn) -> list[list[int]]:
    """Tags 1 to n in any order, cut into rounds."""
    tags = draw(st.permutations(range(1, draw(st.integers(1, 30)) + 1)))
    cuts = sorted(draw(st.sets(st.integers(0, len(tags)))) | {0, len(tags)})
    return [tags[start:end] for start, end in itertools.pairwise(cuts)]


@given(finishings())
def test_every_delivery_is_acknowledged_once_and_at_once(rounds: list[list[int]]) -> None:
    """Whatever the order in which deliveries finish, each round acknowledges exactly those that finished in it."""
    acknowledger = Acknowledger()
    channel = StrictChannel(sum(map(len, rounds)))
    for finished in rounds:
        gone: set[int] = set()
        for tag, multiple in acknowledger.finish(finished):
            gone |= channel.acknowledge(tag, multiple=multiple)
        assert gone == set(finished)
    assert not channel.open


def test_a_run_from_the_oldest_takes_one_frame() -> None:
    """Given ten deliveries in hand, when the first nine finish together, then one frame acknowledges them all."""
    assert Acknowledger().finish([3, 1, 2, 9, 4, 8, 5, 6, 7]) == [(9, True)]


def test_a_slow_delivery_holds_up_no_other() -> None:
    """Given a first delivery that takes long, when later ones finish, then they are acknowledged without it."""
    acknowledger = Acknowledger()
    assert acknowledger.finish([3, 2]) == [(2, False), (3, False)]
    assert acknowledger.finish([1]) == [(1, False)]
    assert acknowledger.finish([4, 5]) == [(5, True)]


def test_what_was_acknowledged_alone_never_ends_a_run() -> None:
    """Given one acknowledged alone, when the gap before it closes, then the frame names a tag that is still open.

    RabbitMQ closes the channel for an acknowledgement that names a tag which was acknowledged before.
    """
    acknowledger = Acknowledger()
    assert acknowledger.finish([3]) == [(3, False)]
    assert acknowledger.finish([1, 2]) == [(2, True)]


def test_nothing_finished_takes_no_frame() -> None:
    """Given deliveries in hand, when none has finished, then nothing is acknowledged."""
    assert Acknowledger().finish([]) == []


def message(*, redelivered: bool = False, **properties: Any) -> DeliveredMessage:
    """An incoming message as the driver gives it."""
    fields: dict[str, Any] = {
        "reply_to": "amq.gen-1",
        "correlation_id": "c",
        "message_id": "m",
        "user_id": "ada",
        "headers": None,
    }
    header = ContentHeader(body_size=2, properties=Basic.Properties(**fields | properties))
    delivery = Basic.Deliver("tag", 7, redelivered, "holdfast.commands", "0")
    return DeliveredMessage(delivery, header, b"{}", cast("AbstractChannel", None))


def test_properties_are_taken_over() -> None:
    """Given a first delivery, when it is read, then everything that answers need is there and nothing is suspected."""
    delivery = Delivery.of(message())
    assert (delivery.tag, delivery.body, delivery.reply_to, delivery.correlation_id) == (7, b"{}", "amq.gen-1", "c")
    assert (delivery.message_id, delivery.author) == ("m", "ada")
    assert not (delivery.redelivered)
    assert not (delivery.suspect)
    assert not (delivery.hopped)
    assert not (delivery.reply_address_is_reserved)


@pytest.mark.parametrize("nobody", ["", "amq.rabbitmq.reply-to"])
def test_addresses_of_nobody(nobody: str) -> None:
    """Given an empty reply_to, or one that only the broker can make an address of, then there is nobody to answer."""
    assert Delivery.of(message(reply_to=nobody)).reply_to is None


@pytest.mark.parametrize(
    ("failed_before", "apart", "suspect"),
    [
        (0, False, False),
        (1, False, False),
        (2, True, False),
        (3, True, False),
        (4, True, True),
        (50, True, True),
        ("4", False, False),
    ],
)
def test_apart_from_the_third_and_suspect_from_the_fifth_delivery_on(
    failed_before: object, apart: bool, suspect: bool
) -> None:
    """Given deliveries that failed before, when there were two the message is set apart, and suspect with four."""
    delivery = Delivery.of(message(redelivered=True, headers={"x-delivery-count": failed_before}))
    assert (delivery.apart, delivery.suspect) == (apart, suspect)
    assert delivery.redelivered


@pytest.mark.parametrize("forged", [2, 100, 2**63 - 1, -1, True, "4", None, {}])
def test_nobody_but_the_broker_counts_deliveries(forged: object) -> None:
    """Given a first delivery with a count of its own, when it is read, then that counts for nothing."""
    delivery = Delivery.of(message(headers={"x-delivery-count": forged}))
    assert (delivery.apart, delivery.suspect, delivery.poison, delivery.count) == (False, False, False, 1)


def test_a_forwarded_message_is_known_by_its_header() -> None:
    """Given the hop header, when it is read, then the message counts as forwarded."""
    assert Delivery.of(message(headers={HOP_HEADER: 1})).hopped


@pytest.mark.parametrize(
    ("address", "reserved"),
    [("holdfast.commands.3", True), ("holdfast.dead", True), ("holdfast-app", False), ("my.holdfast.", False)],
)
def test_own_queues_are_no_reply_address(address: str, reserved: bool) -> None:
    """Given a reply_to, when it starts with the reserved prefix, then it is refused."""
    assert Delivery.of(message(reply_to=address)).reply_address_is_reserved is reserved
