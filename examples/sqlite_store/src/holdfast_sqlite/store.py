"""The store: one table of records, and the two unique indexes that decide."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson

from holdfast.events import (
    ClosedError,
    Event,
    Record,
    Refusal,
    StoreConfigError,
    StoreError,
    StoreUnavailable,
    Topology,
)
from holdfast.stores import AlreadyApplied, Appended, Fence, Head, KeyPage, Outcome, checked_name

T = TypeVar("T")

#: Seconds that a writer waits for another one.
PATIENCE: Final = 5.0
#: Bytes of records that are read at a time.
MAX_READ: Final = 8 * 1024 * 1024
#: SQLite takes so many values in one statement, everywhere.
_MAX_VALUES: Final = 500
_PAGE: Final = 1000

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS "{log}" (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    key TEXT NOT NULL,
    version INTEGER,
    record BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS "{log}.versions" ON "{log}" (key, version) WHERE version IS NOT NULL;
CREATE TABLE IF NOT EXISTS topology (one INTEGER PRIMARY KEY CHECK (one = 1), topology BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS suspects (mark TEXT PRIMARY KEY, strikes INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class SqliteFence:
    """The newest record when it was made. Whoever reads the file afterwards sees it."""

    sequence: int


class SqliteStore:
    """A log in one file of this machine.

    :param path: the file.
    :param name: the store's; several can share a file.
    :raises StoreConfigError: if the name cannot be used.
    """

    def __init__(self, path: Path, *, name: str = "default") -> None:
        self.name = checked_name(name)
        # Whatever a name may hold, none of it ends a quoted one.
        self._log = f"{name}.events"
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._path)!r}, name={self.name!r})"

    # -- opening and closing

    async def open(self) -> None:
        """Open the file, and make what is missing in it.

        :raises StoreConfigError: if it cannot be used.
        """
        if self._thread is None:
            # One thread: statements of two calls never mix, and one that was cancelled comes to its end.
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
        try:
            await self._run(self._open)
        except StoreUnavailable as fault:
            raise StoreConfigError(f"{self._path} cannot be used as a store: {fault}") from fault

    def _open(self) -> None:
        if self._connection is not None:
            return
        connection = sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # Else a commit may be lost with the machine's power.
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA.format(log=self._log))
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    async def close(self) -> None:
        """Close the file."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown(wait=False)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def _run(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise ClosedError(f"the store {self.name!r} is not open")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as fault:
            raise StoreUnavailable(f"SQLite: {fault}") from fault

    @property
    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ClosedError(f"the store {self.name!r} is not open")
        return self._connection

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        return self._opened.execute(statement.format(log=f'"{self._log}"'), values).fetchall()

    # -- what all workers share

    async def health(self) -> None:
        """Return if a write could begin now."""

        def touch() -> None:
            self._opened.execute("BEGIN IMMEDIATE")
            self._opened.execute("ROLLBACK")

        await self._run(touch)

    async def service_time(self) -> int:
        """The machine's clock."""
        await self._run(lambda: self._opened)
        return time.time_ns() // 1_000_000

    async def agree(self, proposal: Topology) -> Topology:
        """The first proposal that was made."""

        def propose() -> bytes:
            insert = "INSERT OR IGNORE INTO topology VALUES (1, ?)"
            self._opened.execute(insert, [proposal.model_dump_json().encode()])
            ((found,),) = self._rows("SELECT topology FROM topology")
            return bytes(found)

        return Topology.model_validate_json(await self._run(propose))

    async def strike(self, mark: str) -> int:
        """Note it once more, and say how often it is noted now."""
        again = "ON CONFLICT (mark) DO UPDATE SET strikes = strikes + 1"
        note = f"INSERT INTO suspects VALUES (?, 1) {again} RETURNING strikes"
        ((strikes,),) = await self._run(lambda: self._rows(note, [mark]))
        return int(strikes)

    async def clear(self, mark: str) -> None:
        """Forget it."""
        await self._run(lambda: self._rows("DELETE FROM suspects WHERE mark = ?", [mark]))

    # -- writing

    async def append(self, records: Sequence[Record]) -> Appended:
        """Append in order, up to the first that fails, in one commit.

        :raises StoreError: if a value is no JSON; nothing at or behind it was written.
        """
        good: list[tuple[Record, bytes]] = []
        bad: StoreError | None = None
        for record in records:
            try:
                good.append((record, _write(record)))
            except TypeError as fault:
                bad = StoreError(f"the record {record.id!r} cannot be kept: {fault}")
                break
        try:
            appended = await self._run(lambda: self._append(good, len(records)))
        except StoreUnavailable:
            # Whether a commit that failed has come to pass after all is not known.
            return Appended([Outcome.UNKNOWN] * len(records), None)
        if bad is not None and all(outcome is Outcome.APPENDED for outcome in appended.outcomes[: len(good)]):
            raise bad
        return appended

    def _append(self, records: Sequence[tuple[Record, bytes]], asked: int) -> Appended:
        connection = self._opened
        outcomes: list[Outcome | AlreadyApplied] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            for record, written in records:
                stop = self._obstacle(record)
                if stop is not None:
                    outcomes.append(stop)
                    break
                version = record.version if isinstance(record, Event) else None
                insert = f'INSERT INTO "{self._log}" (id, key, version, record) VALUES (?, ?, ?, ?)'
                connection.execute(insert, [record.id, record.key, version, written])
                outcomes.append(Outcome.APPENDED)
            ((sequence,),) = self._rows("SELECT coalesce(max(sequence), 0) FROM {log}")
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        complete = len(outcomes) == asked and all(outcome is Outcome.APPENDED for outcome in outcomes)
        outcomes += [Outcome.NOT_TRIED] * (asked - len(outcomes))
        return Appended(outcomes, SqliteFence(sequence) if complete else None)

    def _obstacle(self, record: Record) -> Outcome | AlreadyApplied | None:
        same = self._rows("SELECT record FROM {log} WHERE id = ?", [record.id])
        if same:
            return AlreadyApplied(_read(same[0][0]))
        if isinstance(record, Event) and self._rows(
            "SELECT 1 FROM {log} WHERE key = ? AND version = ?", [record.key, record.version]
        ):
            return Outcome.VERSION_TAKEN
        return None

    # -- reading. There is one file, so that nothing read is ever behind.

    async def fence(self) -> Fence:
        """The newest record."""
        ((sequence,),) = await self._run(lambda: self._rows("SELECT coalesce(max(sequence), 0) FROM {log}"))
        return SqliteFence(sequence)

    async def heads(self, keys: Collection[str], *, after: Fence | None = None) -> dict[str, Head]:
        """The newest event of each key."""
        events = await self._newest(keys, after)
        return {
            key: Head(event.version, event.exists, event.id, event.time, event.expires) for key, event in events.items()
        }

    async def versions(self, keys: Collection[str], *, after: Fence | None = None) -> dict[str, int]:
        """The newest version of each key."""
        return {key: event.version for key, event in (await self._newest(keys, after)).items()}

    async def _newest(self, keys: Collection[str], after: Fence | None) -> dict[str, Event]:
        _check(after)

        def look() -> list[Any]:
            rows: list[Any] = []
            for some in _some(keys):
                marks = ", ".join("?" * len(some))
                rows += self._rows(
                    # SQLite takes the other columns from the row of the maximum.
                    f"SELECT record, max(version) FROM {{log}} WHERE key IN ({marks}) AND version > 0 GROUP BY key",
                    some,
                )
            return rows

        return {event.key: event for event in _events(row[0] for row in await self._run(look))}

    async def events(
        self, places: Collection[tuple[str, int]], *, after: Fence | None = None
    ) -> dict[tuple[str, int], Event]:
        """The events at (key, version); some of them, if they are many bytes."""
        _check(after)

        def look() -> list[bytes]:
            found: list[bytes] = []
            size = 0
            for key, version in places:
                for (record,) in self._rows("SELECT record FROM {log} WHERE key = ? AND version = ?", [key, version]):
                    found.append(record)
                    size += len(record)
                if size > MAX_READ:
                    break
            return found

        return {(event.key, event.version): event for event in _events(await self._run(look))}

    async def find(
        self, ids: Collection[str], *, after: Fence | None = None, with_values: bool = True
    ) -> dict[str, Record]:
        """What stands in the log under these command ids."""
        _check(after)

        def look() -> list[Record]:
            found: list[Record] = []
            for some in _some(ids):
                marks = ", ".join("?" * len(some))
                found += [
                    _read(row[0]) for row in self._rows(f"SELECT record FROM {{log}} WHERE id IN ({marks})", some)
                ]
            return found

        records = await self._run(look)
        if not with_values:
            records = [
                record.model_copy(update={"value": None}) if isinstance(record, Event) else record for record in records
            ]
        return {record.id: record for record in records}

    async def history(
        self,
        key: str,
        *,
        after_version: int = 0,
        before_version: int | None = None,
        backward: bool = False,
        limit: int = 100,
        after: Fence | None = None,
    ) -> list[Event]:
        """Events of one key, oldest or newest first; fewer, if they are many bytes."""
        _check(after)
        beyond = 2**63 - 1 if before_version is None else before_version - 1

        def look() -> list[bytes]:
            order = "DESC" if backward else "ASC"
            select = (
                f"SELECT record FROM {{log}} WHERE key = ? AND version > ? AND version <= ? ORDER BY version {order}"
            )
            found: list[bytes] = []
            size = 0
            places = [key, max(after_version, 0), beyond, limit]
            for (record,) in self._opened.execute(f"{select} LIMIT ?".format(log=f'"{self._log}"'), places):
                found.append(record)
                size += len(record)
                if size > MAX_READ:
                    break
            return found

        return _events(await self._run(look))

    async def version_at(self, key: str, time: int, *, after: Fence | None = None) -> int:
        """The version of a key's newest event at that time or before; 0 if there is none."""
        _check(after)

        def look() -> int:
            select = "SELECT record FROM {log} WHERE key = ? AND version > 0 ORDER BY version DESC"
            for (record,) in self._opened.execute(select.format(log=f'"{self._log}"'), [key]):
                (event,) = _events([record])
                if event.time <= time:
                    return event.version
            return 0

        return await self._run(look)

    async def keys(
        self, prefix: str = "", *, after: str | None = None, limit: int = 1000, fence: Fence | None = None
    ) -> KeyPage:
        """Keys that have an event, in byte order, which is SQLite's own for texts."""
        _check(fence)

        def look() -> list[str]:
            begin = max(prefix, after or "")
            beyond = ">" if after is not None and after >= prefix else ">="
            select = f"SELECT DISTINCT key FROM {{log}} WHERE version > 0 AND key {beyond} ? ORDER BY key LIMIT ?"
            return [row[0] for row in self._rows(select, [begin, limit + 1])]

        found = [key for key in await self._run(look) if key.startswith(prefix)]
        return KeyPage(found[:limit], found[limit - 1] if len(found) > limit else None)

    async def scan(self) -> AsyncIterator[Record]:
        """Every record, in the order in which they were appended."""
        last = 0
        while True:
            select = "SELECT sequence, record FROM {log} WHERE sequence > ? ORDER BY sequence LIMIT ?"
            rows = await self._run(lambda: self._rows(select, [last, _PAGE]))  # noqa: B023 - awaited in its round
            for sequence, record in rows:
                yield _read(record)
                last = sequence
            if len(rows) < _PAGE:
                return


def _check(fence: Fence | None) -> None:
    if fence is not None and not isinstance(fence, SqliteFence):
        raise TypeError(f"not a fence of this store: {fence!r}")


def _some(texts: Iterable[str]) -> Iterable[list[str]]:
    rest = list(texts)
    for start in range(0, len(rest), _MAX_VALUES):
        yield rest[start : start + _MAX_VALUES]


def _write(record: Record) -> bytes:
    """As JSON, which keeps values exactly. A later Holdfast may give records more fields: they are kept as they are."""
    fields = record.model_dump(exclude={"value", "answer", "digest"}, exclude_none=True)
    fields |= {"value": record.value} if isinstance(record, Event) else {"answer": record.answer}
    return orjson.dumps({**fields, "digest": record.digest.hex()})


def _read(written: bytes) -> Record:
    fields = orjson.loads(written)
    fields["digest"] = bytes.fromhex(fields["digest"])
    return Refusal(**fields) if fields["type"] == "refused" else Event(**fields)


def _events(written: Iterable[bytes]) -> list[Event]:
    return [event for event in map(_read, written) if isinstance(event, Event)]
