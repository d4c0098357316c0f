"""The thread in which a service runs beside a test."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from holdfast.testing.servers import ServerService
from holdfast.testing.thread import ServiceThread
from holdfast.worker import Worker


def test_it_is_ready_when_start_returns_and_gone_when_stop_does() -> None:
    """Given a service, when it is started and stopped, then it runs in between, in a thread of the name."""
    stages: list[str] = []

    async def serve(on_ready: Callable[[], None], stopping: asyncio.Event) -> None:
        stages.append(threading.current_thread().name)
        on_ready()
        await stopping.wait()
        stages.append("gone")

    thread = ServiceThread(serve, name="a-service", patience=30)
    assert not thread.call_soon(lambda: stages.append("too early"))
    thread.start()
    assert (stages, thread.has_started, thread.has_failed) == (["a-service"], True, False)
    assert thread.call_soon(lambda: stages.append("meanwhile"))
    assert thread.stop() is None
    assert stages == ["a-service", "meanwhile", "gone"]
    assert thread.stop() is None
    assert not thread.call_soon(lambda: stages.append("too late"))


def test_what_keeps_it_from_starting_is_told_once() -> None:
    """Given a service that fails before it is ready, when it is started, then it has failed; stop tells by what."""

    async def serve(_: Callable[[], None], __: asyncio.Event) -> None:
        raise OSError("no servers")

    thread = ServiceThread(serve, name="a-service", patience=30)
    thread.start()
    assert thread.has_failed
    assert isinstance(thread.stop(), OSError)
    assert thread.stop() is None


def test_one_that_is_not_ready_in_time_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a service that is slow to begin, when it is given up, then it ends as soon as it has begun."""
    begin, run = threading.Event(), asyncio.run

    def run_late(main: Coroutine[Any, Any, None]) -> None:
        assert begin.wait(30)
        run(main)

    monkeypatch.setattr(asyncio, "run", run_late)

    async def serve(_: Callable[[], None], stopping: asyncio.Event) -> None:
        await stopping.wait()

    thread = ServiceThread(serve, name="a-service", patience=0)
    with pytest.raises(RuntimeError, match="not ready within"):
        thread.start()
    assert thread.stop() is None
    begin.set()
    assert thread._thread is not None
    thread._thread.join(30)
    assert not thread._thread.is_alive()


def test_a_worker_that_cannot_run_is_told_of_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a worker that fails at once, when its service is started, then that raises it, and all is cleared up."""
    discarded: list[bool] = []

    async def run(_: Worker) -> None:
        raise OSError("no servers")

    monkeypatch.setattr(Worker, "run", run)
    service = ServerService("amqp://localhost/", "mongodb://localhost/", discard=lambda: discarded.append(True))
    with pytest.raises(OSError, match="no servers"):
        service.start()
    assert discarded == [True]
    service.close()
    assert discarded == [True]


async def test_a_worker_that_has_failed_was_never_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a worker that fails at once, when its service runs, then nobody is told that it is ready."""
    ready: list[bool] = []

    async def run(_: Worker) -> None:
        raise OSError("no servers")

    monkeypatch.setattr(Worker, "run", run)
    service = ServerService("amqp://localhost/", "mongodb://localhost/")
    with pytest.raises(OSError, match="no servers"):
        await service._serve(lambda: ready.append(True), asyncio.Event())
    assert ready == []
