"""The client's patches: changes that are made where the value is kept, without a read of it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..events import OutboxMessage, PatchKind, Reply, check_value
from ..events.outbox import check_messages
from ..events.patches import check_patch
from .calls import Wire
from .entry import Entry
from .lifetime import Ttl, to_seconds


class PatchCalls(ABC):
    """What :class:`Client` offers beside reading and writing whole values.

    A patch is one write: it has one command id, makes one version, and takes effect at most once. The event in the
    history holds the whole value that came of it, and so does the entry that comes back.
    """

    async def merge_patch(
        self,
        key: str,
        patch: Any,
        *,
        etag: str | None = None,
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
        return await self._patch(
            "merge",
            key,
            patch,
            etag,
            ttl,
            store,
            metadata,
            messages,
            (correlation_id, causation_id),
            return_current,
            timeout,
            id,
        )

    async def json_patch(
        self,
        key: str,
        operations: Iterable[Mapping[str, Any]],
        *,
        etag: str | None = None,
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
        """Apply a JSON Patch (RFC 6902): all of its operations in order, or none.

        For the other arguments, and what it gives back and raises, see :meth:`merge_patch`.

        :raises ConflictError: with the code ``test_failed`` if a ``test`` does, ``unpatchable`` if another operation
            does not fit the value, and ``absent`` if there is none. ``field`` says which operation.
        """
        # What is no array of objects is left as it is, to be refused for that.
        patch: Any = operations
        if not isinstance(operations, str | Mapping):
            patch = [dict(each) if isinstance(each, Mapping) else each for each in operations]
        return await self._patch(
            "json-patch",
            key,
            patch,
            etag,
            ttl,
            store,
            metadata,
            messages,
            (correlation_id, causation_id),
            return_current,
            timeout,
            id,
        )

    async def increment(
        self,
        key: str,
        by: float | Mapping[str, float] = 1,
        *,
        path: str = "",
        etag: str | None = None,
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
        """Add to a number. One that is missing, or whose key is absent, counts from 0.

        For the other arguments, and what it gives back and raises, see :meth:`merge_patch`.

        :param by: what is added; or, for several numbers at once, their places with what is added to each.
        :param path: a JSON Pointer to the number, such as ``/visits``; without it the value itself is the number.
        :raises ConflictError: with the code ``unpatchable`` if there is something else in its place, or the sum is
            beyond 64 bits.
        """
        patch = dict(by) if isinstance(by, Mapping) else {path: by}
        return await self._patch(
            "increment",
            key,
            patch,
            etag,
            ttl,
            store,
            metadata,
            messages,
            (correlation_id, causation_id),
            return_current,
            timeout,
            id,
        )

    async def _patch(
        self,
        kind: PatchKind,
        key: str,
        patch: Any,
        etag: str | None,
        ttl: Ttl | None,
        store: str | None,
        metadata: Mapping[str, str] | None,
        messages: Sequence[OutboxMessage],
        links: tuple[str | None, str | None],
        return_current: bool,
        timeout: float | None,
        command_id: str | None,
    ) -> Entry:
        check_patch(kind, check_value(patch, field="patch"))
        command: Wire = {"op": "patch", "key": key, "kind": kind, "patch": patch, "return_value": True}
        if etag is not None:
            command["etag"] = etag
        if ttl is not None:
            command["ttl_seconds"] = to_seconds(ttl)
        if messages:
            command["messages"] = [message.model_dump() for message in check_messages(messages)]
        for name, link in zip(("correlation_id", "causation_id"), links, strict=True):
            if link is not None:
                command[name] = link
        store = self._complete(command, store, metadata, return_current)
        reply = await self._call(command, store, key, timeout, command_id, mutates=True)
        return Entry.of(store, key, reply.value, reply)

    @abstractmethod
    def _complete(
        self,
        command: Wire,
        store: str | None,
        metadata: Mapping[str, str] | None = None,
        return_current: bool = False,
    ) -> str: ...

    @abstractmethod
    async def _call(
        self, command: Wire, store: str, key: str, timeout: float | None, command_id: str | None, *, mutates: bool
    ) -> Reply: ...
