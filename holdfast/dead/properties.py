"""Messages whose AMQP properties the driver cannot read: the broker buries them as they are.

The driver takes them for a broken connection. A worker looks at few properties and at no cost; here all of them are
wanted, however long that takes, and otherwise the reason why they cannot be had.
"""

from functools import wraps

from pamqp.commands import Basic
from pamqp.header import ContentHeader

from ..worker.properties import UNREADABLE_HEADER


def read_all_properties() -> None:
    """Teach the driver to hand out messages with unreadable properties. Repeating it is harmless."""
    unmarshal = ContentHeader.unmarshal
    if hasattr(unmarshal, "__wrapped__"):
        return

    @wraps(unmarshal)
    def forgiving(self: ContentHeader, data: bytes) -> None:
        try:
            unmarshal(self, data)
        except Exception as fault:  # noqa: BLE001 - whatever is wrong with it, it is only this message's
            # The size of the body stands before the properties, and has been read.
            self.properties = Basic.Properties(headers={UNREADABLE_HEADER: f"{type(fault).__name__}: {fault}"})

    ContentHeader.unmarshal = forgiving  # type: ignore[method-assign]
