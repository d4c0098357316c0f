"""A thread with an event loop, in which a service runs beside a test."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

#: Runs the service: calls the first when it is ready, and comes back when the second is set.
Serve = Callable[[Callable[[], None], asyncio.Event], Coroutine[Any, Any, None]]


class ServiceThread:
    """A service in a thread of its own. It runs once."""

    def __init__(self, serve: Serve, *, name: str, patience: float) -> None:
        """Make one that has not started yet.

        :param name: of the thread.
        :param patience: seconds for the service to be ready, and to be gone.
        """
        self._serve = serve
        self._name = name
        self._patience = patience
        self._thread: threading.Thread | None = None
        self._up = threading.Event()
        self._fault: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._stopped = False

    @property
    def has_started(self) -> bool:
        """Whether it was started, be it that it has ended since."""
        return self._thread is not None

    @property
    def has_failed(self) -> bool:
        """Whether the service has ended by an error that nobody was told."""
        return self._fault is not None

    def start(self) -> None:
        """Start it, and wait until it is ready, or has failed.

        :raises RuntimeError: if neither comes about in time.
        """
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()
        if not self._up.wait(self._patience):
            raise RuntimeError(f"the service was not ready within {self._patience:g} s")

    def stop(self) -> BaseException | None:
        """End it, and wait for that. Repeating it is harmless. Gives back what the service failed with, once."""
        if self._thread is not None:
            self._stopped = True
            if self._stopping is not None:
                self.call_soon(self._stopping.set)
            self._thread.join(self._patience)
        fault, self._fault = self._fault, None
        return fault

    def call_soon(self, action: Callable[[], None]) -> bool:
        """Have something done in its loop, from any thread. Says whether there is one, still."""
        if self._loop is None:
            return False
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:
            # It is closed, perhaps in this moment.
            return False
        return True

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as fault:  # noqa: BLE001 - it belongs to whoever starts or stops the service
            self._fault = fault
        finally:
            self._up.set()

    async def _main(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        if self._stopped:
            self._stopping.set()
        await self._serve(self._up.set, self._stopping)
