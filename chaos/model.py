"""The sequential model: what a command does to a key, and what it is told, if nothing else happens at that moment.

Plain functions of their arguments. They say again what the product's ``decide`` says, from the table in
docs/protocol.md and not from its code, and they are all that the checker takes for true.
"""

from typing import NamedTuple, Protocol

from holdfast.events import make_etag

from .history import Outcome


class State(NamedTuple):
    """A key at one moment. It is there if it has an etag."""

    version: int
    etag: str | None
    #: As canonical JSON; None if the key is absent.
    value: bytes | None


#: A key that never had an event.
NEVER = State(0, None, None)


class Answer(NamedTuple):
    """The one answer that is right. Of a conflict: the state that was met."""

    outcome: Outcome
    exists: bool
    version: int
    etag: str | None
    value: bytes | None
    #: Whether there is a new version; None for what is no write.
    changed: bool | None


class Asked(Protocol):
    """What was asked for: as much of a command as decides what it does."""

    @property
    def id(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def value(self) -> bytes: ...
    @property
    def etag(self) -> str | None: ...
    @property
    def concurrency(self) -> str: ...
    @property
    def demands(self) -> bool | None: ...


def apply(state: State, asked: Asked) -> tuple[Answer, State]:
    """What happens: the answer, and the state from then on.

    :raises ValueError: if ``op`` is none that the model knows.
    """
    version, etag, value = state
    exists = etag is not None
    if asked.op == "read":
        return Answer(Outcome.OK, exists, version, etag, value, None), state
    if asked.op not in ("save", "delete", "check"):
        raise ValueError(f"the model knows no {asked.op!r}")
    if asked.etag is not None:
        # A key that is absent has no etag, so that nothing matches it.
        holds = exists and asked.etag == etag
    elif asked.op == "check":
        holds = asked.demands is exists
    elif asked.op == "save":
        holds = asked.concurrency == "last-write" or not exists
    else:
        holds = True
    if not holds:
        return Answer(Outcome.CONFLICT, exists, version, etag, value, None), state
    if asked.op == "check":
        return Answer(Outcome.OK, exists, version, etag, value, None), state
    if asked.op == "delete" and not exists:
        return Answer(Outcome.OK, False, version, None, None, False), state
    after = State(version + 1, None, None)
    if asked.op == "save":
        after = State(version + 1, make_etag(version + 1, asked.id), asked.value)
    return Answer(Outcome.OK, asked.op == "save", *after, True), after
