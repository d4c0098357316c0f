"""The messages: commands, replies and events, their wire form, errors and names on the broker.

Nothing in here does I/O, and nothing in here imports another part of Holdfast.
"""

from .codec import BadCommand, Decoded, decode_commands, decode_replies, encode
from .commands import (
    Command,
    Concurrency,
    Consistency,
    DeleteCommand,
    DescribeCommand,
    HistoryCommand,
    KeyCommand,
    Mutation,
    ReadCommand,
    SaveCommand,
    check_id,
    check_key,
)
from .errors import (
    AbsentError,
    ClosedError,
    ConflictError,
    DeniedError,
    ExpiredError,
    HoldfastError,
    IdReusedError,
    InvalidError,
    NotReadError,
    OutcomeUnknown,
    RemoteError,
    StoreConfigError,
    StoreError,
    StoreUnavailable,
    TooLargeError,
    Unavailable,
    UnknownStoreError,
    UnsupportedError,
)
from .etags import make_etag
from .records import Event, Record, Refusal, digest_of
from .replies import ErrorInfo, HistoryEntry, Reply, Status
from .topology import Topology, partition_of, partition_queue
from .urls import mask_url
from .values import check_value

__all__ = [
    "AbsentError",
    "BadCommand",
    "ClosedError",
    "Command",
    "Concurrency",
    "ConflictError",
    "Consistency",
    "Decoded",
    "DeleteCommand",
    "DeniedError",
    "DescribeCommand",
    "ErrorInfo",
    "Event",
    "ExpiredError",
    "HistoryCommand",
    "HistoryEntry",
    "HoldfastError",
    "IdReusedError",
    "InvalidError",
    "KeyCommand",
    "Mutation",
    "NotReadError",
    "OutcomeUnknown",
    "ReadCommand",
    "Record",
    "Refusal",
    "RemoteError",
    "Reply",
    "SaveCommand",
    "Status",
    "StoreConfigError",
    "StoreError",
    "StoreUnavailable",
    "TooLargeError",
    "Topology",
    "Unavailable",
    "UnknownStoreError",
    "UnsupportedError",
    "check_id",
    "check_key",
    "check_value",
    "decode_commands",
    "decode_replies",
    "digest_of",
    "encode",
    "make_etag",
    "mask_url",
    "partition_of",
    "partition_queue",
]
