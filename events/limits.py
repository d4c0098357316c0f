"""The sizes that every part of Holdfast agrees on. Bytes are bytes of UTF-8."""

from typing import Final

PROTOCOL_VERSION: Final = 1

MAX_KEY_BYTES: Final = 512
MAX_ID_BYTES: Final = 128
MAX_STORE_LENGTH: Final = 64

#: Characters of an etag that a command demands. Ours are shorter; a longer one could match nothing, and a conflict
#: tells it to its sender again.
MAX_ETAG_LENGTH: Final = 128

#: Levels of arrays and objects in a value. MongoDB promises a hundred levels and takes two hundred, so that the
#: event around the value still fits.
MAX_DEPTH: Final = 100

MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**63 - 1

#: Default for the largest value, in bytes of its compact JSON.
DEFAULT_MAX_VALUE_BYTES: Final = 1024 * 1024

#: The largest limit that can be configured. JSON grows at most sevenfold as BSON (an array of one-digit
#: numbers), so that a value within it always fits MongoDB's document limit of 16 MiB.
LARGEST_MAX_VALUE_BYTES: Final = 2 * 1024 * 1024

#: A message above this is refused unread: parsing it would hold up heartbeats.
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024

#: Commands in a message. Each takes an answer, and one that is wrong takes time, however short it is.
MAX_MESSAGE_COMMANDS: Final = 10_000

#: What our client puts into one message at most, unless a single value is larger.
CLIENT_MESSAGE_BYTES: Final = 256 * 1024

#: Replies are split into messages of about this size.
REPLY_MESSAGE_BYTES: Final = 1024 * 1024

#: Seconds that a value may be made to live: 68 years.
MAX_TTL_SECONDS: Final = 2**31 - 1
#: In the place of these seconds: the value stays, also in a store whose values live for a while unless they are told.
FOREVER: Final = -1

#: Operations of one JSON Patch, and numbers that one command increments.
MAX_PATCH_OPERATIONS: Final = 1000

MAX_METADATA_ENTRIES: Final = 32
MAX_METADATA_BYTES: Final = 4096

#: Operations of one transaction.
MAX_OPERATIONS: Final = 500

#: Messages that a write may carry, their bytes of compact JSON all together, and those of a routing key.
MAX_MESSAGES: Final = 16
MAX_MESSAGES_BYTES: Final = 256 * 1024
MAX_ROUTING_KEY_BYTES: Final = 255

#: Events on one page of a history, or keys on one page of a list.
MAX_PAGE: Final = 1000

#: Commands sent longer ago than this are refused: what would recognise a repeat may be gone by then.
FENCE_WINDOW_MS: Final = 7 * 24 * 3600 * 1000
