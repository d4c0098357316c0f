"""Rewriting: every value under a prefix is looked at, and those that have to change are saved again, online.

It goes through the keys in their order and notes how far it has come in the store itself, so that it can be broken off
at any moment, by whatever, and goes on where it was. A value that somebody else changes meanwhile is looked at again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import uuid_utils
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from ..events import ConflictError, EncryptionError, InvalidError, OutcomeUnknown, SchemaError, Unavailable
from .encryption import Encryption
from .entry import Entry, KeyPage
from .schema import Schema

if TYPE_CHECKING:
    from .client import Client

R = TypeVar("R")

#: What the keys begin with under which rewriting notes how far it has come.
NOTES: Final = "holdfast.rewrite/"
#: Keys that are looked at together.
PAGE: Final = 500
#: Seconds between two notes.
NOTE_INTERVAL: Final = 1.0
#: Seconds for which one key is tried while the service is away, or others are quicker.
PATIENCE: Final = 60.0
#: Keys that could not be rewritten, of which the names are kept.
MAX_FAULTS: Final = 100


class Value(NamedTuple):
    """A value that may have to change."""

    store: str
    key: str
    entry: Entry
    #: Of the command that would save it.
    command_id: str


#: What a value becomes, or None if it stays. What it raises is noted as a fault of that key.
Change = Callable[[Value], Any]


@dataclass(slots=True)
class Progress:
    """How far a rewriting has come."""

    #: All keys up to this one are done.
    after: str | None = None
    looked: int = 0
    rewritten: int = 0
    #: Keys whose values could not be rewritten, and why; the first hundred of them.
    faults: dict[str, str] = field(default_factory=dict)
    faulty: int = 0
    #: Whether it went on where an earlier one was broken off.
    resumed: bool = False
    done: bool = False


OnProgress = Callable[[Progress], None]


class Rewriting:
    """One run over the keys of a prefix."""

    def __init__(
        self,
        client: "Client",
        change: Change,
        *,
        task: str,
        store: str,
        prefix: str = "",
        dry: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Make a run that has not begun.

        :param task: what it is for. A run of the same task goes on where the last one was broken off.
        :param dry: count what would be rewritten, and write nothing.
        """
        self._client = client
        self._change = change
        self._store = store
        self._prefix = prefix
        self._dry = dry
        self._on_progress = on_progress
        self._metadata = {"holdfast.rewrite": task}
        # A prefix may be as long as a key, and what is noted under it has to be one.
        self._note = f"{NOTES}{task}/{blake2b(prefix.encode(), digest_size=8).hexdigest()}"
        self._progress = Progress()
        self._noted = time.monotonic()

    async def run(self) -> Progress:
        """Do it, to the end.

        :raises Unavailable: if the service stays away. Another run goes on from there.
        """
        progress = self._progress
        if not self._dry:
            await self._remember()
        while not progress.done:
            page = await self._patiently(self._next_page)
            keys = [entry.key for entry in page.keys if not entry.key.startswith(NOTES)]
            outcomes = await asyncio.gather(*map(self._look, keys))
            progress.looked += len(keys)
            progress.rewritten += sum(outcomes)
            progress.after = page.next or (keys[-1] if keys else progress.after)
            progress.done = page.next is None
            if self._on_progress is not None:
                self._on_progress(progress)
            if not self._dry:
                await self._write_down()
        return progress

    async def _patiently(self, call: Callable[[], Awaitable[R]]) -> R:
        """What a call gives back, as soon as the service is there and nobody is quicker.

        After an unknown outcome it is simply made again: what it finds tells what became of the one before.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((ConflictError, OutcomeUnknown, Unavailable)),
            stop=stop_after_delay(PATIENCE),
            wait=wait_random_exponential(multiplier=0.01, max=2.0),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                return await call()
        raise AssertionError("it has either come back or raised")

    async def _look(self, key: str) -> bool:
        """Rewrite one value if it has to be. Says whether it was."""
        return await self._patiently(lambda: self._try(key))

    async def _try(self, key: str) -> bool:
        try:
            entry = await self._client.read(key, store=self._store)
            if entry is None:
                return False
            value = Value(self._store, key, entry, str(uuid_utils.uuid7()))
            changed = self._change(value)
        except (SchemaError, EncryptionError, TypeError) as fault:
            return self._note_fault(key, fault)
        if changed is None:
            return False
        if not self._dry:
            try:
                await self._save(value, changed)
            except InvalidError as fault:
                return self._note_fault(key, fault)
        return True

    async def _save(self, value: Value, changed: Any) -> None:
        entry, store, metadata, command_id = value.entry, self._store, self._metadata, value.command_id
        if entry.expires_at_ms is None:
            # Said, because what says nothing of it lives as long as the store is configured to.
            await self._client.save(
                value.key, changed, etag=entry.etag, ttl="forever", store=store, metadata=metadata, id=command_id
            )
        else:
            # A patch leaves it to the millisecond when the value expires, which a save cannot say.
            replace = [{"op": "replace", "path": "", "value": changed}]
            await self._client.json_patch(
                value.key, replace, etag=entry.etag, store=store, metadata=metadata, id=command_id
            )

    def _note_fault(self, key: str, fault: Exception) -> bool:
        self._progress.faulty += 1
        if len(self._progress.faults) < MAX_FAULTS:
            self._progress.faults[key] = str(fault)
        return False

    async def _next_page(self) -> KeyPage:
        return await self._client.keys(self._prefix, after=self._progress.after, limit=PAGE, store=self._store)

    async def _remember(self) -> None:
        """Go on where a run of the same task was broken off."""
        noted = await self._patiently(lambda: self._client.read(self._note, store=self._store))
        if noted is not None:
            progress = self._progress
            for name, member in noted.value.items():
                setattr(progress, name, member)
            progress.resumed, progress.done = True, False

    async def _write_down(self) -> None:
        if self._progress.done:
            await self._patiently(lambda: self._client.delete(self._note, store=self._store))
        elif time.monotonic() - self._noted > NOTE_INTERVAL:
            noted = asdict(self._progress)
            await self._patiently(lambda: self._client.save(self._note, noted, ttl="forever", store=self._store))
            self._noted = time.monotonic()


async def migrate(
    client: "Client",
    schema: Schema[Any],
    *,
    store: str | None = None,
    prefix: str = "",
    dry: bool = False,
    on_progress: OnProgress | None = None,
) -> Progress:
    """Save every value under the prefix that is of an earlier version again, in the form of the schema's present one.

    Programs may go on reading and writing meanwhile, as long as all of them know the present version. A run that was
    broken off is taken up by the next one for the same schema, version and prefix. What cannot be read stays as it is,
    and is told in the progress.

    :param prefix: of keys whose values are all of this schema's type.
    :param dry: count, and write nothing.
    :raises Unavailable: if the service stays away for more than a minute.
    """

    def change(value: Value) -> Any:
        stored = value.entry.value
        return None if schema.is_current(stored) else schema.migrate(stored)

    task = f"migrate/{schema.name}@{schema.version}"
    name = client.default_store if store is None else store
    run = Rewriting(client, change, task=task, store=name, prefix=prefix, dry=dry, on_progress=on_progress)
    return await run.run()


async def rotate_keys(
    client: "Client",
    encryption: Encryption,
    *,
    store: str | None = None,
    prefix: str = "",
    dry: bool = False,
    on_progress: OnProgress | None = None,
) -> Progress:
    """Save every value under the prefix that is not sealed with the primary key again, sealed with it.

    Programs may go on reading and writing meanwhile, as long as all of them have the new key too. A run that was broken
    off is taken up by the next one for the same primary key and prefix. Earlier versions stay in the log as they were
    sealed: for as long as somebody may want to read these, keep the old key.

    :param client: one without encryption of its own, and with all keys: values are handled as they are stored.
    :param prefix: of keys as they are called in the store.
    :param dry: count, and write nothing.
    :raises InvalidError: if the client opens values by itself.
    :raises Unavailable: if the service stays away for more than a minute.
    """
    if client.is_encrypting:
        raise InvalidError("keys are rotated through a client without encryption of its own", field="client")

    def change(value: Value) -> Any:
        stored = value.entry.value
        if encryption.is_current(stored):
            return None
        plain = encryption.open(value.store, value.key, stored, etag=value.entry.etag)
        return encryption.seal(value.store, value.key, value.command_id, plain)

    task = f"rotate/{encryption.primary}"
    name = client.default_store if store is None else store
    run = Rewriting(client, change, task=task, store=name, prefix=prefix, dry=dry, on_progress=on_progress)
    return await run.run()
