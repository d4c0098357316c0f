"""Messages whose AMQP properties the driver cannot read: the broker buries them as they are.

The driver takes them for a broken connection. A worker looks at few properties, at little cost; here all of them are
wanted, however long that takes, and otherwise the reason why they cannot be had.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import unwrap

from pamqp.commands import Basic
from pamqp.header import ContentHeader

from ..worker.properties import UNREADABLE_HEADER


@contextmanager
def all_properties() -> Iterator[None]:
    """Have the driver read all properties of messages, and hand out those whose properties it cannot read, too."""
    before = ContentHeader.unmarshal
    unmarshal = unwrap(before)

    def forgiving(self: ContentHeader, data: bytes) -> None:
        try:
            unmarshal(self, data)
        except Exception as fault:  # noqa: BLE001 - whatever is wrong with it, it is only this message's
            # The size of the body stands before the properties, and has been read.
            self.properties = Basic.Properties(headers={UNREADABLE_HEADER: f"{type(fault).__name__}: {fault}"})

    ContentHeader.unmarshal = forgiving  # type: ignore[method-assign]
    try:
        yield
    finally:
        ContentHeader.unmarshal = before  # type: ignore[method-assign]
