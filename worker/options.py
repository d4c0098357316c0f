"""What an operator can set for a worker. The front door fills it from the environment, see holdfast/settings.py."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..events.limits import DEFAULT_MAX_VALUE_BYTES
from ..events.topology import DEFAULT_PARTITIONS, DEFAULT_STORE
from ..stores import RetentionConfig
from .access import OPEN, AccessConfig
from .feed import FEEDS, NO_OUTBOX, FeedsConfig, OutboxConfig


def _default_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Settings of one worker process."""

    #: AMQP URL of the broker, with user, password and virtual host; or those of the nodes of a cluster, separated by
    #: commas or white space.
    amqp_url: str = field(repr=False)
    #: Tells workers apart; partitions are spread by it.
    name: str = field(default_factory=_default_name)
    #: Queues of commands. Shared by all workers of a service: a worker that differs does not start.
    partitions: int = DEFAULT_PARTITIONS
    #: Messages in hand for each partition. A message of our client holds up to some hundred commands.
    prefetch: int = 32
    #: Seconds of a heartbeat: a worker that is frozen or cut off is replaced within two of them.
    heartbeat: int = 6
    #: Seconds for which a store may be away until the worker lets go of its partitions.
    store_patience: float = 5.0
    #: Seconds that a worker takes at most to finish what is in hand when it is asked to stop.
    drain_timeout: float = 25.0
    #: The largest value, in bytes of compact JSON.
    max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES
    #: Memory for the newest versions of keys, in bytes.
    head_cache_bytes: int = 192 * 1024 * 1024
    #: Memory for values, in bytes.
    value_cache_bytes: int = 64 * 1024 * 1024
    #: Messages that a partition's queue holds at most; beyond it publishers get a negative confirm.
    queue_max_length: int = 1_000_000
    #: Deliveries after which the broker itself takes a message for poison.
    delivery_limit: int = 100
    #: Stores in which queries that no index serves are refused.
    without_scans: frozenset[str] = frozenset()
    #: By store, what of the past is kept; of stores that are not here, everything.
    retention: Mapping[str, RetentionConfig] = field(default_factory=dict)
    #: By store, seconds that values live which are not told how long; in stores that are not here they stay.
    lifetimes: Mapping[str, int] = field(default_factory=dict)
    #: Seconds between two looks for keys that have expired, about.
    sweep_interval: float = 1.0
    #: Who may do what.
    access: AccessConfig = OPEN
    #: Names of the stores, whose streams are declared.
    stores: tuple[str, ...] = (DEFAULT_STORE,)
    #: What becomes of the stores' events.
    feed: FeedsConfig = FEEDS
    #: Where messages that writes carry may be published.
    outbox: OutboxConfig = NO_OUTBOX
    #: Written every second while the worker is ready; None writes nothing.
    health_file: Path | None = None
