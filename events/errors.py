"""What can go wrong, by what the caller can do about it.

::

    HoldfastError
    ├── ConflictError          somebody else wrote first: read again, decide again
    ├── InvalidError           the command itself is wrong: mend it (also a ValueError)
    │   ├── TooLargeError      the value is over the configured limit
    │   ├── IdReusedError      the command id was used before, for something else
    │   ├── SeveralStoresError a transaction names several stores
    │   └── UnsupportedError   the store does not offer what the command needs: for good
    ├── ErasedError            the value of that version was erased, by retention or a purge (also a LookupError)
    ├── UnknownStoreError      no store of that name is configured: for good
    ├── DeniedError            not allowed for this user
    ├── Unavailable            certainly not applied: try again later
    │   └── ExpiredError       the deadline had passed before the command was applied
    ├── OutcomeUnknown         may have been applied: ask again with the same id (also a TimeoutError)
    ├── RemoteError            the worker failed in a way that this client has no type for
    ├── NotReadError           the handle's state was used before it was read (also a RuntimeError)
    ├── AbsentError            the key is absent and the handle has no default (also a LookupError)
    ├── ActivationError        an entity's state could not be loaded: the cause says why
    ├── SchemaError            a stored value fits no version that this program knows (also a ValueError)
    ├── EncryptionError        a stored value cannot be opened: another key, or it was tampered with
    ├── ClosedError            the client or the store was closed by its owner (also a RuntimeError)
    └── StoreError             raised by stores, seen by workers and operators
        ├── StoreUnavailable   the database cannot be reached; nothing was written by this call
        └── StoreConfigError   the database is reachable but unfit; the message says what to change
"""

from typing import Any


class HoldfastError(Exception):
    """Root of everything that Holdfast raises on purpose."""


_NOTHING_TO_RESTORE = {
    "no_value": "there is no such version, or it has no value, so that none can be restored",
    "stripped": "the value of that version was erased, so that it cannot be restored",
}


class ConflictError(HoldfastError):
    """The key is not in the state that the command demanded. Nothing was changed.

    :ivar key: the key in question.
    :ivar expected: the etag that the command carried; None for a first-write save.
    :ivar actual: the etag of the current state; None if the key is absent.
    :ivar version: the version of the key's newest event, 0 if it never had one.
    :ivar winner: the id of the command that made the current state, if known.
    :ivar current: the current value, if the command asked for it and the key is there.
    :ivar current_known: whether ``current`` tells the state that was found: without it None is no value, but means
        that it was not asked for, or that the user may not read it.
    :ivar code: ``etag_mismatch``, ``exists``, ``absent`` or ``newer``; of a patch also ``test_failed`` or
        ``unpatchable``; ``no_value`` or ``stripped`` if there is nothing to restore; ``hidden`` if this user may not
        read the key, and so is told none of the above.
    :ivar field: of a patch that does not fit the value, the place in it, as in ``patch[2]``.
    :ivar operation: of a transaction: which of its operations met the conflict, counted from 0; None for a command on
        one key. ``key`` and everything else is of this operation.
    """

    def __init__(
        self,
        key: str,
        *,
        expected: str | None,
        actual: str | None,
        version: int = 0,
        winner: str | None = None,
        current: Any = None,
        current_known: bool = False,
        code: str = "etag_mismatch",
        operation: int | None = None,
        field: str | None = None,
        reason: str | None = None,
    ) -> None:
        self.key = key
        self.operation = operation
        self.expected = expected
        self.actual = actual
        self.version = version
        self.winner = winner
        self.current = current
        self.current_known = current_known
        self.code = code
        self.field = field
        if code in ("test_failed", "unpatchable"):
            super().__init__(f"{key!r}: {code}, {field}: {reason}" if field else f"{key!r}: {code}: {reason}")
            return
        wanted = "absent" if expected is None else f"at etag {expected!r}"
        if expected is None and code == "absent":
            wanted = "present"
        found = "absent" if actual is None else f"at etag {actual!r}"
        if code == "hidden":
            found = "another state, which this user may not know"
        place = f"{key!r}" if operation is None else f"operation {operation}, {key!r}"
        message = _NOTHING_TO_RESTORE.get(code, f"expected {wanted}, found {found}")
        super().__init__(f"{place}: {message}")


