"""Replaying: the commands of dead letters are sent again under their own ids, and letters that are done are removed.

A letter is removed only after the answers to all its commands. Whoever is cut off before leaves a letter whose commands
may have been applied: replayed once more they get the same answers.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from ..events import (
    BadCommand,
    Command,
    DeleteOperation,
    DescribeCommand,
    HoldfastError,
    InvalidError,
    KeysCommand,
    Mutation,
    Operation,
    OutcomeUnknown,
    PatchCommand,
    QueryCommand,
    Reply,
    SaveCommand,
    SaveOperation,
    TransactCommand,
    Unavailable,
    WatchCommand,
    decode_commands,
)
from ..events.limits import FENCE_WINDOW_MS
from ..worker.publisher import REFUSED_REASON
from .letter import NOTHING, DeadLetter, Entry, entry_of
from .queue import DeadLetterQueue
from .selection import Filter, Named
from .sender import NotInTheirNameError

#: Statuses of our own, beside those of replies: it was not sent.
REFUSED = "refused"
#: The key has moved on since, and the command would undo that.
NEWER = "newer"

#: Why a command is not sent behind one without an answer.
WAITS = "not sent, because the one before it on this key has no answer yet"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one command of a letter."""

    letter: str
    id: str | None
    op: str | None
    store: str | None
    key: str | None
    #: A reply's status; or ``refused``, if it was not sent; or ``newer``, if it would undo what came later.
    status: str
    note: str

    @property
    def ok(self) -> bool:
        """Whether it is done, so that the letter need not be kept for it."""
        return self.status == "ok"


@dataclass(frozen=True, slots=True)
class Step:
    """One command that is to be sent."""

    letter: DeadLetter
    command: Command
    #: As it goes out.
    wire: dict[str, Any]
    #: When it was sent first, as far as that is known; the order in which commands on one key are sent again.
    order: int

    @property
    def place(self) -> tuple[str, str]:
        """Whose turn it waits for."""
        if isinstance(self.command, DescribeCommand | WatchCommand):
            return "", ""
        if isinstance(self.command, QueryCommand | KeysCommand):
            # About no key in particular, and nothing that others would have to wait for.
            return self.command.store, ""
        return self.command.store, self.command.key

    def outcome(self, status: str, note: str) -> Outcome:
        """What became of it."""
        store, key = self.place
        return Outcome(self.letter.id, self.command.id, self.command.op, store or None, key or None, status, note)


@dataclass(frozen=True, slots=True)
class KeyState:
    """What a replay has to know of a key."""

    #: Of its newest event; 0 if it never had one.
    version: int
    #: Service time of that event; None if nobody could tell.
    time: int | None


@dataclass(frozen=True, slots=True)
class Made:
    """An event that this replay has made itself: no reason to refuse what was sent after its command."""

    version: int
    order: int


def prepare(letter: DeadLetter, *, now: int, force: bool, as_me: bool) -> list[Step | Outcome]:
    """What to do about each command of a letter.

    The deadline is dropped: it belonged to a caller who has left long ago, and it is no part of what an id stands for.

    :param now: service time in milliseconds.
    :param force: send what has no id, and what is of unknown age.
    :param as_me: it will not be sent in its author's name.
    """

    def refused(note: str, entry: Entry | None = None) -> Outcome:
        told = entry or next(iter(letter.entries), NOTHING)
        return Outcome(letter.id, told.id, told.op, told.store, told.key, REFUSED, note)

    if not letter.readable and not as_me:
        return [
            refused("nobody knows who sent it, as its properties cannot be read; --as-me sends it in your own name")
        ]
    # Always the same, so that a replay which is cut off and begun again applies it once.
    made_up = f"dead-letter/{letter.id}"
    try:
        decoded = decode_commands(letter.body, message_id=letter.message_id or made_up)
    except InvalidError as fault:
        return [refused(f"{fault.code}: {fault}")]
    if not decoded.commands:
        return [refused("there is no command in it")]
    prepared: list[Step | Outcome] = []
    for command in decoded.commands:
        if isinstance(command, BadCommand):
            entry = entry_of(command.raw) if isinstance(command.raw, dict) else NOTHING
            prepared.append(refused(f"{command.error.code}: {command.error}", entry))
            continue
        wire = command.model_dump(exclude_unset=True, exclude={"deadline"})
        wire["id"] = command.id
        step = Step(letter, command, wire, order=command.sent_at or letter.time or 0)
        prepared.append(_objection(step, now=now, force=force, made_up=made_up) or step)
    return prepared


