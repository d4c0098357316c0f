"""Bulk calls: many keys at once, each for itself, with an outcome for each. They are methods of :class:`Client`."""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Literal, TypeVar, overload

from ..events import Consistency, HoldfastError, InvalidError
from .caller import Caller
from .entry import Delete, Entry, Save
from .reads import read
from .writes import delete, save

R = TypeVar("R")


@overload
async def read_many(
    self: Caller,
    keys: Iterable[str],
    *,
    store: str | None = None,
    consistency: Consistency = "strong",
    timeout: float | None = None,
    return_errors: Literal[False] = False,
) -> dict[str, Entry | None]: ...


@overload
async def read_many(
    self: Caller,
    keys: Iterable[str],
    *,
    store: str | None = None,
    consistency: Consistency = "strong",
    timeout: float | None = None,
    return_errors: Literal[True],
) -> dict[str, Entry | HoldfastError | None]: ...


async def read_many(
    self: Caller,
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
    calls = {key: read(self, key, store=store, consistency=consistency, timeout=timeout) for key in dict.fromkeys(keys)}
    if return_errors:
        return await _outcomes(calls)
    return dict(zip(calls, await asyncio.gather(*calls.values()), strict=True))


async def save_many(
    self: Caller,
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
    saves = [Save(*item) for item in items.items()] if isinstance(items, Mapping) else list(items)
    _check_distinct([item.key for item in saves])
    return await _outcomes(
        {
            item.key: save(
                self,
                item.key,
                item.value,
                etag=item.etag,
                first_write=item.first_write,
                ttl=item.ttl,
                store=store,
                timeout=timeout,
            )
            for item in saves
        }
    )


async def delete_many(
    self: Caller,
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
    deletes = [Delete(item) if isinstance(item, str) else item for item in items]
    _check_distinct([item.key for item in deletes])
    return await _outcomes(
        {item.key: delete(self, item.key, etag=item.etag, store=store, timeout=timeout) for item in deletes}
    )


def _check_distinct(keys: list[str]) -> None:
    if len(set(keys)) != len(keys):
        raise InvalidError("a key is given twice", code="duplicate_key", field="key")


async def _outcomes(calls: Mapping[str, Coroutine[Any, Any, R]]) -> dict[str, R | HoldfastError]:
    """What each call gives back, or the error that it meets."""

    async def one(call: Coroutine[Any, Any, R]) -> R | HoldfastError:
        try:
            return await call
        except HoldfastError as error:
            return error

    return dict(zip(calls, await asyncio.gather(*map(one, calls.values())), strict=True))
