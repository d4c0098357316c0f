"""Writes of one key: save, delete, restore and purge. They are methods of :class:`Client`."""

from typing import Any, Unpack

from ..events import check_key, check_value
from .caller import Caller
from .calls import Wire
from .entry import Entry
from .options import DeleteOptions, RestoreOptions, ValueOptions, WriteOptions, spelled_out
from .resealing import restore_sealed


@spelled_out
async def save(
    self: Caller, key: str, value: Any, *, first_write: bool = False, **options: Unpack[ValueOptions]
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
    command: Wire = {"op": "save", "key": check_key(key), "value": check_value(value)}
    if first_write:
        command["concurrency"] = "first-write"
    store = self._complete(command, options, ValueOptions)
    reply = await self._call(command, store, key, options.get("timeout"), options.get("id"), mutates=True)
    return Entry.of(store, key, value, reply)


@spelled_out
async def delete(self: Caller, key: str, **options: Unpack[DeleteOptions]) -> bool:
    """Make the key absent. Its history stays. Says whether it was there.

    :param messages: as of ``save``. Where there was nothing to delete, nothing is published either.
    :raises ConflictError: if ``etag`` is given and is not the current one, also if the key is absent.
    """
    command: Wire = {"op": "delete", "key": check_key(key)}
    store = self._complete(command, options, DeleteOptions)
    reply = await self._call(command, store, key, options.get("timeout"), options.get("id"), mutates=True)
    return bool(reply.changed)


@spelled_out
async def restore(self: Caller, key: str, *, version: int, **options: Unpack[RestoreOptions]) -> Entry:
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
    command: Wire = {"op": "restore", "key": check_key(key), "at_version": version}
    store = self._complete(command, options, RestoreOptions)
    if self._encryption is None:
        reply = await self._call(command, store, key, options.get("timeout"), options.get("id"), mutates=True)
    else:
        seconds = self._seconds(options.get("timeout"))
        reply = await restore_sealed(self, command, store, timeout=seconds, command_id=options.get("id"))
    return Entry.of(store, key, None, reply)


@spelled_out
async def purge(self: Caller, key: str, **options: Unpack[WriteOptions]) -> bool:
    """Make the key absent and erase the values of all its versions, with their metadata, for good.

    When it returns, they are gone from the log, on a majority. The history still tells that there were versions,
    when, and by whom. What has been copied elsewhere (backups, queues, consumers of the change feed) is not
    reached. Says whether there was anything.

    :param metadata: kept with the event of the purge: who asked for it, for example.
    :raises ConflictError: if ``etag`` is given and is not the current one, also if the key is absent.
    """
    command: Wire = {"op": "purge", "key": check_key(key)}
    store = self._complete(command, options, WriteOptions)
    reply = await self._call(command, store, key, options.get("timeout"), options.get("id"), mutates=True)
    return bool(reply.changed)