def _objection(step: Step, *, now: int, force: bool, made_up: str) -> Outcome | None:
    command, letter = step.command, step.letter
    if not isinstance(command, Mutation | TransactCommand):
        return None
    if command.sent_at is not None and now - command.sent_at > FENCE_WINDOW_MS:
        told = (
            "sent more than 7 days ago, so that nobody can tell any more whether it was applied: it can never be sent"
        )
        return step.outcome("expired", f"{told} again under this id. Save what is still wanted as a new command")
    if command.sent_at is None and not force and (letter.time is None or now - letter.time > FENCE_WINDOW_MS):
        return step.outcome(
            REFUSED, "nobody knows whether it is younger than 7 days, and so was not applied before; --force sends it"
        )
    if command.id == made_up and not force:
        return step.outcome(REFUSED, "it has no id: if it was applied before, it is applied twice; --force sends it")
    # One whose messages were refused is applied, and finds itself in the log.
    applied = letter.reason == REFUSED_REASON
    unconditional = isinstance(command, TransactCommand) and any(map(_is_unconditional, command.operations))
    if unconditional and not applied and not force:
        return step.outcome(
            REFUSED,
            "it is a transaction that writes without a condition, and may overwrite what is newer; --force sends it",
        )
    return None


def _is_unconditional(operation: Operation) -> bool:
    if isinstance(operation, SaveOperation):
        return operation.etag is None and operation.concurrency == "last-write"
    return isinstance(operation, DeleteOperation) and operation.etag is None


def needs_guard(command: Command) -> bool:
    """Whether it would overwrite whatever is there."""
    if isinstance(command, SaveCommand):
        return command.etag is None and command.concurrency == "last-write"
    if isinstance(command, PatchCommand) and command.kind == "increment":
        # It adds to whatever is there.
        return False
    return isinstance(command, Mutation) and command.etag is None


def latest_to_follow(step: Step, state: KeyState, made: Made | None) -> int:
    """The version that a command may follow at most; with 0 it can only be found to have been applied before.

    It may follow what was there when it was sent, and what was sent before it and is replayed with it. Of a command
    that does not say when it was sent nobody knows what was there.
    """
    if made is not None and made.version == state.version and made.order <= step.order:
        return state.version
    sent = step.command.sent_at
    if sent is not None and state.time is not None and state.time < sent:
        return state.version
    return 0


class Asking(Protocol):
    """What a replay needs of a sender."""

    user: str

    def now(self) -> int:
        """Service time, in milliseconds."""

    async def ask(self, command: dict[str, Any], *, author: str | None, letter: str | None = None) -> Reply:
        """Send a command, and wait for its answer."""


