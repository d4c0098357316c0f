"""Histories: what clients called, when, and what they were told.

A client process writes its history itself, into a file of its own: one line before each call is made and one after
it has returned. A process that is killed leaves a call without the second line, and that is what it means: nobody
knows what became of it.
"""

import os
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from holdfast.events import (
    ClosedError,
    ConflictError,
    DeniedError,
    InvalidError,
    OutcomeUnknown,
    Unavailable,
    UnknownStoreError,
)


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
class Step:
    """One step of a transaction, as it was asked for."""

    #: ``save``, ``delete`` or ``check``.
    op: str
    key: str
    value: Any = None
    etag: str | None = None
    concurrency: str = "last-write"
    #: Of a check without an etag: whether it demands that the key is there.
    demands: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What was told of one step of a transaction that was committed: the state of its key then."""

    key: str
    exists: bool | None = None
    version: int | None = None
    etag: str | None = None
    #: Whether the step made the version; None of a check.
    changed: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call of one client: on one key, or a transaction.

    Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
    """

    client: str
    #: The command id.
    id: str
    store: str = "default"
    #: Of a transaction that of its first step: its owner applies it.
    key: str
    #: ``save``, ``delete``, ``increment``, ``read`` or ``transact``; and ``check`` where a transaction is told key by
    #: key.
    op: str
    #: Of a save: small and unlike any other value of the run. Of an increment: what is added.
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
    #: Of a check without an etag: whether it demands that the key is there.
    demands: bool | None = None
    #: Of a transaction, in order, each about a key of its own.
    steps: tuple[Step, ...] = ()
    #: Of a transaction that was told ``ok``: of each step …
    results: tuple[Told, ...] = ()
    #: … and of one that met a conflict, the number of the step that met it. What else it was told is of that one.
    at_step: int | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """All that it is about."""
        return tuple(step.key for step in self.steps) or (self.key,)


class HistoryError(Exception):
    """A history that cannot be used as it is: no verdict rests on it, and no run that left it has passed."""


#: After these the call was certainly not applied. What is not named here and is no conflict leaves it unknown.
_CERTAIN = (Unavailable, InvalidError, UnknownStoreError, DeniedError, ClosedError)


def outcome_of(error: BaseException) -> Outcome:
    """What an exception of the client says about the call that raised it. A cancelled call is unknown."""
    if isinstance(error, ConflictError):
        return Outcome.CONFLICT
    if isinstance(error, OutcomeUnknown) or not isinstance(error, _CERTAIN):
        return Outcome.UNKNOWN
    return Outcome.REFUSED


def name_of(error: BaseException) -> str:
    """The error's class, and its code if it has one: ``ConflictError:exists``."""
    code = getattr(error, "code", None)
    return f"{type(error).__name__}:{code}" if isinstance(code, str) else type(error).__name__


class Recorder:
    """Writes the calls of one process to a file of JSON lines. Many clients of the process may share it.

    Each line is one ``os.write``, so that a SIGKILL loses none that was written.

    :param path: a file that does not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._calls = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the file. Calls that have not returned stay unknown."""
        os.close(self._file)

    def invoke(
        self,
        *,
        client: str,
        id: str,  # noqa: A002 - the protocol's word
        key: str,
        op: str,
        store: str = "default",
        value: Any = None,
        etag: str | None = None,
        concurrency: str = "last-write",
        consistency: str = "strong",
        steps: Sequence[Step] = (),
    ) -> int:
        """Note a call that is about to be made. Give the number that it returns under.

        A client that calls again under the same command id notes a new call.
        """
        self._calls += 1
        line = {
            "call": self._calls,
            "client": client,
            "id": id,
            "store": store,
            "key": key,
            "op": op,
            "value": value,
            "etag": etag,
            "concurrency": concurrency,
            "consistency": consistency,
            "steps": steps or None,
            # As late as it can be, and still before the call.
            "invoked": time.monotonic_ns(),
        }
        self._write(line)
        return self._calls

    def ok(
        self,
        call: int,
        *,
        exists: bool | None = None,
        version: int | None = None,
        etag: str | None = None,
        value: Any = None,
        changed: bool | None = None,
        results: Sequence[Told] = (),
    ) -> None:
        """Note that a call returned, and what it was told; None for what it was not told.

        Of a save: version and etag. Of an increment: the value too. Of a read: exists, and if so version, etag and
        value. Of a delete: changed. Of a transaction: results.
        """
        told = {"exists": exists, "version": version, "answer_etag": etag, "answer_value": value, "changed": changed}
        line = {"return": call, "returned": time.monotonic_ns(), "outcome": Outcome.OK, **told}
        self._write(line | {"results": results or None})

    def failed(self, call: int, error: BaseException) -> None:
        """Note that a call raised, whatever it raised; of a conflict also the state that it met."""
        line: dict[str, Any] = {"return": call, "returned": time.monotonic_ns()}
        line |= {"outcome": outcome_of(error), "error": name_of(error)}
        if isinstance(error, ConflictError):
            line |= {"exists": error.actual is not None, "version": error.version}
            line |= {"answer_etag": error.actual, "answer_value": error.current, "at_step": error.operation}
        self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        data = orjson.dumps({name: item for name, item in line.items() if item is not None}, option=_LINE)
        if os.write(self._file, data) != len(data):
            raise OSError("a line of the history was cut short: is the disk full?")


