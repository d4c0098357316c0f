"""The change feed as an operator sets it, and its messages: one for each store and first key level of a batch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field

from ..events import Event, OutboxMessage, Receipt
from ..events.feed import FEED_CONTENT_TYPE, FeedMode, cloud_event, level_of, notice_key, routing_key
from ..events.limits import REPLY_MESSAGE_BYTES
from ..events.topology import EVENTS, FEED_HEADER, KEY_HEADER, RESERVED_PREFIX, STORE_HEADER, VERSION_HEADER
from .publication import Letter, Publication
from .publisher import FEED_PATIENCE

#: Values of the header that tells messages of the feed apart.
EVENTS_KIND: Final = "events"
NOTICE_KIND: Final = "notice"


class FeedConfig(BaseModel):
    """The change feed of a store."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    #: ``levels`` makes a message for each first level of the keys in a batch, so that consumers can choose by it;
    #: ``store`` makes one for the whole batch, for keys whose first levels all differ; ``off`` makes none.
    mode: FeedMode = "levels"
    #: Whether a stream keeps it, to be read from any offset, and how much of it.
    stream: bool = True
    stream_max_bytes: Annotated[int, Field(ge=1_000_000)] = 1_000_000_000
    #: As RabbitMQ has it: a number and one of Y, M, D, h, m, s.
    stream_max_age: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}[YMDhms]$")] = "7D"


class FeedsConfig(FeedConfig):
    """The change feeds of all stores."""

    #: Of stores that differ; what is not said there has its default, and not what the others have.
    stores: dict[str, FeedConfig] = {}
    #: Seconds for which commands wait for a queue of others that neither takes nor refuses an event.
    patience: Annotated[float, Field(gt=0, le=3600)] = FEED_PATIENCE

    def of(self, store: str) -> FeedConfig:
        """The feed of a store."""
        return self.stores.get(store, self)


#: Without a configuration.
FEEDS: Final = FeedsConfig()


class OutboxConfig(BaseModel):
    """Where messages that writes carry may be published."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    #: Names of exchanges. ``""`` is the broker's own, by which every queue can be reached but Holdfast's.
    exchanges: list[str] = []

    def objection(self, message: OutboxMessage) -> str | None:
        """Why a message may not be published; None if it may."""
        if message.exchange not in self.exchanges or message.exchange.startswith(RESERVED_PREFIX):
            return f"messages to the exchange {message.exchange!r} are not allowed"
        if not message.exchange and message.routing_key.startswith(RESERVED_PREFIX):
            return "messages to Holdfast's own queues are not allowed"
        return None


#: Without a configuration no message is published.
NO_OUTBOX: Final = OutboxConfig()


def feed_publications(
    changes: Iterable[tuple[str, Sequence[Event]]], modes: Mapping[str, FeedMode]
) -> Iterator[Publication]:
    """The messages of the feed for the events of batches, in order.

    :param changes: names of stores, and events.
    :param modes: of each store.
    """
    groups: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
    for store, events in changes:
        mode = modes[store]
        if mode == "off":
            continue
        for event in events:
            told = cloud_event(store, event)
            place = store, level_of(told["subject"]) if mode == "levels" else None
            group = groups.get(place)
            if group is None:
                groups[place] = [told]
            else:
                group.append(told)
    for (store, level), batch in groups.items():
        name = routing_key(store, level)
        for body in _pack(batch):
            yield Publication(EVENTS, name, body, FEED_CONTENT_TYPE, {FEED_HEADER: EVENTS_KIND}, instead=notice(store))


def notice(store: str) -> Publication:
    """An empty batch that tells whoever follows the feed of a store to look whether he has missed something."""
    return Publication(EVENTS, notice_key(store), b"[]", FEED_CONTENT_TYPE, {FEED_HEADER: NOTICE_KIND})


def outbox_publications(store: str, record: Event | Receipt, letter: Letter) -> Iterator[Publication]:
    """The messages that a write or a transaction carried, in order.

    :param letter: what goes to the dead letter queue if nobody takes one of them.
    """
    version = record.version if isinstance(record, Event) else record.at
    told = {STORE_HEADER: store, KEY_HEADER: record.key, VERSION_HEADER: version}
    for number, message in enumerate(record.messages or ()):
        yield Publication(
            message.exchange,
            message.routing_key,
            orjson.dumps(message.body),
            "application/json",
            {**message.headers, **told},
            # The same each time that it is published, so that its consumers can tell a repeat.
            message_id=f"{record.id}/{number}",
            line=(store, record.key),
            letter=letter,
        )


def _pack(events: list[dict[str, Any]]) -> Iterator[bytes]:
    """Encode events as arrays of about a MiB at most; a single larger one goes alone."""
    body = orjson.dumps(events)
    if len(body) <= REPLY_MESSAGE_BYTES or len(events) == 1:
        yield body
    else:
        middle = len(events) // 2
        yield from _pack(events[:middle])
        yield from _pack(events[middle:])
