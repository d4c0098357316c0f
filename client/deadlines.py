"""Deadlines: which calls have waited for as long as they may. Those with the same timeout share a timer of the loop.

A timer for each call takes 1.3 µs, a tenth of all that a client does for it, and hardly any of them ever goes off.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .calls import Call

#: Lines without calls that keep their timer for the next call with that timeout. What has waited for its place has a
#: timeout like no other's.
_MAX_EMPTY: Final = 8


@dataclass(slots=True, eq=False)
class Line:
    """Calls with the same timeout, in the order in which it runs out, with the time of that."""

    timeout: float
    calls: dict["Call", float] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None


class Deadlines:
    """Of all calls of one dispatcher."""

    def __init__(self, over: Callable[["Call", float], None]) -> None:
        """Make one, in the event loop.

        :param over: told of each call whose time is over, and its timeout in seconds.
        """
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._lines: dict[float, Line] = {}

    def add(self, call: "Call", timeout: float) -> None:
        """Tell of a call in so many seconds, unless it is dropped before."""
        end = self._loop.time() + timeout
        line = self._lines.get(timeout)
        if line is None:
            line = Line(timeout)
            line.timer = self._loop.call_at(end, self._look, line)
            self._lines[timeout] = line
        line.calls[call] = end
        call.line = line

    def drop(self, call: "Call") -> None:
        """Do not tell of it. Harmless if it was told, or is none of these."""
        line, call.line = call.line, None
        if line is None:
            return
        del line.calls[call]
        if not line.calls and len(self._lines) > _MAX_EMPTY:
            self._end(line)

    def close(self) -> None:
        """Tell of none any more."""
        for line in list(self._lines.values()):
            self._end(line)

    def _end(self, line: Line) -> None:
        del self._lines[line.timeout]
        if line.timer is not None:
            line.timer.cancel()

    def _look(self, line: Line) -> None:
        now = self._loop.time()
        over: list[Call] = []
        following: float | None = None
        for call, end in line.calls.items():
            if end > now:
                following = end
                break
            over.append(call)
        # First, so that what is told of is free to begin others.
        for call in over:
            call.line = None
            del line.calls[call]
        if following is None:
            self._end(line)
        else:
            line.timer = self._loop.call_at(following, self._look, line)
        for call in over:
            self._over(call, line.timeout)
