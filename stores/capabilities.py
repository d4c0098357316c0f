"""Capabilities: what a store may offer beyond :class:`EventStore`.

A third party's store is an ``EventStore`` and need be nothing more. Whatever a feature needs besides is a protocol of
its own in stores/interface.py, ``@runtime_checkable`` and derived from ``EventStore``, so that ``isinstance`` asks for
it and narrows the type. To make use of one:

* An operation that cannot be served without it: put op and protocol into ``NEEDS``. The intake then refuses such
  commands to stores that lack it, at once and for good (status ``invalid``, code ``unsupported``; the client raises
  :class:`UnsupportedError`), before anything else is done with them.
* An operation that needs it for some of its fields only: ask by ``isinstance`` where it is served, and answer with
  ``unsupported(…)``.
* A setting that needs it: refuse it by :class:`StoreConfigError` when the store is built.

Give it a name in ``CAPABILITIES``, by which ``describe`` tells of it. Tests of a capability belong to the contract
suite, in a module of their own that asks for it by its fixture.
"""

from collections.abc import Mapping
from typing import Any, Final

from ..events import Status
from ..events.replies import error
from .inspection import InspectableStore
from .interface import EventStore, ExpiringStore, IndexedStore, TransactionalStore
from .retention import CompactableStore

#: What stores may offer beyond the core, by the name that everybody is told.
CAPABILITIES: Final[dict[str, type]] = {
    "erasing": CompactableStore,
    "expiry": ExpiringStore,
    "indexes": IndexedStore,
    "inspection": InspectableStore,
    "transactions": TransactionalStore,
}

#: Operations that not every store can serve, and the capability that each of them needs.
NEEDS: Final[dict[str, type]] = {"purge": CompactableStore, "transact": TransactionalStore}


def lacking(store: EventStore, needs: Mapping[str, type] = NEEDS) -> frozenset[str]:
    """The operations that this store cannot serve."""
    return frozenset(op for op, capability in needs.items() if not isinstance(store, capability))


def offered(store: EventStore) -> list[str]:
    """The names of the capabilities that this store has, in their order."""
    return sorted(name for name, capability in CAPABILITIES.items() if isinstance(store, capability))


def unsupported(store: str, what: str) -> dict[str, Any]:
    """The answer to a command that needs something which its store does not offer.

    :param what: as in "the store 'x' does not offer <what>".
    """
    message = f"the store {store!r} does not offer {what}"
    return error(Status.INVALID, "unsupported", message)
