"""Calls: commands on their way, and what their replies mean to the caller. Plain functions and data, no I/O."""

import asyncio
from dataclasses import dataclass
from typing import Any

from ..events import (
    ClosedError,
    ConflictError,
    DeniedError,
    ErasedError,
    ExpiredError,
    HoldfastError,
    IdReusedError,
    InvalidError,
    OutcomeUnknown,
    RemoteError,
    Reply,
    SeveralStoresError,
    TooLargeError,
    Unavailable,
    UnknownStoreError,
    UnsupportedError,
)
from .deadlines import Line

Wire = dict[str, Any]


class UnansweredError(ExpiredError):
    """Nobody answered in time. Unlike a worker's ``expired`` it says nothing of earlier attempts under the same id."""


@dataclass(slots=True, eq=False)
class Call:
    """One command, from the moment it is made until its reply."""

    id: str
    store: str
    key: str
    #: The command as JSON. It stays the same over all attempts.
    body: bytes
    #: Whether the service's state may change by it.
    mutates: bool
    reply: asyncio.Future[Reply]
    #: How often it was handed to the connection.
    attempts: int = 0
    #: When it was first and when it was last sent, on the loop's clock.
    first_sent_at: float = 0.0
    sent_at: float = 0.0
    #: It waits in a lane, and must not be put into another message too.
    queued: bool = False
    #: The broker has it, with the present reply address: its answer will come.
    confirmed: bool = False
    #: Of those that have the same timeout.
    line: Line | None = None

    def give_up(self, timeout: float) -> None:
        """End the call for lack of an answer, honestly about what that means."""
        if self.attempts == 0:
            self._fail(UnansweredError(f"not sent within {timeout:g} s: there was no connection, or too slow a one"))
        elif self.mutates:
            told = f"no answer within {timeout:g} s: the command may have been applied"
            self._fail(OutcomeUnknown(f"{told}. Send it again under the same id.", id=self.id))
        else:
            self._fail(UnansweredError(f"no answer within {timeout:g} s: is a worker running?"))

    def refuse(self, reason: str) -> None:
        """End the call because the broker refused the message."""
        if self.attempts <= 1 or not self.mutates:
            self._fail(Unavailable(reason))
        else:
            self._fail(OutcomeUnknown(f"{reason}; an earlier attempt may be on its way", id=self.id))

    def deny(self, reason: str) -> None:
        """End the call because the broker does not let this user publish."""
        self._fail(DeniedError(reason))

    def abandon(self) -> None:
        """End the call because its client is being closed."""
        if self.attempts and self.mutates:
            self._fail(OutcomeUnknown("the client was closed before the answer came", id=self.id))
        else:
            self._fail(ClosedError("the client was closed before the answer came"))

    def _fail(self, error: HoldfastError) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


def to_error(reply: Reply, call: Call) -> HoldfastError:
    """The exception for a reply that is not ok."""
    info = reply.error
    code = info.code if info else reply.status
    message = info.message if info else f"status {reply.status}"
    field = info.field if info else None
    match reply.status:
        case "conflict" if info is not None:
            return ConflictError(
                call.key if info.key is None else info.key,
                expected=info.expected,
                actual=info.actual,
                version=reply.version or 0,
                winner=info.winner,
                current=info.current,
                # Of a key that is absent there is nothing more to tell.
                current_known="current" in info.model_fields_set or reply.exists is False,
                code=code,
                operation=info.operation,
                field=field,
                reason=message,
            )
        case "invalid" if code == "several_stores":
            return SeveralStoresError(_without(field, message), field=field)
        case "invalid" if code == "id_reused":
            return IdReusedError(message)
        case "invalid" if code == "unsupported":
            return UnsupportedError(message)
        case "invalid" if code == "stripped":
            return ErasedError(f"{call.key!r}: {message}")
        case "invalid":
            return InvalidError(_without(field, message), code=code, field=field)
        case "too_large":
            return TooLargeError(_without(field, message), code=code, field=field)
        case "unknown_store":
            return UnknownStoreError(message)
        case "denied":
            return DeniedError(message)
        case "expired":
            return ExpiredError(message)
        case "unavailable" if call.mutates and call.attempts > 1:
            # It speaks of one attempt. Another one may have been applied, or may yet be.
            return OutcomeUnknown(f"{message}; another attempt may have been applied", id=call.id)
        case "unavailable":
            return Unavailable(message)
        case "unknown":
            return OutcomeUnknown(message, id=call.id)
        case _:
            return RemoteError(message, code=code)


def _without(field: str | None, message: str) -> str:
    # The error puts the field in front of its message; the worker's error did so already.
    return message.removeprefix(f"{field}: ") if field else message
