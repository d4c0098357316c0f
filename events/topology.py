"""Names on the broker, and which partition a key belongs to. Part of the public protocol."""

from typing import Final
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field

from .limits import PROTOCOL_VERSION

#: Direct exchange for commands; the routing key is the partition's number.
COMMANDS: Final = "holdfast.commands"
#: Its alternate exchange: takes every other routing key.
INGRESS: Final = "holdfast.ingress"
#: Quorum queue of what could not be processed, with the reason in the headers.
DEAD: Final = "holdfast.dead"
#: Queues whose name starts like this are Holdfast's own and never a reply address.
RESERVED_PREFIX: Final = "holdfast."

#: Marks a message that a worker has forwarded once; where it lands, it is processed.
HOP_HEADER: Final = "x-holdfast-hop"
#: Why a message is in the dead letter queue: a code and a sentence.
REASON_HEADER: Final = "x-holdfast-reason"
DETAIL_HEADER: Final = "x-holdfast-detail"

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
