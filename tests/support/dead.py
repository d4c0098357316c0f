"""Dead letters without a broker, and a service that answers replays without one."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import orjson
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from holdfast.dead import DeadLetter
from holdfast.events import (
    BadCommand,
    ChangesCommand,
    DescribeCommand,
    HistoryCommand,
    KeysCommand,
    QueryCommand,
    ReadCommand,
    Reply,
    Status,
    WatchCommand,
    decode_commands,
)
from holdfast.events.replies import error
from holdfast.worker import Engine

from .commands import NOW, one, request

Hook = Callable[[], Awaitable[Any]]


def message(body: bytes = b"{}", **properties: Any) -> DeliveredMessage:
    """A message of the dead letter queue as the driver gives it."""
    header = ContentHeader(body_size=len(body), properties=Basic.Properties(**properties))
    delivery = Basic.Deliver("tag", 7, False, "", "holdfast.dead")
    return DeliveredMessage(delivery, header, body, cast("AbstractChannel", None))


def letter(*commands: Any, array: bool = False, **fields: Any) -> DeadLetter:
    """A dead letter of one command or an array of them, buried a second ago, unless it says otherwise."""
    told: dict[str, Any] = {"id": "00000000000000a1", "reason": "internal", "detail": "", "time": NOW - 1000}
    body = orjson.dumps(list(commands) if array or len(commands) != 1 else commands[0])
    return DeadLetter(**told | {"body": body} | fields)


class EngineSender:
    """Stands in for a sender: commands are applied to an engine at once. A scripted fault takes the place of one."""

    def __init__(self, engine: Engine, user: str = "operator") -> None:
        self.user = user
        self.engine = engine
        #: What was asked: command, author and letter.
        self.asked: list[tuple[dict[str, Any], str | None, str | None]] = []
        #: Faults to raise or replies to give in the place of answers, by command id.
        self.instead: dict[str, BaseException | Reply] = {}
        #: Done right before a command is sent, by command id.
        self.before: dict[str, Hook] = {}
        self.millis = NOW

    def now(self) -> int:
        """Service time."""
        return self.millis

    @property
    def sent(self) -> list[str]:
        """The ids of what was replayed, in order."""
        return [command["id"] for command, _, letter in self.asked if letter is not None]

    async def ask(self, command: dict[str, Any], *, author: str | None, letter: str | None = None) -> Reply:
        """Apply a command."""
        self.asked.append((command, author, letter))
        if command["id"] in self.before:
            await self.before[command["id"]]()
        fault = self.instead.get(command["id"])
        if isinstance(fault, BaseException):
            raise fault
        return fault or Reply.model_validate({"id": command["id"], **await self._answer(command, author)})

    async def _answer(self, command: dict[str, Any], author: str | None) -> dict[str, Any]:
        (decoded,) = decode_commands(orjson.dumps(command)).commands
        match decoded:
            case BadCommand():
                return error(Status.INVALID, decoded.error.code, str(decoded.error))
            case HistoryCommand():
                events, _ = await self.engine.history(
                    decoded.key, after_version=decoded.after_version, limit=decoded.limit
                )
                return {"status": "ok", "events": [event.model_dump() for event in events]}
            case DescribeCommand() | QueryCommand():
                return {"status": "ok"}
            case KeysCommand():
                return {"status": "ok", "keys": []}
            case ReadCommand():
                return await one(self.engine, decoded)
            case WatchCommand() | ChangesCommand():
                raise AssertionError(f"nobody buries a {decoded.op}")
        return await one(self.engine, request(decoded, author=author))
