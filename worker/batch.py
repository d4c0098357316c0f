"""A batch: commands on their way through the engine, in the order in which the queues gave them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..events import Event, Mutation, PatchCommand, ReadCommand, Receipt, TransactCommand
from .decide import Answer

#: Reads are worth nothing to fold, and a transaction is in no batch but its own.
_NOT_FOLDED = (ReadCommand, TransactCommand)

KeyOperation = Mutation | TransactCommand | ReadCommand


@dataclass(slots=True, eq=False)
class Request:
    """One command with what the delivery tells about it. ``answer`` is set once, when it is final."""

    command: KeyOperation
    #: The broker's validated user-id.
    author: str | None = None
    #: Of writes; empty for reads.
    digest: bytes = b""
    #: Bytes of the value's JSON, to bound batches by.
    size: int = 0
    #: The broker has delivered it before, so that its id may stand in the log.
    redelivered: bool = False
    #: Came back so often that something in its company may be killing workers: it is handled alone.
    suspect: bool = False
    #: Came back often: it is handled in the company of its own message only.
    apart: bool = False
    #: Its sender may not read the key, and is told no more of the state than a write cannot help telling.
    blind: bool = False
    #: Of a transaction: all its keys. It is applied beside the batches. Empty for everything else.
    keys: tuple[str, ...] = ()
    #: Of a transaction: those of its operations whose keys the sender may not read; it is ``blind`` if there are any.
    hidden: frozenset[int] = frozenset()
    #: A read that only looks whether the key has expired: nobody asked for it, and it is told nothing.
    sweep: bool = False
    #: Whatever the caller needs to send the answer on.
    origin: Any = None
    answer: Answer | None = None
    #: What it has put into the log, by this delivery or an earlier one: to be told to others before it is acknowledged.
    events: Sequence[Event] = ()
    #: Likewise, of a transaction that carries messages: its receipt has them.
    receipt: Receipt | None = None
    #: Bytes of the values in the answer.
    answer_size: int = 0


@dataclass(slots=True)
class Batch:
    """What one round of the group commit works on.

    ``pending`` is what has no final answer yet. ``uncertain`` says that ids of pending writes may be in the log
    already, so that they are looked up before anything is decided. A batch whose round failed can be applied
    again: it goes on where it was.
    """

    pending: list[Request]
    uncertain: bool = False
    #: Whether that ever was so: an earlier attempt may have come true, or may yet.
    doubtful: bool = False
    #: Pending requests whose keys are blocked by somebody's open transaction, by key. They are nobody's any more.
    parked: dict[str, list[Request]] = field(default_factory=dict)
    #: When the store was last known not to be away, on the loop's clock, as far as patience with it goes …
    heard: float = 0.0
    #: … and how long that lasts, in seconds.
    patience: float = 0.0
    #: Of an attempt that may not take longer.
    limit: asyncio.Timeout | None = None
    #: What has its final answer, in order, until somebody takes it.
    answered: list[Request] = field(default_factory=list)
    #: Keys that a read found to have expired, without an event that says so.
    lapsed: set[str] = field(default_factory=set)
    #: Called on the way, when the values in the answers become many bytes. Who takes them off then bounds the memory.
    release: Callable[["Batch"], Awaitable[None]] | None = None
    _repeats: dict[Request, list[Request]] = field(default_factory=dict)

    @classmethod
    def of(cls, requests: list[Request]) -> "Batch":
        """Fold deliveries of one command into one: the second shares the answer of the first.

        Without that, a client's retry that meets the original in one batch would get a conflict for its own
        success. Different commands under one id are not folded: the log tells which of them the id belongs to.
        """
        first: dict[str, Request] = {}
        repeats: dict[Request, list[Request]] = {}
        pending: list[Request] = []
        for request in requests:
            command = request.command
            if type(command) is ReadCommand:
                pending.append(request)
                continue
            original = first.setdefault(command.id, request)
            if original is not request and same_command(original, request):
                repeats.setdefault(original, []).append(request)
                original.redelivered = original.redelivered or request.redelivered
            else:
                pending.append(request)
        return cls(pending, _repeats=repeats)

    def settle(self) -> None:
        """Move what has its final answer from ``pending`` to ``answered``, and with it folded repeats."""
        answered = self.answered
        for request in self.pending:
            if request.answer is None:
                continue
            answered.append(request)
            if self._repeats:
                for repeat in self._repeats.pop(request, ()):
                    repeat.answer = request.answer
                    answered.append(repeat)
        self.pending = [request for request in self.pending if request.answer is None]

    async def let_go(self) -> None:
        """Let whoever takes answers off take those that are final."""
        self.settle()
        if self.release is not None:
            await self.release(self)

    def take(self) -> list[Request]:
        """Take off what has its final answer."""
        answered, self.answered = self.answered, []
        return answered

    def hear(self) -> None:
        """The store has just answered, so that patience with it begins anew."""
        self.heard = asyncio.get_running_loop().time()
        if self.limit is not None:
            self.limit.reschedule(self.heard + self.patience)

    def park(self, key: str) -> None:
        """Set all that is pending on a key aside, in order, so that the rest can go on."""
        self.parked[key] = [request for request in self.pending if request.command.key == key]
        self.pending = [request for request in self.pending if request.command.key != key]

    def take_parked(self) -> dict[str, "Batch"]:
        """Take off what was set aside: a batch for each key."""
        parked, self.parked = self.parked, {}
        return {key: self._of_these(requests, uncertain=True) for key, requests in parked.items()}

    def members(self) -> list[Request]:
        """What is pending, with the repeats that are folded into it."""
        return [each for request in self.pending for each in (request, *self._repeats.get(request, ()))]

    def split(self) -> list["Batch"]:
        """A batch for each pending request, to find the one that cannot be processed."""
        return [self._of_these([request], uncertain=self.uncertain) for request in self.pending]

    def _of_these(self, requests: list[Request], *, uncertain: bool) -> "Batch":
        repeats = self._repeats
        return Batch(
            requests,
            uncertain=uncertain,
            doubtful=self.doubtful,
            release=self.release,
            _repeats={request: repeats[request] for request in requests if request in repeats},
        )


def same_command(one: Request, other: Request) -> bool:
    """Whether two requests under one id are deliveries of one command, and ask for the same answer."""
    if isinstance(one.command, _NOT_FOLDED) or isinstance(other.command, _NOT_FOLDED):
        return False
    return (
        one.command.key == other.command.key
        and one.command.op == other.command.op
        and one.author == other.author
        and one.digest == other.digest
        and one.command.return_current == other.command.return_current
        and one.command.max_version == other.command.max_version
        and wants_value(one.command) == wants_value(other.command)
    )


def wants_value(command: KeyOperation) -> bool:
    """Whether a write is to be answered with the value that came of it."""
    return type(command) is PatchCommand and command.return_value


def is_write(command: KeyOperation) -> bool:
    """Whether a command may change its key."""
    return type(command) is not ReadCommand