_LINE = orjson.OPT_APPEND_NEWLINE


def load(paths: Iterable[Path], *, part: int = 0, parts: int = 1) -> list[Operation]:
    """The calls of recorded files, in the order of their beginnings within each file.

    :param parts: to have a long history in pieces: only the operations of every ``parts``-th key, by a hash of it. A
        transaction is in the part of each of its keys.
    :raises HistoryError: if a file is not what a Recorder wrote.
    """
    begin = attrgetter("invoked")
    return [operation for path in paths for operation in sorted(stream(path, part=part, parts=parts), key=begin)]


def stream(path: Path, *, part: int = 0, parts: int = 1) -> Iterator[Operation]:
    """The calls of one file, as ``load`` gives them, but in the order in which they returned, and one at a time."""
    #: Those that have not returned; None for one that belongs to another part.
    calls: dict[int, dict[str, Any] | None] = {}
    begun_last = 0
    for number, line in enumerate(_lines(path), start=1):
        try:
            data = orjson.loads(line)
            if "call" in data:
                call = data.pop("call")
                if call != begun_last + 1:
                    raise HistoryError(f"{path}:{number}: call {call} comes after call {begun_last}")
                begun_last = call
                mine = parts == 1 or any(part_of(data["store"], key, parts) == part for key in _keys(data))
                calls[call] = data if mine else None
                continue
            begun = calls.pop(data.pop("return"))
            operation = None if begun is None else _operation(begun, data)
        except (KeyError, TypeError, ValueError) as error:
            raise HistoryError(f"{path}:{number}: not a line of a history: {error!r}") from None
        if operation is not None:
            yield operation
    unfinished = {"returned": None, "outcome": Outcome.UNKNOWN}
    yield from (_operation(begun, unfinished) for begun in calls.values() if begun is not None)


def _keys(line: dict[str, Any]) -> list[str]:
    return [step["key"] for step in line.get("steps", ())] or [line["key"]]


def _lines(path: Path) -> Iterator[bytes]:
    """The whole lines of a file.

    A last one without its end is of a process that was killed while it wrote: a call that was not made any more, or
    a return that nobody saw.
    """
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def _operation(begun: dict[str, Any], returned: dict[str, Any]) -> Operation:
    # The same few words and keys come a million times.
    for name in ("client", "store", "key", "op", "concurrency", "consistency"):
        begun[name] = sys.intern(begun[name])
    made = {**begun, **returned, "outcome": Outcome(returned["outcome"])}
    if "steps" in made:
        made["steps"] = tuple(Step(**step) for step in made["steps"])
    if "results" in made:
        made["results"] = tuple(Told(**told) for told in made["results"])
    return Operation(**made)


def part_of(store: str, key: str, parts: int) -> int:
    """Which of the parts of a history a key belongs to."""
    return zlib.crc32(f"{store}/{key}".encode()) % parts
