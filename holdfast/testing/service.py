"""What tests are given: a service, wherever it runs, that makes clients and injects faults."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final, Unpack

from ..client import Client, SyncClient
from ..client.lifetime import Ttl, to_seconds
from ..client.options import ConnectOptions
from ..events.limits import FOREVER
from ..events.urls import user_of
from .faults import Faults

#: Of stores in which values stay.
NO_LIFETIMES: Final[Mapping[str, Ttl]] = MappingProxyType({})


def prefix_of(options: ConnectOptions, url: str) -> str:
    """What all keys of such a client begin with."""
    keys = options.get("keys")
    return "" if keys is None else keys(user_of(url))


def lifetimes_of(ttl: Mapping[str, Ttl], stores: Collection[str]) -> dict[str, int]:
    """By store, the seconds that values live which are not told how long.

    :raises ValueError: if one is of a store that is not there.
    """
    unknown = ttl.keys() - set(stores)
    if unknown:
        raise ValueError(f"there is a ttl for {min(unknown)!r}, which is no store of this service")
    seconds = {store: to_seconds(one) for store, one in ttl.items()}
    return {store: one for store, one in seconds.items() if one != FOREVER}


class Service(ABC):
    """A Holdfast service for one test."""

    def __init__(self, faults: Faults | None = None) -> None:
        #: What goes wrong on the way between the service and its clients; nothing, unless it is told.
        self.faults = faults or Faults()

    def connect(self, *, user: str | None = None, **options: Unpack[ConnectOptions]) -> Client:
        """Make a client. Use it in ``async with``, as one of :func:`holdfast.connect`.

        :param user: the author of what it does, where access rules name users. Only a service in memory has users
            that need no account.
        """
        return self._client(options, user)

    def connect_sync(self, *, user: str | None = None, **options: Unpack[ConnectOptions]) -> SyncClient:
        """Make a client that blocks. Use it in ``with``, as one of :func:`holdfast.connect_sync`."""
        return SyncClient(self.connect(user=user, **options))

    @abstractmethod
    def _client(self, options: ConnectOptions, user: str | None) -> Client:
        """Make a client whose link goes through the faults."""

    @abstractmethod
    def advance(self, seconds: float) -> None:
        """Let so many seconds of service time pass at once.

        :raises RuntimeError: if it runs on real servers, whose clocks are not ours to turn.
        """

    @abstractmethod
    def close(self) -> None:
        """End it."""
