"""Dead letters: ``dead list``, ``dead show``, ``dead replay`` and ``dead discard``."""

import asyncio
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import orjson
import typer

from ..client.entry import to_datetime
from ..dead import (
    DeadLetter,
    DeadLetterQueue,
    Filter,
    Named,
    Outcome,
    Replayer,
    open_dead_letters,
    open_sender,
    replay_letters,
)
from ..dead.letter import NOTHING, plain
from ..events import Unavailable
from ..settings import load_settings
from .options import AmqpUrl
from .service import warn_of_plaintext
from .terminal import err, printable

T = TypeVar("T")

dead = typer.Typer(
    name="dead",
    help="Look after dead letters: what could not be processed, and is kept in the queue holdfast.dead.",
    epilog="A letter is named by its id, by the first digits of it (4 at least), or by the id of a command in it. "
    "docs/dead-letters.md says what the reasons mean and what to do.",
    no_args_is_help=True,
    add_completion=False,
)

Reason = Annotated[str | None, typer.Option(help="Only letters with this reason.")]
Op = Annotated[str | None, typer.Option(help="Only letters with such a command: save, delete, …")]
Store = Annotated[str | None, typer.Option(help="Only letters with a command for this store.")]
Key = Annotated[str | None, typer.Option(help="Only letters with a key that begins like this.", metavar="PREFIX")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait for each answer: HOLDFAST_TIMEOUT, or 15.")]
Names = Annotated[list[str] | None, typer.Argument(help="Letters.", metavar="[LETTER]...", show_default=False)]

#: The columns of a list, and how wide they are.
_COLUMNS = {"letter": 16, "op": 8, "key": 32, "store": 12, "reason": 16, "buried": 24, "author": 12, "size": 9}
#: Bytes of a list that are kept in memory; more of them go to a temporary file.
_IN_MEMORY = 4 * 1024 * 1024


@dead.command(name="list")
def list_(
    reason: Reason = None,
    op: Op = None,
    store: Store = None,
    key: Key = None,
    limit: Annotated[int, typer.Option(min=0, help="Letters at most; 0 for all.")] = 100,
    json: Json = False,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """List dead letters, in the order of the queue. They stay in it."""
    wanted = Filter(reason=reason, op=op, store=store, key=key)

    async def work(queue: DeadLetterQueue, lines: IO[str]) -> tuple[int, int]:
        seen: set[str] = set()
        shown = 0
        async for page in queue.pages():
            for _, letter in page:
                # A copy that the broker made of a letter that was replayed.
                if letter.id in seen:
                    continue
                seen.add(letter.id)
                if not wanted.takes(letter):
                    continue
                if limit and shown == limit:
                    return shown, queue.count
                shown += 1
                lines.write(_json_line(letter.summary()) if json else _row(letter))
        return shown, queue.count

    # Printed when the letters have been given back: whoever reads the list may take his time.
    with tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8") as lines:

        async def read(url: str, seconds: float) -> tuple[int, int]:
            async with _dead_letters(url, seconds) as queue:
                return await work(queue, lines)

        shown, count = _run(read, amqp_url, timeout)
        if not json and shown:
            sys.stdout.write(_cells(*_COLUMNS) + "detail\n")
        lines.seek(0)
        shutil.copyfileobj(lines, sys.stdout)
    if limit and shown == limit and count > shown:
        err.print(f"{shown} shown; {count} letters are in the queue. --limit 0 lists all", highlight=False)


@dead.command()
def show(
    name: Annotated[str, typer.Argument(help="The letter.", metavar="LETTER")],
    json: Json = False,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Show everything of one dead letter. It stays in the queue."""

    async def read(url: str, seconds: float) -> list[DeadLetter]:
        async with _dead_letters(url, seconds) as queue:
            return [held.letter async for page in queue.chosen(Named([name])) for held in page]

    for letter in _run(read, amqp_url, timeout):
        sys.stdout.write(_json_line(letter.record()) if json else _page_of(letter))


@dead.command()
def replay(
    names: Names = None,
    every: Annotated[bool, typer.Option("--all", help="All letters, or all that the options below fit.")] = False,
    reason: Reason = None,
    op: Op = None,
    store: Store = None,
    key: Key = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite what is newer; send what has no id, or is of unknown age."),
    ] = False,
    as_me: Annotated[
        bool, typer.Option("--as-me", help="Send in this user's own name, and not in the author's.")
    ] = False,
    json: Json = False,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Send the commands of dead letters again, under their own ids, and say what became of each.

    What is done leaves the queue, and what fails stays in it. Exit code 1 if anything failed.

    A save or delete without condition that would overwrite what came after it needs --force.
    """
    wanted = _wanted(names, every, Filter(reason=reason, op=op, store=store, key=key))
    counts = {"ok": 0, "failed": 0}

    def tell(outcome: Outcome) -> None:
        counts["ok" if outcome.ok else "failed"] += 1
        if json:
            sys.stdout.write(_json_line({name: getattr(outcome, name) for name in outcome.__slots__}))
        else:
            target = f"{outcome.op or '?'} {outcome.store or '?'}/{outcome.key or '?'}"
            line = f"{outcome.letter}  {outcome.status:12}  {target}  {outcome.note}"
            sys.stdout.write(printable(line.rstrip()) + "\n")

    async def work(url: str, seconds: float) -> None:
        async with _dead_letters(url, seconds) as queue, open_sender(url, timeout=seconds) as sender:
            await replay_letters(queue, Replayer(sender, force=force, as_me=as_me), wanted, told=tell)

    _run(work, amqp_url, timeout)
    if not json:
        err.print(f"{counts['ok']} done, {counts['failed']} failed", highlight=False)
    if counts["failed"]:
        raise typer.Exit(1)


@dead.command()
def discard(
    names: Names = None,
    every: Annotated[bool, typer.Option("--all", help="All letters, or all that the options below fit.")] = False,
    reason: Reason = None,
    op: Op = None,
    store: Store = None,
    key: Key = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    save: Annotated[
        Path | None, typer.Option(help="Write them to this new file before, as lines of JSON.", dir_okay=False)
    ] = None,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Throw dead letters away, for good, and print what they were. Asks before."""
    wanted = _wanted(names, every, Filter(reason=reason, op=op, store=store, key=key))

    async def look(url: str, seconds: float) -> set[str]:
        async with _dead_letters(url, seconds) as queue:
            return {held.letter.id async for page in queue.chosen(wanted) for held in page}

    async def throw(url: str, seconds: float, file: IO[bytes] | None) -> int:
        thrown = 0
        async with _dead_letters(url, seconds) as queue:
            async for page in queue.chosen(wanted):
                # Nobody was asked about what has come since.
                held = [each for each in page if each.letter.id in meant]
                if file is not None:
                    file.writelines(_json_line(letter.record()).encode() for _, letter in held)
                    file.flush()
                    os.fsync(file.fileno())
                await queue.remove(held)
                for _, letter in held:
                    sys.stdout.write(_row(letter))
                thrown += len(held)
        return thrown

    meant = _run(look, amqp_url, timeout)
    if not meant:
        err.print("there is nothing to discard", highlight=False)
        return
    if not yes:
        letters = "1 letter" if len(meant) == 1 else f"{len(meant)} letters"
        if not typer.confirm(f"Discard {letters} for good?", err=True):
            err.print("nothing was discarded", highlight=False)
            raise typer.Exit(1)
    with _new_file(save) as file:
        thrown = _run(lambda url, seconds: throw(url, seconds, file), amqp_url, timeout)
    err.print(f"{thrown} discarded", highlight=False)


def _wanted(names: list[str] | None, every: bool, chosen: Filter) -> Named | Filter:
    if bool(names) == every:
        raise typer.BadParameter("name letters, or give --all with or without a choice")
    if names and chosen != Filter():
        raise typer.BadParameter("--reason, --op, --store and --key choose among --all, not among named letters")
    return Named(names) if names else chosen


@asynccontextmanager
async def _dead_letters(url: str, seconds: float) -> AsyncIterator[DeadLetterQueue]:
    async with open_dead_letters(url, timeout=seconds) as queue:
        if queue.fragile:
            err.print(
                "holdfast: the queue holdfast.dead was not declared by this version: RabbitMQ may drop a letter that "
                "was looked at 20 times. docs/dead-letters.md says how to change that",
                style="red",
                highlight=False,
                soft_wrap=True,
            )
        yield queue
        if queue.incomplete:
            raise Unavailable("somebody else has taken letters in the meantime: what was shown may not be all")


def _run(work: Callable[[str, float], Awaitable[T]], amqp_url: str | None, timeout: float | None) -> T:
    settings = load_settings(amqp_url=amqp_url, timeout=timeout)
    warn_of_plaintext(settings)
    # What goes wrong on the way is said by the error at the end.
    logging.disable()

    async def run() -> T:
        return await work(settings.amqp_url.get_secret_value(), settings.timeout)

    return asyncio.run(run())


@contextmanager
def _new_file(path: Path | None) -> Iterator[IO[bytes] | None]:
    if path is None:
        yield None
        return
    with path.open("xb") as file:
        yield file


def _json_line(data: Any) -> str:
    return orjson.dumps(data).decode() + "\n"


def _when(time: int | None) -> str:
    if time is None:
        return ""
    try:
        return to_datetime(time).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    except (ValueError, OverflowError, OSError):
        return str(time)


def _cells(*cells: str) -> str:
    """Some cells of a row, each as wide as its column; what is longer is cut."""
    text = ""
    for cell, width in zip(cells, _COLUMNS.values(), strict=True):
        cell = printable(cell)
        text += (cell if len(cell) <= width else cell[: width - 1] + "…").ljust(width) + "  "
    return text


def _row(letter: DeadLetter) -> str:
    first = next(iter(letter.entries), NOTHING)
    more = f"+{len(letter.entries) - 1}" if len(letter.entries) > 1 else ""
    cells = _cells(
        letter.id,
        (first.op or "?") + more,
        first.key or "",
        first.store or "",
        letter.reason,
        _when(letter.time),
        letter.author or "",
        str(len(letter.body)),
    )
    detail = printable(letter.detail)
    return (cells + (detail if len(detail) <= 60 else detail[:59] + "…")).rstrip() + "\n"


def _page_of(letter: DeadLetter) -> str:
    told = {
        "letter": letter.id,
        "reason": letter.reason,
        "detail": letter.detail,
        "buried": _when(letter.time),
        "queue": letter.queue,
        "deliveries": letter.deliveries,
        "author": letter.author,
        "message id": letter.message_id,
        "correlation id": letter.correlation_id,
        "reply to": letter.reply_to,
    }
    lines = [f"{name:15} {printable(str(value))}" for name, value in told.items() if value not in (None, "")]
    headers = plain(letter.headers or {})
    lines += [f"{'header':15} {printable(f'{name}: {headers[name]}')}" for name in sorted(headers)]
    lines.append(f"{'body':15} {len(letter.body)} bytes")
    return "\n".join(lines) + "\n\n" + _body_of(letter) + "\n"


def _body_of(letter: DeadLetter) -> str:
    """The body: JSON indented, other text as it is but for what a terminal might obey, anything else as bytes."""
    if letter.text is None:
        return "".join(_dump(letter.body))
    try:
        text = orjson.dumps(orjson.loads(letter.body), option=orjson.OPT_INDENT_2).decode()
    except ValueError:
        text = letter.text
    return "".join(printable(line.rstrip("\n")) + "\n" for line in text.splitlines(keepends=True))


def _dump(body: bytes) -> Iterator[str]:
    for start in range(0, len(body), 16):
        row = body[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{start:08x}  {row.hex(' '):47}  {text}\n"
