"""Faults on purpose: conflicts, timeouts, lost replies and refusals, as a program would meet them in production.

They happen between a client and its service, whichever that is, and all of them are true: a conflict comes of a rival
that wrote first, a lost reply of a command that was applied, and a call that timed out was applied or not as was asked.
"""

import threading
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal

FaultKind = Literal["conflict", "lost_reply", "timeout_applied", "timeout_not_applied", "unavailable"]

#: Stands for "the value that is there already".
SAME: Final = object()
#: These change nothing, so that a call without an answer was not applied.
READING: Final = frozenset({"read", "history", "keys", "query", "watch", "changes", "describe"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault that happened."""

    kind: FaultKind
    op: str
    store: str
    key: str
    #: Of the command that met it.
    id: str


@dataclass(slots=True)
class _Planned:
    kind: FaultKind
    key: str | None
    op: str | None
    left: int
    #: Of a conflict: what the rival writes.
    value: Any = SAME

    def fits(self, command: dict[str, Any], key: str) -> bool:
        if self.key is not None and key != self.key:
            return False
        if self.op is not None and command["op"] != self.op:
            return False
        if self.kind == "conflict":
            return is_conditional(command)
        return bool(command["op"] != "describe")


class Faults:
    """What goes wrong, in the order in which it was asked for. Safe to be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: deque[_Planned] = deque()
        self._random: Random | None = None
        self._rates: dict[FaultKind, float] = {}
        self._happened: list[Fault] = []

    def conflict(self, key: str | None = None, *, value: Any = SAME, times: int = 1, op: str | None = None) -> None:
        """Let a rival write just before the next conditional save or delete, so that it meets a conflict.

        :param key: only of this key; of any one if None.
        :param value: what the rival saves. By default the value that is there, so that nothing but etag and version
            changes; where nothing is there, it saves something and deletes it again once the conflict is told.
        :param times: how many commands meet it.
        :param op: only of this kind, such as ``save``.
        """
        self._plan("conflict", key, op, times, value)

    def timeout(self, key: str | None = None, *, applied: bool = True, times: int = 1, op: str | None = None) -> None:
        """Let the next call end without an answer: a write in ``OutcomeUnknown``, a read in ``ExpiredError``.

        It ends at once; nobody waits for the timeout.

        :param applied: whether the service did it.
        """
        self._plan("timeout_applied" if applied else "timeout_not_applied", key, op, times)

    def lose_reply(self, key: str | None = None, *, times: int = 1, op: str | None = None) -> None:
        """Lose the next reply together with the connection. The client repeats what has no answer under the same ids,
        and its caller notices nothing.
        """
        self._plan("lost_reply", key, op, times)

    def unavailable(self, key: str | None = None, *, times: int = 1, op: str | None = None) -> None:
        """Let the next call fail with ``Unavailable``: it was certainly not applied."""
        self._plan("unavailable", key, op, times)

    def at_random(
        self,
        seed: int,
        *,
        conflicts: float = 0.0,
        lost_replies: float = 0.0,
        timeouts: float = 0.0,
        unavailable: float = 0.0,
    ) -> None:
        """Let faults happen with these probabilities, each for one command, from now on.

        :param timeouts: half of them applied, half of them not.
        """
        rates: dict[FaultKind, float] = {
            "conflict": conflicts,
            "lost_reply": lost_replies,
            "timeout_applied": timeouts / 2,
            "timeout_not_applied": timeouts / 2,
            "unavailable": unavailable,
        }
        if any(rate < 0 for rate in rates.values()) or sum(rates.values()) > 1:
            raise ValueError("probabilities are between 0 and 1, all of them together too")
        with self._lock:
            self._random, self._rates = Random(seed), rates  # noqa: S311 - repeatable is what it has to be

    def stop(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._planned.clear()
            self._random = None

    @property
    def happened(self) -> list[Fault]:
        """The faults that happened, in order."""
        with self._lock:
            return list(self._happened)

    @property
    def pending(self) -> int:
        """How many were asked for and have not happened."""
        with self._lock:
            return sum(planned.left for planned in self._planned)

    def meet(self, command: dict[str, Any], prefix: str = "") -> tuple[FaultKind, Any] | None:
        """What a command that is about to be sent meets, if anything; and what a rival writes.

        :param prefix: of its key, which its sender knows nothing of.
        """
        key = str(command.get("key", "")).removeprefix(prefix)
        with self._lock:
            for planned in self._planned:
                if planned.fits(command, key):
                    planned.left -= 1
                    if planned.left == 0:
                        self._planned.remove(planned)
                    return self._note(planned.kind, command, key), planned.value
            if self._random is not None and command["op"] != "describe":
                point = self._random.random()
                for kind, rate in self._rates.items():
                    if point < rate:
                        fits = kind != "conflict" or is_conditional(command)
                        return (self._note(kind, command, key), SAME) if fits else None
                    point -= rate
            return None

    @property
    def armed(self) -> bool:
        """Whether anything may go wrong."""
        return bool(self._planned) or self._random is not None

    def _plan(self, kind: FaultKind, key: str | None, op: str | None, times: int, value: Any = SAME) -> None:
        if times < 1:
            raise ValueError("a fault happens once at least")
        with self._lock:
            self._planned.append(_Planned(kind, key, op, times, value))

    def _note(self, kind: FaultKind, command: dict[str, Any], key: str) -> FaultKind:
        self._happened.append(Fault(kind, command["op"], command.get("store", "default"), key, command["id"]))
        return kind


def is_conditional(command: dict[str, Any]) -> bool:
    """Whether a rival can make it meet a conflict."""
    return command.get("etag") is not None or command.get("concurrency") == "first-write"
