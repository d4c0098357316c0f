"""Histories: what clients called, when, and what they were told."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """How a call ended, from the caller's point of view."""

    OK = "ok"
    #: A typed conflict: certainly not applied, because of the state of the key.
    CONFLICT = "conflict"
    #: Certainly not applied, for another reason (unavailable, expired …).
    REFUSED = "refused"
    #: It may have been applied, or be applied later. Also: the client died before it returned.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call of one client on one key.

    Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
    """

    client: str
    #: The command id.
    id: str
    store: str = "default"
    key: str
    #: ``save``, ``delete`` or ``read``.
    op: str
    #: Of a save: small and unlike any other value of the run.
    value: Any = None
    #: The condition that was sent.
    etag: str | None = None
    concurrency: str = "last-write"
    consistency: str = "strong"
    invoked: int
    #: None: it never returned.
    returned: int | None
    outcome: Outcome
    #: What it was told, where it was told: of an ``ok`` and, as far as it says so, of a conflict.
    exists: bool | None = None
    version: int | None = None
    answer_etag: str | None = None
    answer_value: Any = None
    changed: bool | None = None
    #: Of what is not ``ok``: the error's class and code.
    error: str | None = None
