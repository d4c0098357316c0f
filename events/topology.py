"""Names on the broker, and which partition a key belongs to. Part of the public protocol."""

from typing import Any, Final
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field

from .limits import PROTOCOL_VERSION

#: Direct exchange for commands; the routing key is the partition's number.
COMMANDS: Final = "holdfast.commands"
#: Its alternate exchange: takes every other routing key.
INGRESS: Final = "holdfast.ingress"
#: Topic exchange of the change feed; routing keys are of a store and a first level of its keys.
EVENTS: Final = "holdfast.events"
#: Quorum queue of what could not be processed, with the reason in the headers.
DEAD: Final = "holdfast.dead"
#: Queues whose name starts like this are Holdfast's own and never a reply address.
RESERVED_PREFIX: Final = "holdfast."

#: Marks a message that a worker has forwarded once; where it lands, it is processed.
HOP_HEADER: Final = "x-holdfast-hop"
#: Of messages in the change feed: ``events``, or ``notice`` where it may have missed some.
FEED_HEADER: Final = "x-holdfast-feed"
#: Of messages that a write carried: which write.
STORE_HEADER: Final = "x-holdfast-store"
KEY_HEADER: Final = "x-holdfast-key"
VERSION_HEADER: Final = "x-holdfast-version"
#: Why a message is in the dead letter queue: a code and a sentence.
REASON_HEADER: Final = "x-holdfast-reason"
DETAIL_HEADER: Final = "x-holdfast-detail"
#: What else a worker notes on a dead letter: its own id, when it was buried (milliseconds, the worker's clock), the
#: queue that the message was in, how often it was delivered, and what it said of its sender.
LETTER_HEADER: Final = "x-holdfast-letter"
TIME_HEADER: Final = "x-holdfast-time"
QUEUE_HEADER: Final = "x-holdfast-queue"
DELIVERIES_HEADER: Final = "x-holdfast-deliveries"
AUTHOR_HEADER: Final = "x-holdfast-author"
MESSAGE_ID_HEADER: Final = "x-holdfast-message-id"
REPLY_TO_HEADER: Final = "x-holdfast-reply-to"
#: Marks a message that is replayed from a dead letter, and names the letter. If it fails again it is not buried again:
#: the letter stands in its queue until the replay is answered.
REPLAY_HEADER: Final = "x-holdfast-replay"

#: Marks a message of a worker that names keys whose time has come, and says of which store.
SWEEP_HEADER: Final = "x-holdfast-sweep"

#: How long one of Holdfast's queues waits for an acknowledgement, in milliseconds: far above anything that a message is
#: held for.
CONSUMER_TIMEOUT_MS: Final = 6 * 3600 * 1000
#: The dead letter queue's arguments. Each look at a letter counts as a delivery, and RabbitMQ 4 drops what was
#: delivered more than 20 times unless it is told otherwise. Not -1: some releases of it write that into their log
#: every 5 s.
DEAD_ARGUMENTS: Final[dict[str, Any]] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 1_000_000_000,
    "x-consumer-timeout": CONSUMER_TIMEOUT_MS,
}

DEFAULT_PARTITIONS: Final = 8
MAX_PARTITIONS: Final = 256
DEFAULT_STORE: Final = "default"


def partition_of(store: str, key: str, partitions: int) -> int:
    """The partition of a key: ``crc32(store + "/" + key) mod partitions``, over UTF-8 (the CRC of zlib)."""
    return crc32(f"{store}/{key}".encode()) % partitions


def partition_queue(partition: int) -> str:
    """The queue behind a partition."""
    return f"{COMMANDS}.{partition}"


class Topology(BaseModel):
    """What all workers of one service share, kept in one document of the database.

    A worker whose settings differ from it does not start.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    partitions: int = Field(ge=1, le=MAX_PARTITIONS)
    epoch: int = Field(default=1, ge=1)
    min_protocol: int = PROTOCOL_VERSION
    max_protocol: int = PROTOCOL_VERSION
    stores: tuple[str, ...] = (DEFAULT_STORE,)
