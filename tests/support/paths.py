"""The ways by which a command can reach a log, all with the same few calls, so that one test can take each."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from holdfast.client import Client, Entry
from holdfast.events import ConflictError, HoldfastError, IdReusedError, PatchKind
from holdfast.stores import EventStore
from holdfast.worker import Engine

from .commands import NOW, delete, one, patch, read, save


@dataclass(frozen=True)
class Told:
    """What a sender is told, as far as every path tells it."""

    status: str
    code: str | None = None
    exists: bool | None = None
    value: Any = None
    etag: str | None = None
    changed: bool | None = None
    expected: str | None = None
    actual: str | None = None
    winner: str | None = None
    current: Any = None


@dataclass(frozen=True)
class Write:
    """A save, a patch or a delete."""

    op: str
    value: Any = None
    etag: str | None = None
    first_write: bool = False
    #: Of a patch, whose ``value`` it is then.
    kind: PatchKind = "merge"


class Path(ABC):
    """A way to a log. Its calls block."""

    @abstractmethod
    def write(self, key: str, write: Write, *, id: str, return_current: bool = False) -> Told:  # noqa: A002
        """Save or delete."""

    @abstractmethod
    def read(self, key: str) -> Told:
        """Read, strongly."""

    @abstractmethod
    def history(self, key: str) -> list[tuple[int, str, Any]]:
        """Version, type and value of every event."""


class EnginePath(Path):
    """Straight to an engine. Every command is a batch of its own."""

    def __init__(self, runner: asyncio.Runner, store: EventStore) -> None:
        self._run = runner.run
        self._engine = Engine(store, service_time=lambda: NOW)

    def write(self, key: str, write: Write, *, id: str, return_current: bool = False) -> Told:  # noqa: A002
        more: dict[str, Any] = {"id": id, "etag": write.etag, "return_current": return_current}
        if write.op == "delete":
            answer = self._run(one(self._engine, delete(key, **more)))
        elif write.op == "patch":
            answer = self._run(one(self._engine, patch(key, write.kind, write.value, return_value=True, **more)))
        else:
            concurrency = "first-write" if write.first_write else "last-write"
            answer = self._run(one(self._engine, save(key, write.value, concurrency=concurrency, **more)))
        error = answer.get("error", {})
        etag, exists = (answer.get("etag"), answer.get("exists")) if answer["status"] == "ok" else (None, None)
        return Told(
            answer["status"],
            code=error.get("code"),
            exists=exists,
            value=answer.get("value"),
            etag=etag,
            changed=answer.get("changed"),
            expected=error.get("expected"),
            actual=error.get("actual"),
            winner=error.get("winner"),
            current=error.get("current"),
        )

    def read(self, key: str) -> Told:
        answer = self._run(one(self._engine, read(key)))
        return Told("ok", exists=answer["exists"], value=answer.get("value"), etag=answer["etag"])

    def history(self, key: str) -> list[tuple[int, str, Any]]:
        entries, _ = self._run(self._engine.history(key, after_version=0, limit=100))
        return [(entry.version, entry.type, entry.value) for entry in entries]


class ClientPath(Path):
    """The whole way: a client, a broker, a worker and its store."""

    def __init__(self, runner: asyncio.Runner, client: Client) -> None:
        self._run = runner.run
        self._client = client

    def write(self, key: str, write: Write, *, id: str, return_current: bool = False) -> Told:  # noqa: A002
        try:
            return self._run(self._write(key, write, id, return_current))
        except ConflictError as conflict:
            return Told(
                "conflict",
                code=conflict.code,
                expected=conflict.expected,
                actual=conflict.actual,
                winner=conflict.winner,
                current=conflict.current,
            )
        except IdReusedError as error:
            return Told("invalid", code=error.code)
        except HoldfastError as error:
            return Told(type(error).__name__)

    async def _write(self, key: str, write: Write, command_id: str, return_current: bool) -> Told:
        if write.op == "delete":
            changed = await self._client.delete(key, etag=write.etag, id=command_id, return_current=return_current)
            return Told("ok", exists=False, changed=changed)
        if write.op == "patch":
            calls: dict[str, Callable[..., Awaitable[Entry]]] = {
                "merge": self._client.merge_patch,
                "json-patch": self._client.json_patch,
                "increment": self._client.increment,
            }
            patched = await calls[write.kind](
                key, write.value, etag=write.etag, id=command_id, return_current=return_current
            )
            return Told("ok", exists=True, value=patched.value, etag=patched.etag, changed=True)
        entry = await self._client.save(
            key,
            write.value,
            etag=write.etag,
            first_write=write.first_write,
            id=command_id,
            return_current=return_current,
        )
        return Told("ok", exists=True, etag=entry.etag, changed=True)

    def read(self, key: str) -> Told:
        entry = self._run(self._client.read(key))
        if entry is None:
            return Told("ok", exists=False)
        return Told("ok", exists=True, value=entry.value, etag=entry.etag)

    def history(self, key: str) -> list[tuple[int, str, Any]]:
        return [(entry.version, entry.type, entry.value) for entry in self._run(self._client.history(key))]


@contextmanager
def engine_path(store: EventStore) -> Iterator[Path]:
    """An engine on a store, which is opened and closed."""
    with asyncio.Runner() as runner:
        runner.run(store.open())
        yield EnginePath(runner, store)
        runner.run(store.close())


@contextmanager
def client_path(amqp_url: str) -> Iterator[Path]:
    """A client of a service that runs."""
    with asyncio.Runner() as runner:
        client = Client(amqp_url)
        runner.run(client.open())
        yield ClientPath(runner, client)
        runner.run(client.close())
