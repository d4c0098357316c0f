"""The steps of a worker's loop at which it can be told to die or to freeze, and the order to do so."""

import json
import os
import signal
import threading
from enum import StrEnum
from pathlib import Path
from typing import Any

#: A worker dies when it is about to append an event of a key that begins like this.
POISON = "poison/"

#: Names the file in which a worker looks for its order.
ORDER_VARIABLE = "CHAOS_ORDER_FILE"


class Step(StrEnum):
    """A place between two things that a worker does."""

    #: A message was taken, nothing is decided.
    RECEIVED = "after receive"
    #: Everything of a batch is decided, nothing was sent to the store.
    DECIDED = "after decide"
    #: The store has the insert, its answer was not read.
    APPENDING = "in append"
    #: The store has answered, nobody was told.
    APPENDED = "after append"
    #: All of a transaction is in the database, and nothing is committed: its keys are closed to everybody else.
    COMMITTING = "before commit"
    #: A message of replies was written.
    REPLIED = "after reply"
    #: The replies of a batch are out, and what is told to others is not.
    PUBLISHING = "before publish"
    #: The broker has confirmed a message of the change feed, or one that a write carried.
    PUBLISHED = "after publish"
    #: All replies and dead letters of a batch are out, nothing was acknowledged.
    ACKNOWLEDGING = "before acknowledge"
    #: An acknowledgement was handed to the driver; whether it gets to the broker is open.
    ACKNOWLEDGED = "after acknowledge"
    #: A message that belongs elsewhere is in its queue, and the original is not acknowledged.
    FORWARDED = "after forward"
    #: A dead letter is in its queue, and the original is not acknowledged.
    BURIED = "after burial"


#: Steps that every write passes.
OF_A_WRITE = (
    Step.RECEIVED,
    Step.DECIDED,
    Step.APPENDING,
    Step.APPENDED,
    Step.REPLIED,
    Step.ACKNOWLEDGING,
    Step.ACKNOWLEDGED,
)
#: Steps that a write passes, too, if it makes an event.
OF_AN_EVENT = (Step.PUBLISHING, Step.PUBLISHED)


def give_order(path: Path, step: Step, passage: int = 1, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the worker that looks here send itself a signal, at the ``passage``-th time that it comes by a step."""
    if passage < 1:
        raise ValueError("passages are counted from 1")
    _write(path, {"step": step, "passage": passage, "signal": number})


def withdraw_order(path: Path) -> None:
    """Let the worker go on, whether it has seen its order or not."""
    _write(path, {"step": None, "passage": 0, "signal": 0})


def _write(path: Path, order: dict[str, object]) -> None:
    written = path.with_name(f".{path.name}.new")
    written.write_text(json.dumps(order))
    written.replace(path)


class Trap:
    """In the worker: carries out the order, once."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._step: Step | None = None
        self._left = 0
        self._signal = signal.SIGKILL

    def comes_by(self, step: Step) -> bool:
        """Whether this is where, and when, it is to happen."""
        if os.path.exists(self._path):  # noqa: PTH110 - at every step of a busy loop
            order = self._take()
            if order is not None:
                self._step = Step(order["step"]) if order["step"] else None
                self._left = order["passage"]
                self._signal = signal.Signals(order["signal"] or signal.SIGKILL)
        if step is not self._step:
            return False
        self._left -= 1
        return self._left == 0

    def spring(self) -> None:
        """Send this process the signal. After SIGSTOP it goes on from here, whenever it is woken."""
        os.kill(os.getpid(), self._signal)

    def _take(self) -> dict[str, Any] | None:
        # The store's driver has threads of its own, and one of them may come by at the same time.
        taken = f"{self._path}.{threading.get_ident()}"
        try:
            os.rename(self._path, taken)  # noqa: PTH104
        except FileNotFoundError:
            return None
        order: dict[str, Any] = json.loads(Path(taken).read_text())
        return order
