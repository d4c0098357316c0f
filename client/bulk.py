"""Bulk calls: many keys at once, each for itself, with an outcome for each."""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ..events import Consistency, HoldfastError, InvalidError
from .entry import Delete, Entry, Save

if TYPE_CHECKING:
    from .client import Client

R = TypeVar("R")


async def read_many(
    client: "Client",
    keys: Iterable[str],
    *,
    store: str | None,
    consistency: Consistency,
    timeout: float | None,
    return_errors: bool,
) -> dict[str, Entry | HoldfastError | None]:
    """See :meth:`Client.read_many`."""
    calls = {
        key: client.read(key, store=store, consistency=consistency, timeout=timeout) for key in dict.fromkeys(keys)
    }
    if return_errors:
        return await _outcomes(calls)
    return dict(zip(calls, await asyncio.gather(*calls.values()), strict=True))


async def save_many(
    client: "Client", items: Mapping[str, Any] | Iterable[Save], *, store: str | None, timeout: float | None
) -> dict[str, Entry | HoldfastError]:
    """See :meth:`Client.save_many`."""
    saves = [Save(*item) for item in items.items()] if isinstance(items, Mapping) else list(items)
    _check_distinct([item.key for item in saves])
    return await _outcomes(
        {
            item.key: client.save(
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
    client: "Client", items: Iterable[str | Delete], *, store: str | None, timeout: float | None
) -> dict[str, bool | HoldfastError]:
    """See :meth:`Client.delete_many`."""
    deletes = [Delete(item) if isinstance(item, str) else item for item in items]
    _check_distinct([item.key for item in deletes])
    return await _outcomes(
        {item.key: client.delete(item.key, etag=item.etag, store=store, timeout=timeout) for item in deletes}
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
