"""The client: save, read and delete by key, over one connection that many callers share."""

import asyncio
import logging
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import uuid_utils

from ..events import (
    ClosedError,
    Concurrency,
    Consistency,
    HistoryEntry,
    HoldfastError,
    KeyEntry,
    OutboxMessage,
    Reply,
    TooLargeError,
    Unavailable,
    check_id,
    check_key,
    check_value,
    encode,
)
from ..events.feed import FeedMode
from ..events.limits import MAX_MESSAGE_BYTES, MAX_PAGE
from ..events.outbox import check_messages
from ..events.topology import DEFAULT_STORE
from ..events.urls import user_of
from ..plaintext import PlaintextWarning, exposed_hosts, told
from . import bulk
from .calls import Call, Wire, to_error
from .dispatcher import Dispatcher
from .encryption import Encryption
from .entities import Entity, activate
from .entry import Delete, Entry, KeyPage, Save, Service, Step, to_datetime, to_millis
from .keyspace import KeySpace, Strategy
from .lifetime import Ttl, to_seconds
from .link import CONNECT_TIMEOUT, Link, LinkMaker
from .patches import PatchCalls
from .places import Places
from .queries import Condition, FieldPath, Order, QueryPage, query_command, query_page
from .resealing import restore_sealed
from .serializers import Serializer
from .span import Span
from .state import PersistentState
from .transactions import StepResult, Transaction, to_operations, to_results
from .turns import Turns
from .watch import Selection, Watch

T = TypeVar("T")
E = TypeVar("E", bound=Entity)

log = logging.getLogger(__name__)

#: Seconds that a call waits for its answer, unless it says otherwise.
DEFAULT_TIMEOUT = 15.0
#: Calls without an answer at one time; more of them wait for a place.
DEFAULT_MAX_IN_FLIGHT = 8192
#: Bytes of their commands, about; more of them wait likewise.
MAX_IN_FLIGHT_BYTES = 64 * 1024 * 1024
#: How much of the way the estimate of service time goes back when an answer shows an earlier one.
CLOCK_CAUTION = 0.05
#: Seconds between two questions for the topology: while it is being changed, workers may not agree on it.
DESCRIBE_PAUSE = 1.0


def connect(
    url: str = "amqp://localhost/",
    *,
    timeout: float = DEFAULT_TIMEOUT,
    store: str = DEFAULT_STORE,
    max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
    name: str | None = None,
    keys: Strategy | None = None,
    encryption: Encryption | None = None,
) -> "Client":
    """Make a client. Use it in ``async with``, which connects and closes.

    :param url: AMQP URL of the broker, with user, password and virtual host.
    :param timeout: seconds that each call waits for its answer by default.
    :param store: the store that calls use by default.
    :param max_in_flight: calls without an answer at one time; more of them wait for a place, in order, up to their
        timeout, and then fail with :class:`Unavailable`. So do calls beyond 64 MiB of commands.
    :param name: shown by the broker's management tools.
    :param keys: which keys the client sees: ``by_user()``, ``by_name("shop")``, or all of them.
    :param encryption: seals all values, so that neither broker nor database sees them.
    :raises InvalidError: if the URL cannot be used.

    Warns (:class:`PlaintextWarning`) if the password would leave this machine in plain text.
    """
    for host in exposed_hosts(url):
        warnings.warn(told(host), PlaintextWarning, stacklevel=2)
    return Client(
        url, timeout=timeout, store=store, max_in_flight=max_in_flight, name=name, keys=keys, encryption=encryption
    )