class InvalidError(HoldfastError, ValueError):
    """The command breaks a rule of the protocol. Nothing was changed.

    :ivar code: a stable word for the rule, see docs/protocol.md.
    :ivar field: the field in question, such as ``value.items[3]``; None if it is the whole.
    """

    def __init__(self, message: str, *, code: str = "invalid", field: str | None = None) -> None:
        self.code = code
        self.field = field
        super().__init__(f"{field}: {message}" if field else message)


class TooLargeError(InvalidError):
    """The value or the message is over the limit."""

    def __init__(self, message: str, *, code: str = "too_large", field: str | None = None) -> None:
        super().__init__(message, code=code, field=field)


class IdReusedError(InvalidError):
    """The command id belongs to an earlier command of other content or of another author."""

    def __init__(self, message: str, *, code: str = "id_reused", field: str | None = "id") -> None:
        super().__init__(message, code=code, field=field)


class SeveralStoresError(InvalidError):
    """A transaction names more than one store. Events of two stores cannot be committed in one step."""

    def __init__(self, message: str, *, code: str = "several_stores", field: str | None = None) -> None:
        super().__init__(message, code=code, field=field)


class UnsupportedError(InvalidError):
    """The store is of a type that does not offer what the command needs. Nothing was changed."""

    def __init__(self, message: str, *, code: str = "unsupported", field: str | None = None) -> None:
        super().__init__(message, code=code, field=field)


class ErasedError(HoldfastError, LookupError):
    """There was a value, and it was erased for good: by retention, or by a purge."""


class UnknownStoreError(HoldfastError):
    """No worker has a store of that name."""


class DeniedError(HoldfastError):
    """The user may not do that."""


class Unavailable(HoldfastError):  # noqa: N818 - an outcome, named beside OutcomeUnknown
    """The command was certainly not applied. It may be tried again."""


class ExpiredError(Unavailable, TimeoutError):
    """The command reached a worker after its deadline and was not applied."""


class OutcomeUnknown(HoldfastError, TimeoutError):  # noqa: N818 - it need not have failed
    """No answer came in time. The command may have been applied, or may still be, until its deadline passes.

    :ivar id: the command id. Sending the same command under it again is safe and gives the answer.
    """

    def __init__(self, message: str, *, id: str | None = None) -> None:  # noqa: A002 - the protocol's word
        self.id = id
        super().__init__(message)


class RemoteError(HoldfastError):
    """A worker answered with a status or code that this client has no type for."""

    def __init__(self, message: str, *, code: str = "internal") -> None:
        self.code = code
        super().__init__(message)


class NotReadError(HoldfastError, RuntimeError):
    """A handle's state was asked for before it was read."""


class AbsentError(HoldfastError, LookupError):
    """A handle's value was asked for, but its key is absent, and the handle has no default."""


class ActivationError(HoldfastError):
    """An entity was not activated, because one of its states could not be loaded. ``__cause__`` says why.

    :ivar state: what the state is called in its class.
    """

    def __init__(self, message: str, *, state: str) -> None:
        self.state = state
        super().__init__(message)


class SchemaError(HoldfastError, ValueError):
    """A stored value is of a version that this program cannot read, or does not fit the one it claims to be of."""


class EncryptionError(HoldfastError):
    """A stored value cannot be opened: its key is not here, it is not sealed, or it is not what was sealed for this
    store, key and command.
    """


class ClosedError(HoldfastError, RuntimeError):
    """Used after it was closed, or before it was opened."""


class StoreError(HoldfastError):
    """A store could not do what was asked of it."""


class StoreUnavailable(StoreError):  # noqa: N818 - pairs with Unavailable
    """The database cannot be reached or has no primary. For reads and for what precedes a write."""


class StoreConfigError(StoreError):
    """The database answers, but cannot be used as it is. The message says what to change."""
