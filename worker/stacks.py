"""Stacks: where a worker that seems to hang is, for whoever asks it by SIGUSR1. Places in the code, and no values."""

import asyncio
import faulthandler
import logging
import signal
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)


def tell_stacks_on_request() -> None:
    """From now on, SIGUSR1 has all threads written to standard error, at once, and all tasks to the log.

    The threads come even if the event loop does not.
    """
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell_tasks)
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)


def _tell_tasks() -> None:
    told = Counter(" < ".join(waits(task)) or "(ended)" for task in asyncio.all_tasks())
    log.info("%d tasks, each with what it waits in, innermost first", told.total())
    for places, count in sorted(told.items()):
        log.info("%d in %s", count, places)


def waits(task: "asyncio.Task[Any]") -> list[str]:
    """The functions that a task is in, innermost first, with their files and lines."""
    places: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        # Coroutines, asynchronous generators and plain ones, each with names of their own.
        frame: FrameType | None = next(
            (found for name in ("cr_frame", "ag_frame", "gi_frame") if (found := getattr(awaited, name, None))), None
        )
        if frame is not None:
            code = frame.f_code
            places.append(f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})")
        awaited = next(
            (
                found
                for name in ("cr_await", "ag_await", "gi_yieldfrom")
                if (found := getattr(awaited, name, None)) is not None
            ),
            None,
        )
    return places[::-1]