class Replayer:
    """Replays letters, those on one key one after the other, in the order in which they were sent."""

    def __init__(self, sender: Asking, *, force: bool = False, as_me: bool = False) -> None:
        """Make a replayer.

        :param force: overwrite what is newer, send what has no id, and what is of unknown age.
        :param as_me: send in this user's own name.
        """
        self._sender = sender
        self._force = force
        self._as_me = as_me
        self._made: dict[tuple[str, str], Made] = {}

    async def replay(self, letters: Iterable[DeadLetter], *, told: Callable[[Outcome], None]) -> list[bool]:
        """Replay some letters.

        :param told: called with what became of each command, as soon as it is known.
        :returns: for each letter whether all of it is done, so that it has to be removed.
        """
        chains: dict[tuple[str, str], list[tuple[int, Step]]] = {}
        done: list[bool] = []

        def tell(number: int, outcome: Outcome) -> None:
            done[number] = done[number] and outcome.ok
            told(outcome)

        for number, letter in enumerate(letters):
            done.append(True)
            for item in prepare(letter, now=self._sender.now(), force=self._force, as_me=self._as_me):
                if isinstance(item, Outcome):
                    tell(number, item)
                else:
                    chains.setdefault(item.place, []).append((number, item))

        async def run(chain: list[tuple[int, Step]]) -> None:
            lost = False
            for number, step in sorted(chain, key=lambda numbered: numbered[1].order):
                # Behind one that may still be on its way: it must not be overtaken.
                outcome = step.outcome(REFUSED, WAITS) if lost else await self._take(step)
                lost = lost or outcome.status == "unknown"
                tell(number, outcome)

        async with asyncio.TaskGroup() as group:
            for chain in chains.values():
                group.create_task(run(chain))
        return done

    async def _take(self, step: Step) -> Outcome:
        try:
            return await self._send(step)
        except NotInTheirNameError as fault:
            return step.outcome(
                REFUSED, f"{fault}. Give it the tag `impersonator`, or send it in your own name with --as-me"
            )
        except Unavailable as fault:
            return step.outcome("unavailable", str(fault))
        except OutcomeUnknown as fault:
            return step.outcome("unknown", f"{fault}: it may have been applied. Replay it again to know")
        except HoldfastError as fault:
            return step.outcome(REFUSED, str(fault))

    async def _send(self, step: Step) -> Outcome:
        wire, guarded = step.wire, False
        if needs_guard(step.command) and not self._force:
            state = await self._state_of(step)
            if isinstance(state, Reply):
                told = state.error.message if state.error else ""
                return step.outcome(state.status, f"what is there now cannot be read: {told}")
            limit = latest_to_follow(step, state, self._made.get(step.place))
            own = wire.get("max_version")
            wire = {**wire, "max_version": limit if own is None else min(limit, own)}
            guarded = True
        author = self._sender.user if self._as_me else step.letter.author
        reply = await self._sender.ask(wire, author=author, letter=step.letter.id)
        error = reply.error
        if reply.status == "ok":
            if reply.changed and reply.version:
                self._made[step.place] = Made(reply.version, step.order)
            return step.outcome("ok", _success(reply.version, reply.changed))
        note = f"{error.code}: {error.message}" if error is not None else ""
        if guarded and reply.status == "conflict" and error is not None and error.code in ("newer", "hidden"):
            return step.outcome(NEWER, _what_is_newer(step, reply))
        return step.outcome(reply.status, note)

    async def _state_of(self, step: Step) -> KeyState | Reply:
        """The key's newest event, by a strong read; or the reply that does not tell it."""
        sender = self._sender
        store, key = step.place
        about = {"v": 1, "store": store, "key": key}
        reply = await sender.ask({**about, "id": "state", "op": "read"}, author=sender.user)
        if reply.status != "ok" or reply.version is None:
            return reply
        if reply.exists or reply.version == 0:
            return KeyState(reply.version, reply.updated_at)
        # A read does not tell when a key was deleted.
        command = {**about, "id": "deleted", "op": "history", "after_version": reply.version - 1, "limit": 1}
        history = await sender.ask(command, author=sender.user)
        event = next(iter(history.events or ()), None)
        return KeyState(reply.version, event.time if event is not None and event.version == reply.version else None)


async def replay_letters(
    queue: DeadLetterQueue, replayer: Replayer, wanted: Filter | Named, *, told: Callable[[Outcome], None]
) -> None:
    """Replay the letters that are meant, and take those out of the queue that are done.

    :param told: called with what became of each command, as soon as it is known.
    :raises Unavailable: if the connection is lost, or nobody answers any more; what is not done stays.
    """
    statuses: set[str] = set()

    def tell(outcome: Outcome) -> None:
        statuses.add(outcome.status)
        told(outcome)

    async for held in queue.chosen(wanted):
        if "unknown" in statuses <= {"unknown", REFUSED}:
            raise Unavailable("no worker answers any more: the letters that are left stay")
        statuses.clear()

        done = await replayer.replay([letter for _, letter in held], told=tell)
        await queue.remove(each for each, gone in zip(held, done, strict=True) if gone)


def _what_is_newer(step: Step, reply: Reply) -> str:
    winner = f", by command {reply.error.winner}" if reply.error is not None and reply.error.winner else ""
    there = f"version {reply.version}{winner}" if reply.version else "what is there"
    sent = isinstance(step.command, Mutation) and step.command.sent_at is not None
    when = "came after this was sent" if sent else "may be newer, since nobody knows when this was sent"
    return f"{there}, {when}; --force overwrites it"


def _success(version: int | None, changed: bool | None) -> str:
    if changed is False:
        return "nothing had to be changed"
    return f"version {version}" if version else "done"
