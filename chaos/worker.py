"""A real worker that can be told to kill or freeze itself at a step of its loop: ``python -m chaos.worker``.

The product has no hooks for this. Its objects are wrapped from outside, then its own command line runs.
"""

import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from pymongo.synchronous.pool import Connection

from holdfast.cli import main
from holdfast.events import Record
from holdfast.stores import Appended, MongoStore
from holdfast.stores.driver import Driver
from holdfast.worker.broker import AmqpBroker
from holdfast.worker.delivery import Delivery
from holdfast.worker.intake import Intake

from .sabotage import SABOTAGE_VARIABLE, sabotage
from .steps import ORDER_VARIABLE, POISON, Step, Trap

#: What an insert into a log of events looks like on the wire.
_INSERT = b"\x02insert\x00"
_LOG = b".events\x00"


async def _be_heard(broker: AmqpBroker) -> None:
    """Wait until the broker has read all replies. The end of a process may be quicker than what it said last."""
    channel = await broker._replies.get_underlay_channel()  # noqa: SLF001 - seen from outside, as all of this
    await channel.basic_qos(prefetch_count=1)


def set_trap(trap: Trap) -> None:
    """Wrap the objects of the product, so that whatever passes a step asks the trap."""

    async def by(step: Step | None, owner: object) -> None:
        if step is not None and trap.comes_by(step):
            if isinstance(owner, AmqpBroker):
                await _be_heard(owner)
            trap.spring()

    def around(owner: type, name: str, *, before: Step | None = None, after: Step | None = None) -> None:
        original: Callable[..., Awaitable[Any]] = getattr(owner, name)

        @functools.wraps(original)
        async def stepped(self: object, *arguments: Any, **options: Any) -> Any:
            await by(before, self)
            result = await original(self, *arguments, **options)
            await by(after, self)
            return result

        setattr(owner, name, stepped)

    around(MongoStore, "append", before=Step.DECIDED, after=Step.APPENDED)
    around(MongoStore, "transact", before=Step.DECIDED, after=Step.APPENDED)
    around(Driver, "commit", before=Step.COMMITTING)
    around(AmqpBroker, "reply", after=Step.REPLIED)
    around(AmqpBroker, "tell", before=Step.PUBLISHING, after=Step.PUBLISHED)
    around(AmqpBroker, "forward", after=Step.FORWARDED)
    around(AmqpBroker, "bury", after=Step.BURIED)
    around(AmqpBroker, "acknowledge", before=Step.ACKNOWLEDGING, after=Step.ACKNOWLEDGED)

    take, append, send = Intake.take, MongoStore.append, Connection.send_message

    def take_and_die(self: Intake, delivery: Delivery, partition: int) -> None:
        if trap.comes_by(Step.RECEIVED):
            trap.spring()
        take(self, delivery, partition)

    async def append_and_die(self: MongoStore, records: Sequence[Record]) -> Appended:
        if any(record.key.startswith(POISON) for record in records):
            os.kill(os.getpid(), signal.SIGKILL)
        return await append(self, records)

    def send_and_die(self: Connection, message: bytes, max_doc_size: int) -> None:
        send(self, message, max_doc_size)
        if _INSERT in message[:64] and _LOG in message[:128] and trap.comes_by(Step.APPENDING):
            trap.spring()

    Intake.take = take_and_die  # type: ignore[method-assign]
    MongoStore.append = append_and_die  # type: ignore[method-assign]
    Connection.send_message = send_and_die  # type: ignore[method-assign]


if __name__ == "__main__":
    set_trap(Trap(Path(os.environ[ORDER_VARIABLE])))
    sabotage(os.environ.get(SABOTAGE_VARIABLE))
    sys.argv = ["holdfast", "worker"]
    main()
