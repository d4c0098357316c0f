"""Patches: changes that are made where the value is kept, without a read of it. They are methods of :class:`Client`.

A patch is one write: it has one command id, makes one version, and takes effect at most once. The event in the
history holds the whole value that came of it, and so does the entry that comes back.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from ..events import PatchKind, check_key, check_value
from ..events.patches import check_patch
from .caller import Caller
from .calls import Wire
from .entry import Entry
from .options import ValueOptions, spelled_out


@spelled_out
async def merge_patch(self: Caller, key: str, patch: Any, **options: Unpack[ValueOptions]) -> Entry:
    """Apply a JSON Merge Patch (RFC 7396): members are set, deeply, and removed where the patch has None.

    A key that is absent is patched like ``None``.

    :param etag: demand that the key's current state has this etag.
    :param ttl: how long the key lives from now on, or "forever"; without it a key that expires still does, when it
        did before, and one that stays does. One that was absent lives as after a ``save``.
    :param messages: published if the patch is committed, and only then: at least once, in order.
    :param return_current: a conflict brings the value that it met.
    :param id: the command id; a new one unless this repeats an earlier call.
    :returns: the state that came of it.
    :raises ConflictError: if the etag does not match; with the code ``unpatchable`` if too much came of it.
    :raises DeniedError: if the user may not read the key too.
    :raises InvalidError: if it is no patch.
    """
    return await _patch(self, "merge", key, patch, options)


@spelled_out
async def json_patch(
    self: Caller, key: str, operations: Iterable[Mapping[str, Any]], **options: Unpack[ValueOptions]
) -> Entry:
    """Apply a JSON Patch (RFC 6902): all of its operations in order, or none.

    For the other arguments, and what it gives back and raises, see :meth:`merge_patch`.

    :raises ConflictError: with the code ``test_failed`` if a ``test`` does, ``unpatchable`` if another operation
        does not fit the value, and ``absent`` if there is none. ``field`` says which operation.
    """
    # What is no array of objects is left as it is, to be refused for that.
    patch: Any = operations
    if not isinstance(operations, str | Mapping):
        patch = [dict(each) if isinstance(each, Mapping) else each for each in operations]
    return await _patch(self, "json-patch", key, patch, options)


@spelled_out
async def increment(
    self: Caller,
    key: str,
    by: float | Mapping[str, float] = 1,
    *,
    path: str = "",
    **options: Unpack[ValueOptions],
) -> Entry:
    """Add to a number. One that is missing, or whose key is absent, counts from 0.

    For the other arguments, and what it gives back and raises, see :meth:`merge_patch`.

    :param by: what is added; or, for several numbers at once, their places with what is added to each.
    :param path: a JSON Pointer to the number, such as ``/visits``; without it the value itself is the number.
    :raises ConflictError: with the code ``unpatchable`` if there is something else in its place, or the sum is
        beyond 64 bits.
    """
    patch = dict(by) if isinstance(by, Mapping) else {path: by}
    return await _patch(self, "increment", key, patch, options)


async def _patch(self: Caller, kind: PatchKind, key: str, patch: Any, options: ValueOptions) -> Entry:
    check_patch(kind, check_value(patch, field="patch"))
    command: Wire = {"op": "patch", "key": check_key(key), "kind": kind, "patch": patch, "return_value": True}
    store = self._complete(command, options, ValueOptions)
    reply = await self._call(command, store, key, options.get("timeout"), options.get("id"), mutates=True)
    return Entry.of(store, key, reply.value, reply)
