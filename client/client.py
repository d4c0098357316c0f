"""The client: save, read and delete by key, over one connection that many callers share."""

import warnings
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TypeVar, Unpack

from ..events.topology import DEFAULT_STORE
from ..plaintext import PlaintextWarning, exposed_hosts, told
from . import bulk, histories, listings, patches, queries, reads, transactions, writes
from .caller import DEFAULT_MAX_IN_FLIGHT, DEFAULT_TIMEOUT, Caller
from .encryption import Encryption
from .entities import Entity, activate
from .keyspace import Strategy
from .options import HandleOptions, spelled_out
from .selection import Selection
from .state import PersistentState
from .watch import Watch

T = TypeVar("T")
E = TypeVar("E", bound=Entity)


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


class Client(Caller):
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

    # Its calls stand in modules by families, as functions whose first parameter is the client.

    save = writes.save
    read = reads.read
    delete = writes.delete
    restore = writes.restore
    purge = writes.purge

    merge_patch = patches.merge_patch
    json_patch = patches.json_patch
    increment = patches.increment

    read_many = bulk.read_many
    save_many = bulk.save_many
    delete_many = bulk.delete_many

    transact = transactions.transact
    transaction = transactions.transaction

    history = histories.history
    iter_history = histories.iter_history

    keys = listings.keys
    iter_keys = listings.iter_keys
    count_keys = listings.count_keys

    query = queries.query
    iter_query = queries.iter_query

    @spelled_out
    def state(
        self,
        key: str,
        type: type[T],  # noqa: A002 - what it is
        **options: Unpack[HandleOptions[T]],
    ) -> PersistentState[T]:
        """A handle on one key, typed. Makes no call by itself.

        :param type: a pydantic model, a dataclass, any other type that pydantic can validate, a msgspec struct,
            ``bytes``, or ``Any`` for plain JSON.
        :param default: makes the value of a key that is absent.
        :param ttl: how long the value lives after each write and update: seconds, a timedelta of whole ones, or
            "forever"; without it, as after a ``save`` without.
        :param serializer: in the place of the one that fits the type.
        """
        return PersistentState(self, key, type, **options)

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