class Client(PatchCalls):
    """Saves, reads and deletes values by key. Safe to be used by many tasks of one event loop at once.

    Every call ends within its timeout. Lost connections are made again in the meantime and calls repeated under
    their command ids, which makes no difference to what happens. If a call fails with

    * :class:`ConflictError`, the key was not in the state that was demanded, and nothing changed;
    * :class:`Unavailable` (or its :class:`ExpiredError`), the command was certainly not applied;
    * :class:`OutcomeUnknown`, it may have been applied. Call again with the same ``id`` to know.

    Where a call gives the ``id`` of an earlier one, ``Unavailable`` speaks of this call alone: what became of the
    earlier one it does not tell.

    Calls on one key that are started in order, without waiting for each other, are applied in that order.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        store: str = DEFAULT_STORE,
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        name: str | None = None,
        keys: Strategy | None = None,
        encryption: Encryption | None = None,
        link: LinkMaker | None = None,
    ) -> None:
        """See :func:`connect`.

        :param link: makes what carries messages in the place of a connection to a broker.
        """
        if timeout <= 0:
            raise ValueError("timeout is a positive number of seconds")
        if max_in_flight < 1:
            raise ValueError("max_in_flight is at least 1")
        self._timeout = timeout
        self._store = store
        self._space = None if keys is None else KeySpace(keys(user_of(url)))
        self._encryption = encryption
        self._max_in_flight = max_in_flight
        self._places = Places(max_in_flight, MAX_IN_FLIGHT_BYTES)
        #: Of the handles' updates.
        self.turns = Turns()
        self._link = (link or Link)(
            url,
            name=name or f"client-{uuid_utils.uuid7()}",
            on_up=self._on_up,
            on_replies=self._on_replies,
            connect_timeout=min(timeout, CONNECT_TIMEOUT),
        )
        self._watches: set[Watch] = set()
        self._dispatcher: Dispatcher | None = None
        self._service: Service | None = None
        self._clock_offset = 0.0
        self._describing: asyncio.Task[None] | None = None

    @property
    def default_store(self) -> str:
        """The store that calls use unless they say otherwise."""
        return self._store

    @property
    def is_encrypting(self) -> bool:
        """Whether it seals values and opens them."""
        return self._encryption is not None

    async def __aenter__(self) -> Self:
        """Connect and learn the service's partitions.

        :raises Unavailable: if the broker cannot be reached, or no worker answers within the timeout.
        """
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        await self.close()

    async def open(self) -> None:
        """Connect and learn the service's partitions; ``async with`` does it for you.

        :raises Unavailable: if the broker cannot be reached, or no worker answers within the timeout.
        :raises DeniedError: if the broker does not let this user send commands.
        """
        if self._dispatcher is not None:
            raise ClosedError("this client is open already")
        self._dispatcher = Dispatcher(self._link, on_epoch=self._on_epoch)
        try:
            await self._link.open()
        except BaseException:
            await self.close()
            raise
        try:
            await self.describe()
        except Unavailable as fault:
            await self.close()
            raise Unavailable(f"no Holdfast worker answered ({fault}). Start one with `holdfast worker`.") from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect. Repeating it is harmless.

        Calls without an answer fail: with :class:`OutcomeUnknown` if they may have been applied, else with
        :class:`ClosedError`.
        """
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is None:
            return
        for watch in list(self._watches):
            await watch.close()
        if self._describing is not None:
            self._describing.cancel()
            await asyncio.gather(self._describing, return_exceptions=True)
        await dispatcher.close()
        await self._link.close()

    async def save(
        self,
        key: str,
        value: Any,
        *,
        etag: str | None = None,
        first_write: bool = False,
        ttl: Ttl | None = None,
        store: str | None = None,
        metadata: Mapping[str, str] | None = None,
        messages: Sequence[OutboxMessage] = (),
        correlation_id: str | None = None,
        causation_id: str | None = None,
        return_current: bool = False,
        timeout: float | None = None,
        id: str | None = None,  # noqa: A002 - the protocol's word
    ) -> Entry:
        """Make ``value`` the next version of the key. When it returns, the version is on the journal of a majority.

        :param value: plain JSON data; it comes back exactly as it was given.
        :param etag: demand that the key's current state has this etag. It always wins over ``first_write``.
        :param first_write: demand that the key is absent.
        :param ttl: the key is absent after so many seconds, or a timedelta of whole ones; or "forever". Without it the
            value lives as long as the store is configured to: for ever, unless that says otherwise.
        :param metadata: kept with the event.
        :param messages: published if the save is committed, and only then: at least once, in order.
        :param correlation_id: what this belongs to, such as a request or an order; kept with the event.
        :param causation_id: what led to it, such as the id of another command; kept with the event.
        :param return_current: a conflict brings the value that it met.
        :param timeout: seconds.
        :param id: the command id; a new one unless this repeats an earlier call.
        :raises ConflictError: if the demand is not met.
        :raises InvalidError: if key or value cannot be kept.
        """
        concurrency: Concurrency = "first-write" if first_write else "last-write"
        command: Wire = {"op": "save", "key": key, "value": check_value(value)}
        if etag is not None:
            command["etag"] = etag
        if first_write:
            command["concurrency"] = concurrency
        if messages:
            command["messages"] = [message.model_dump() for message in check_messages(messages)]
        if correlation_id is not None:
            command["correlation_id"] = correlation_id
        if causation_id is not None:
            command["causation_id"] = causation_id
        if ttl is not None:
            command["ttl_seconds"] = to_seconds(ttl)
        store = self._complete(command, store, metadata, return_current)
        reply = await self._call(command, store, key, timeout, id, mutates=True)
        return Entry.of(store, key, value, reply)

    async def read(
        self,
        key: str,
        *,
        store: str | None = None,
        consistency: Consistency = "strong",
        version: int | None = None,
        at: datetime | None = None,
        timeout: float | None = None,
    ) -> Entry | None:
        """The key's current state, or an earlier one; None if it is, or was, absent.

        :param consistency: ``strong`` sees every write that was acknowledged before the call, by whomever;
            ``eventual`` may be behind.
        :param version: the state that this version made; None if there is no such version.
        :param at: the state at this time, in service time. For one that is still to come it is the state of now.
        :raises ErasedError: if retention or a purge has erased that earlier value.
        :raises ValueError: if ``at`` has no time zone, or both are given.
        """
        command: Wire = {"op": "read", "key": key}
        if version is not None and at is not None:
            raise ValueError("version and at exclude each other")
        if version is not None:
            command["at_version"] = version
        if at is not None:
            command["at_time"] = to_millis(at)
        if consistency != "strong":
            command["consistency"] = consistency
        store = self._complete(command, store)
        reply = await self._call(command, store, key, timeout, None, mutates=False)
        return Entry.of(store, key, reply.value, reply) if reply.exists else None

    async def delete(
        self,
        key: str,
        *,
        etag: str | None = None,
        store: str | None = None,
        metadata: Mapping[str, str] | None = None,
        messages: Sequence[OutboxMessage] = (),
        correlation_id: str | None = None,
        causation_id: str | None = None,
        return_current: bool = False,
        timeout: float | None = None,
        id: str | None = None,  # noqa: A002 - the protocol's word
    ) -> bool:
        """Make the key absent. Its history stays. Says whether it was there.

        :param messages: as of ``save``. Where there was nothing to delete, nothing is published either.
        :raises ConflictError: if ``etag`` is given and is not the current one, also if the key is absent.
        """
        command: Wire = {"op": "delete", "key": key}
        if etag is not None:
            command["etag"] = etag
        if messages:
            command["messages"] = [message.model_dump() for message in check_messages(messages)]
        if correlation_id is not None:
            command["correlation_id"] = correlation_id
        if causation_id is not None:
            command["causation_id"] = causation_id
        store = self._complete(command, store, metadata, return_current)
        reply = await self._call(command, store, key, timeout, id, mutates=True)
        return bool(reply.changed)

    async def restore(
        self,
        key: str,
        *,
        version: int,
        etag: str | None = None,
        ttl: Ttl | None = None,
        store: str | None = None,
        metadata: Mapping[str, str] | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        return_current: bool = False,
        timeout: float | None = None,
        id: str | None = None,  # noqa: A002 - the protocol's word
    ) -> Entry:
        """Make the value of an earlier version the next version of the key, also if the key is absent now.

        Nothing of what came in between is lost: the history goes on. The entry's ``value`` is None: it is not sent.

        :param version: which one.
        :param etag: demand that the key's current state has this etag.
        :param ttl: as of ``save``, also without it: whatever time the earlier version had plays no part.
        :raises ConflictError: if the demand is not met, or there is nothing to be restored: with the code ``no_value``
            if there is no such version, or it is one that was deleted; ``stripped`` if its value was erased.

        A client that seals values opens that version and saves it, sealed anew, since what is sealed belongs to the
        command that saved it: with ``holdfast.restored`` in the event's metadata, and the rights to read and to save.
        """
        command: Wire = {"op": "restore", "key": key, "at_version": version}
        told = {"etag": etag, "correlation_id": correlation_id, "causation_id": causation_id}
        command |= {name: text for name, text in told.items() if text is not None}
        if ttl is not None:
            command["ttl_seconds"] = to_seconds(ttl)
        store = self._complete(command, store, metadata, return_current)
        if self._encryption is not None:
            seconds = self._timeout if timeout is None else timeout
            reply = await restore_sealed(self._call, command, store, timeout=seconds, command_id=id)
        else:
            reply = await self._call(command, store, key, timeout, id, mutates=True)
        return Entry.of(store, key, None, reply)

    async def purge(
        self,
        key: str,
        *,
        etag: str | None = None,
        store: str | None = None,
        metadata: Mapping[str, str] | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        timeout: float | None = None,
        id: str | None = None,  # noqa: A002 - the protocol's word
    ) -> bool:
        """Make the key absent and erase the values of all its versions, with their metadata, for good.

        When it returns, they are gone from the log, on a majority. The history still tells that there were versions,
        when, and by whom. What has been copied elsewhere (backups, queues, consumers of the change feed) is not
        reached. Says whether there was anything.

        :param metadata: kept with the event of the purge: who asked for it, for example.
        :raises ConflictError: if ``etag`` is given and is not the current one, also if the key is absent.
        """
        command: Wire = {"op": "purge", "key": key}
        told = {"etag": etag, "correlation_id": correlation_id, "causation_id": causation_id}
        command |= {name: text for name, text in told.items() if text is not None}
        store = self._complete(command, store, metadata)
        reply = await self._call(command, store, key, timeout, id, mutates=True)
        return bool(reply.changed)

    @overload
    async def read_many(
        self,
        keys: Iterable[str],
        *,
        store: str | None = None,
        consistency: Consistency = "strong",
        timeout: float | None = None,
        return_errors: Literal[False] = False,
    ) -> dict[str, Entry | None]: ...

    @overload
    async def read_many(
        self,
        keys: Iterable[str],
        *,
        store: str | None = None,
        consistency: Consistency = "strong",
        timeout: float | None = None,
        return_errors: Literal[True],
    ) -> dict[str, Entry | HoldfastError | None]: ...

    async def read_many(
        self,
        keys: Iterable[str],
        *,
        store: str | None = None,
        consistency: Consistency = "strong",
        timeout: float | None = None,
        return_errors: bool = False,
    ) -> Mapping[str, Entry | HoldfastError | None]:
        """The states of many keys, in the order of the keys; None for one that is absent.

        Each is read for itself: together they are no snapshot.

        :param return_errors: give the error that a key met in the place of its state, and raise none.
        """
        return await bulk.read_many(
            self, keys, store=store, consistency=consistency, timeout=timeout, return_errors=return_errors
        )

    async def save_many(
        self,
        items: Mapping[str, Any] | Iterable[Save],
        *,
        store: str | None = None,
        timeout: float | None = None,
    ) -> dict[str, Entry | HoldfastError]:
        """Save many keys, each for itself: one that fails keeps no other from being saved.

        :param items: values by key, or :class:`Save` items with conditions.
        :returns: for each key its new state, or the error that it met.
        :raises InvalidError: if a key is given twice; nothing is sent then.
        """
        return await bulk.save_many(self, items, store=store, timeout=timeout)

    async def delete_many(
        self,
        items: Iterable[str | Delete],
        *,
        store: str | None = None,
        timeout: float | None = None,
    ) -> dict[str, bool | HoldfastError]:
        """Delete many keys, each for itself: one that fails keeps no other from being deleted.

        :param items: keys, or :class:`Delete` items with conditions.
        :returns: for each key whether it was there, or the error that it met.
        :raises InvalidError: if a key is given twice; nothing is sent then.
        """
        return await bulk.delete_many(self, items, store=store, timeout=timeout)

    async def transact(
        self,
        steps: Iterable[Step],
        *,
        store: str | None = None,
        metadata: Mapping[str, str] | None = None,
        messages: Sequence[OutboxMessage] = (),
        return_current: bool = False,
        timeout: float | None = None,
        id: str | None = None,  # noqa: A002 - the protocol's word
    ) -> list[StepResult]:
        """Apply all steps in their order, at one moment, or none of them. They are about keys of one store.

        :param steps: :class:`Save`, :class:`Delete` and :class:`Check`, at most 500. Each may have its condition; each
            sees what those before it have made of its key.
        :param metadata: kept with each event.
        :param messages: published if it is committed, and only then, also where it changes nothing: at least once, in
            order. They belong to the key of the first step, and are in one order with the messages of that key.
        :param return_current: a conflict brings the value that it met.
        :returns: one result for each step.
        :raises ConflictError: if a condition does not hold: ``operation`` and ``key`` say whose, the first in order.
        :raises Unavailable: also if others have changed its keys each time that it was tried.
        :raises InvalidError: if a step cannot be meant.
        """
        command: Wire = {"op": "transact", "operations": to_operations(steps)}
        key = command["operations"][0]["key"]
        if messages:
            command["messages"] = [message.model_dump() for message in check_messages(messages)]
        store = self._complete(command, store, metadata, return_current)
        return to_results(await self._call(command, store, key, timeout, id, mutates=True))

    def transaction(
        self,
        *,
        store: str | None = None,
        metadata: Mapping[str, str] | None = None,
        return_current: bool = False,
        timeout: float | None = None,
        id: str | None = None,  # noqa: A002 - the protocol's word
    ) -> Transaction:
        """A transaction to be put together step by step; see :meth:`transact` for parameters and errors.

        ::

            async with client.transaction() as both:
                both.save("account/a", 90, etag=a.etag)
                both.save("account/b", 110, etag=b.etag)
        """

        async def commit(steps: Sequence[Step], messages: Sequence[OutboxMessage]) -> list[StepResult]:
            return await self.transact(
                steps,
                store=store,
                metadata=metadata,
                messages=messages,
                return_current=return_current,
                timeout=timeout,
                id=id,
            )

        return Transaction(commit, store or self._store)

    async def history(
        self,
        key: str,
        *,
        after_version: int = 0,
        before_version: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        backward: bool = False,
        limit: int = 100,
        store: str | None = None,
        timeout: float | None = None,
    ) -> Sequence[HistoryEntry]:
        """Events of the key, oldest first, at most ``limit`` (up to 1,000) of those that all conditions hold for.

        For the next page give the last one's version as ``after_version``, or, backward, as ``before_version``;
        :meth:`iter_history` goes through all of them.

        :param after_version: only later versions.
        :param before_version: only earlier versions.
        :param since: only events of this time or later, in service time.
        :param until: only events of this time or earlier.
        :param backward: newest first.
        :raises ValueError: if a time has no time zone.
        """
        ends = time.monotonic() + (self._timeout if timeout is None else timeout)
        span = Span(after_version, before_version, since, until, backward)
        events: list[HistoryEntry] = []
        while True:
            left = max(0.001, ends - time.monotonic())
            page, following = await self._history_page(key, span, limit - len(events), store, left)
            events += page
            # Large values come on several pages.
            if following is None or len(events) >= limit:
                return events
            span = following

    async def iter_history(
        self,
        key: str,
        *,
        after_version: int = 0,
        before_version: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        backward: bool = False,
        store: str | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[HistoryEntry, None]:
        """All events of the key, however many: read a page at a time, as the loop over them goes on.

        The conditions are those of :meth:`history`. What is appended meanwhile is on the last page, if it is there by
        then. Breaking off leaves nothing behind.

        :param timeout: seconds for each page.
        """
        following: Span | None = Span(after_version, before_version, since, until, backward)
        while following is not None:
            events, following = await self._history_page(key, following, MAX_PAGE, store, timeout)
            for event in events:
                yield event

    async def _history_page(
        self, key: str, span: Span, limit: int, store: str | None, timeout: float | None
    ) -> tuple[Sequence[HistoryEntry], Span | None]:
        command: Wire = {"op": "history", "key": key, "limit": limit, **span.to_wire()}
        store = self._complete(command, store)
        reply = await self._call(command, store, key, timeout, None, mutates=False)
        return reply.events or (), span.following(reply.next) if isinstance(reply.next, int) else None

    async def keys(
        self,
        prefix: str = "",
        *,
        after: str | None = None,
        limit: int = 100,
        store: str | None = None,
        timeout: float | None = None,
    ) -> KeyPage:
        """Keys that are there and begin with the prefix, in byte order, at most ``limit`` (up to 1,000).

        Keys that this user may not list are passed over. A key that is there throughout is on exactly one page,
        whatever is written meanwhile; :meth:`iter_keys` goes through all of them.

        :param after: only keys behind this one: the page's ``next``.
        """
        reply = await self._ask_for_keys({"prefix": prefix, "after": after, "limit": limit}, store, timeout)
        return KeyPage(tuple(reply.keys or ()), reply.next if isinstance(reply.next, str) else None)

    async def iter_keys(
        self, prefix: str = "", *, after: str | None = None, store: str | None = None, timeout: float | None = None
    ) -> AsyncGenerator[KeyEntry, None]:
        """All keys that are there and begin with the prefix, in byte order, read a page at a time.

        :param after: only keys behind this one.
        :param timeout: seconds for each page.
        """
        while True:
            page = await self.keys(prefix, after=after, limit=MAX_PAGE, store=store, timeout=timeout)
            for key in page.keys:
                yield key
            if page.next is None:
                return
            after = page.next

    async def count_keys(self, prefix: str = "", *, store: str | None = None, timeout: float | None = None) -> int:
        """How many keys are there that begin with the prefix, and that this user may list.

        Each is looked at for itself, some thousand at a time: while others write, the number is of no single moment.

        :param timeout: seconds for all of it.
        """
        ends = time.monotonic() + (self._timeout if timeout is None else timeout)
        count = 0
        after: str | None = None
        while True:
            fields: Wire = {"prefix": prefix, "after": after, "count_only": True}
            reply = await self._ask_for_keys(fields, store, max(0.001, ends - time.monotonic()))
            count += reply.count or 0
            if not isinstance(reply.next, str):
                return count
            after = reply.next

    async def _ask_for_keys(self, fields: Wire, store: str | None, timeout: float | None) -> Reply:
        command: Wire = {"op": "keys", **{name: field for name, field in fields.items() if field is not None}}
        name = store or self._store
        if name != DEFAULT_STORE:
            command["store"] = name
        return await self._call(command, name, "", timeout, None, mutates=False)

    def watch(
        self,
        prefix: str = "",
        *,
        pattern: str | None = None,
        since: datetime | None = None,
        store: str | None = None,
    ) -> Watch:
        """Follow the changes of all keys that begin with ``prefix``, or match ``pattern``.

        ::

            async with client.watch("user/") as changes:
                async for change in changes:
                    ...

        First comes what is there, then a :class:`CaughtUp`, then every change: those of one key in the order of its
        versions, each once, across lost connections, workers that die, and restarts of the broker.

        :param pattern: in place of a prefix: ``*`` is for any part of one level of the key, ``**`` for any part of it.
        :param since: tell every change of that time or later first, deletes too, instead of what is there.
        :raises InvalidError: if prefix or pattern cannot be used.

        It needs the rights to ``watch`` and to ``read`` all that begins with the prefix, or with what precedes the
        pattern's first ``*``; and on the broker the right to read the exchange ``holdfast.events``.
        """
        watch = Watch(
            self,
            self._link.subscriber().subscribe,
            Selection(prefix, pattern),
            store=store or self._store,
            since=since,
            on_close=self._watches.discard,
        )
        self._watches.add(watch)
        return watch

    async def ask(self, command: Wire, store: str, key: str) -> Reply:
        """Send a command that changes nothing. Of no use but to a watch.

        It does not wait in line behind the calls of this client: a watch asks little at a time, and when it was
        interrupted it would else tell nothing until all of them are done.
        """
        return await self._call(command, store, key, None, None, mutates=False, waits=False)

    @property
    def space(self) -> str:
        """What all its keys begin with in the store. Of no use but to a watch."""
        return "" if self._space is None else self._space.prefix

    def opened(self, entry: HistoryEntry, store: str) -> HistoryEntry:
        """An event with its value as it was before it was sealed. Of no use but to a watch."""
        return entry if self._encryption is None else self._encryption.open_event(store, entry.key or "", entry)

    async def feed_mode(self, store: str) -> FeedMode:
        """Which messages a store's events are in."""
        service = await self._describe(None, waits=False)
        match service.feed.get(store):
            case "levels" | "store" as mode:
                return mode
            case _:
                return "off"

    async def query(
        self,
        condition: Condition | None = None,
        *,
        prefix: str = "",
        sort: Sequence[Order | str] = (),
        projection: Sequence[FieldPath] | None = None,
        limit: int = 100,
        token: str | None = None,
        explain: bool = False,
        store: str | None = None,
        timeout: float | None = None,
    ) -> QueryPage:
        """A page of the current values that match; of keys that this user may both query and read.

        Each entry was in the log like that when it was looked up: none of them is deleted or expired. What was written
        after the page's ``as_of`` may be missing, and entries may stand where they stood before it.

        :param condition: such as ``field("age").gte(18) & ~field("left").exists()``; None for all.
        :param prefix: what the keys begin with.
        :param sort: orders or names of fields, up to four; by key without any.
        :param projection: fields of the values that are wanted; None for all.
        :param limit: entries at most, up to 1,000. A page may be shorter, and even empty, with more behind it.
        :param token: of the page before, which was asked for by the same condition, prefix and sort.
        :param explain: find nothing, and tell only whether every key would be looked at.
        :raises InvalidError: if the query is wrong, or (code ``scan``) would look at every key where that is forbidden.
        :raises Unavailable: if it takes too long (an index may help), or the store is away.
        """
        command = query_command(
            condition, prefix=prefix, sort=sort, projection=projection, limit=limit, token=token, explain=explain
        )
        name = store or self._store
        if name != DEFAULT_STORE:
            command["store"] = name
        # It is about no one key: any partition will do, and each time another one spreads the work.
        route = str(uuid_utils.uuid7())
        return query_page(await self._call(command, name, route, timeout, route, mutates=False), name)

    async def iter_query(
        self,
        condition: Condition | None = None,
        *,
        prefix: str = "",
        sort: Sequence[Order | str] = (),
        projection: Sequence[FieldPath] | None = None,
        store: str | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Entry, None]:
        """All entries that match, read a page at a time as the loop over them goes on. See :meth:`query`.

        :param timeout: seconds for each page.
        """
        token: str | None = None
        while True:
            page = await self.query(
                condition,
                prefix=prefix,
                sort=sort,
                projection=projection,
                limit=MAX_PAGE,
                token=token,
                store=store,
                timeout=timeout,
            )
            for entry in page.entries:
                yield entry
            token = page.token
            if token is None:
                return

    async def describe(self, *, timeout: float | None = None) -> Service:
        """What the service says of itself: partitions, stores and what each can do, limits, its time."""
        return await self._describe(timeout)

    async def _describe(self, timeout: float | None, *, waits: bool = True) -> Service:
        reply = await self._call({"op": "describe"}, "", "", timeout, None, mutates=False, waits=waits)
        protocol, limits = reply.protocol or {}, reply.limits or {}
        service = Service(
            partitions=reply.partitions or 1,
            epoch=reply.epoch or 0,
            stores=tuple(reply.stores or ()),
            protocol=(protocol.get("min", 1), protocol.get("max", 1)),
            max_value_bytes=limits.get("value_bytes", 0),
            time=to_datetime(reply.time or 0),
            feed=dict(reply.feed or {}),
            capabilities={store: frozenset(names) for store, names in (reply.capabilities or {}).items()},
            ttl_seconds=dict(reply.ttl_seconds or {}),
        )
        self._service = service
        if self._dispatcher is not None:
            self._dispatcher.epoch = service.epoch
            self._dispatcher.repartition(service.partitions)
        return service

    def state(
        self,
        key: str,
        type: type[T],  # noqa: A002 - what it is
        *,
        store: str | None = None,
        default: Callable[[], T] | None = None,
        ttl: Ttl | None = None,
        timeout: float | None = None,
        serializer: Serializer[T] | None = None,
    ) -> PersistentState[T]:
        """A handle on one key, typed. Makes no call by itself.

        :param type: a pydantic model, a dataclass, any other type that pydantic can validate, a msgspec struct,
            ``bytes``, or ``Any`` for plain JSON.
        :param default: makes the value of a key that is absent.
        :param ttl: how long the value lives after each write and update: seconds, a timedelta of whole ones, or
            "forever"; without it, as after a ``save`` without.
        :param serializer: in the place of the one that fits the type.
        """
        return PersistentState(
            self, key, type, store=store, default=default, ttl=ttl, timeout=timeout, serializer=serializer
        )

    def activate(
        self,
        entity: type[E],
        id: str,  # noqa: A002 - what it is
        *,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[E]:
        """An entity with all its states loaded, in ``async with``. Nothing is saved at the end by itself.

        :param id: the first part of the keys of its states.
        :param timeout: seconds for each call that its states make.
        :raises ActivationError: if a state cannot be loaded; it names the state.
        """
        return activate(self, entity, id, timeout=timeout)

    def _complete(
        self,
        command: Wire,
        store: str | None,
        metadata: Mapping[str, str] | None = None,
        return_current: bool = False,
    ) -> str:
        """Add what is not the default, and give back the store's name."""
        if "key" in command:
            check_key(command["key"])
        name = store or self._store
        if name != DEFAULT_STORE:
            command["store"] = name
        if metadata:
            command["metadata"] = dict(metadata)
        if return_current:
            command["return_current"] = True
        return name

    async def _call(
        self,
        command: Wire,
        store: str,
        key: str,
        timeout: float | None,
        command_id: str | None,
        *,
        mutates: bool,
        waits: bool = True,
        opens: bool = True,
    ) -> Reply:
        dispatcher = self._dispatcher
        if dispatcher is None:
            raise ClosedError("this client is not open: use it in `async with`")
        seconds = self._timeout if timeout is None else timeout
        places = self._places
        if not waits:
            places.take_ahead()
        elif not places.take_at_once():
            seconds = await self._wait_for_place(seconds)
        size: int | None = None
        try:
            command["v"] = 1
            command["id"] = command_id = check_id(command_id) if command_id else str(uuid_utils.uuid7())
            place = key if self._space is None else self._space.enter(command, key)
            if self._encryption is not None:
                self._encryption.seal_command(command, store)
            if self._service is not None:
                now = time.monotonic() * 1000 + self._clock_offset
                command["sent_at"] = int(now)
                command["deadline"] = int(now + seconds * 1000)
            body = encode(command)
            if len(body) > MAX_MESSAGE_BYTES - 2:
                raise TooLargeError(f"a command is limited to {MAX_MESSAGE_BYTES - 2} bytes, not {len(body)}")
            size = len(body)
            places.hold(size)
            reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            call = Call(command_id, store, place, body, mutates, reply)
            dispatcher.submit(call, seconds)
            try:
                answer = await reply
            finally:
                if not reply.done() or reply.cancelled():
                    dispatcher.forget(call)
        finally:
            places.free(size)
        if self._encryption is not None and opens:
            answer = self._encryption.open_reply(answer, command, store)
        if self._space is not None:
            answer = self._space.leave(answer)
        if answer.status != "ok":
            call.key = key
            raise to_error(answer, call)
        return answer

    async def _wait_for_place(self, seconds: float) -> float:
        """Wait for a call to end. Give back how many of the seconds are left."""
        before = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                await self._places.take()
        except TimeoutError:
            raise Unavailable(
                f"too many calls in flight for {seconds:g} s, this one was not sent: {self._max_in_flight} of them "
                f"(max_in_flight) or {MAX_IN_FLIGHT_BYTES >> 20} MiB had no answer. Make fewer at a time"
            ) from None
        return max(0.001, seconds - (time.monotonic() - before))

    def _on_up(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.on_up()

    def _on_replies(self, replies: list[Reply]) -> None:
        # Every answer tells service time, so that deadlines stay right over a sleep of this machine too.
        if replies and (service_time := replies[-1].time) is not None:
            # A late answer shows a time that has passed since, so that going back is done by small steps.
            gain = service_time - time.monotonic() * 1000 - self._clock_offset
            self._clock_offset += gain if gain > 0 else gain * CLOCK_CAUTION
        if self._dispatcher is not None:
            self._dispatcher.on_replies(replies)

    def _on_epoch(self, _: int) -> None:
        if self._service is not None and self._describing is None:
            self._describing = asyncio.create_task(self._describe_again())

    async def _describe_again(self) -> None:
        try:
            await self.describe()
            await asyncio.sleep(DESCRIBE_PAUSE)
        except HoldfastError as fault:
            # The next reply shows the epoch again.
            log.info("the topology has changed, but no worker describes it: %s", fault)
        finally:
            self._describing = None
