"""The change feed on the wire: routing keys, and what events look like. Part of the public protocol."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal
from urllib.parse import quote

import orjson
from pydantic import TypeAdapter, ValidationError

from .errors import InvalidError
from .records import Event
from .replies import HistoryEntry
from .topology import EVENTS

_entries: TypeAdapter[list[HistoryEntry]] = TypeAdapter(list[HistoryEntry])

#: What becomes of a store's events: a message for each first level of the keys in a batch, or one for the whole batch.
FeedMode = Literal["levels", "store", "off"]

#: CloudEvents 1.0, JSON format, batched content mode.
FEED_CONTENT_TYPE: Final = "application/cloudevents-batch+json"
#: The second word of the routing key where there is no level: for keys without one, and for whole stores.
NO_LEVEL: Final = "-"
#: Characters of a level, as it is written in a routing key, at most: what is over is cut off.
MAX_LEVEL_LENGTH: Final = 60

#: What an event may have beside what every event has.
_OPTIONAL: Final = ("expires", "author", "metadata", "correlation_id", "causation_id", "restored")


@lru_cache(maxsize=4096)
def routing_word(text: str) -> str:
    """A text as one word of a routing key: percent-encoded, so that it has no dot and nothing with a meaning."""
    word = quote(text, safe="").replace(".", "%2E")
    return "%2D" if word == NO_LEVEL else word


def level_of(key: str) -> str | None:
    """The first level of a key; None if it has but one."""
    level, separator, _ = key.partition("/")
    return level if separator else None


@lru_cache(maxsize=4096)
def routing_key(store: str, level: str | None) -> str:
    """Where the events of keys of this first level go."""
    return f"{routing_word(store)}.{NO_LEVEL if level is None else routing_word(level)[:MAX_LEVEL_LENGTH]}"


def binding_keys(store: str, mode: FeedMode, prefix: str) -> list[str]:
    """What a queue has to be bound by to get the events of all keys that begin with the prefix, and notices."""
    if mode == "store":
        events = routing_key(store, None)
    elif "/" in prefix:
        events = routing_key(store, level_of(prefix))
    else:
        events = f"{routing_word(store)}.*"
    return [events, notice_key(store)]


def notice_key(store: str) -> str:
    """Where it is told that the feed of a store may have missed something: the store's word alone."""
    return routing_word(store)


def stream_queue(store: str) -> str:
    """The stream that keeps the feed of a store."""
    return f"{EVENTS}.{store}"


def event_data(event: Event) -> dict[str, Any]:
    """An event as the feed tells it, and the answers to ``watch`` and ``changes``: as a history does, with the key."""
    data: dict[str, Any] = {
        "key": event.key,
        "version": event.version,
        "type": event.type,
        "etag": event.etag,
        "id": event.id,
        "time": event.time,
    }
    # Of an event that saved null, null is the value, and not the lack of one.
    if event.type == "saved":
        data["value"] = event.value
    for name in _OPTIONAL:
        content = getattr(event, name)
        if content is not None:
            data[name] = content
    if event.first:
        data["first"] = True
    return data


def cloud_event(store: str, event: Event) -> dict[str, Any]:
    """An event in CloudEvents' JSON format. Source and id together are the same each time that it is published."""
    return {
        "specversion": "1.0",
        "id": f"{event.key}@{event.version}",
        "source": f"/holdfast/{store}",
        "type": f"holdfast.{event.type}",
        "subject": event.key,
        "time": _timestamp(event.time),
        "datacontenttype": "application/json",
        "data": event_data(event),
    }


@lru_cache(maxsize=256)
def _timestamp(milliseconds: int) -> str:
    when = datetime.fromtimestamp(milliseconds // 1000, tz=UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def decode_feed(body: bytes) -> list[HistoryEntry]:
    """The events of a message, in order.

    :raises InvalidError: if it is no message of the feed.
    """
    try:
        return _entries.validate_python([event["data"] for event in orjson.loads(body)])
    except (orjson.JSONDecodeError, ValidationError, KeyError, TypeError) as fault:
        raise InvalidError(f"not a message of the feed: {type(fault).__name__}", code="malformed") from None
