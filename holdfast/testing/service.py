"""What tests are given: a service, wherever it runs, that makes clients and injects faults."""

from abc import ABC, abstractmethod
from typing import Unpack

from ..client import Client, SyncClient
from ..client.options import ConnectOptions
from ..events.urls import user_of
from .faults import Faults


def prefix_of(options: ConnectOptions, url: str) -> str:
    """What all keys of such a client begin with."""
    keys = options.get("keys")
    return "" if keys is None else keys(user_of(url))


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
