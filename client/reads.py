"""Reading the state of one key, as it is or as it was. It is a method of :class:`Client`."""

from datetime import datetime

from ..events import Consistency, check_key
from .caller import Caller
from .calls import Wire
from .entry import Entry, to_millis


async def read(
    self: Caller,
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
    command: Wire = {"op": "read", "key": check_key(key)}
    if version is not None and at is not None:
        raise ValueError("version and at exclude each other")
    if version is not None:
        command["at_version"] = version
    if at is not None:
        command["at_time"] = to_millis(at)
    if consistency != "strong":
        command["consistency"] = consistency
    store = self._name_store(command, store)
    reply = await self._call(command, store, key, timeout, None, mutates=False)
    return Entry.of(store, key, reply.value, reply) if reply.exists else None
