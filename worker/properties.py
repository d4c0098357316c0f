"""Messages whose AMQP properties the driver cannot read.

Publishers may send any bytes as a correlation id, any number as a timestamp. The driver takes what it cannot decode
for a broken connection and closes it. The message comes back, and one such message would keep a worker, and then the
next one, from working until the broker gives it up.
"""

from collections.abc import Callable
from functools import wraps

from pamqp.commands import Basic
from pamqp.header import ContentHeader

#: Stands among the headers in the place of properties that could not be read.
UNREADABLE_HEADER = "x-holdfast-unreadable"


def read_what_is_readable() -> None:
    """Teach the driver to hand out messages with unreadable properties. Repeating it is harmless."""
    if not hasattr(ContentHeader.unmarshal, "__wrapped__"):
        ContentHeader.unmarshal = _forgiving(ContentHeader.unmarshal, _without_properties)  # type: ignore[method-assign]
        Basic.Deliver.unmarshal = _forgiving(Basic.Deliver.unmarshal, _without_routing_key)  # type: ignore[method-assign]


def _forgiving(unmarshal: Callable[..., None], make_do: Callable[..., None]) -> Callable[..., None]:
    @wraps(unmarshal)
    def forgiving(self: object, data: bytes) -> None:
        try:
            unmarshal(self, data)
        except Exception as fault:  # noqa: BLE001 - whatever is wrong with it, it is only this message's
            make_do(self, fault)

    return forgiving


def _without_properties(header: ContentHeader, fault: Exception) -> None:
    # The size of the body stands before the properties, and has been read.
    header.properties = Basic.Properties(headers={UNREADABLE_HEADER: f"{type(fault).__name__}: {fault}"})


def _without_routing_key(delivery: Basic.Deliver, _: Exception) -> None:
    # It is the last field, the only one that publishers choose, and nobody looks at it.
    delivery.routing_key = ""
