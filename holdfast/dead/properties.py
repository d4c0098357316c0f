"""Messages whose AMQP properties the driver cannot read: the broker buries them as they are.

The driver takes them for a broken connection. A worker looks at few properties, at little cost; here all of them are
wanted, however long that takes, and otherwise the reason why they cannot be had.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import unwrap

from pamqp.commands import Basic
from pamqp.header import ContentHeader

from ..worker.properties import UNREADABLE_HEADER


class _Driver:
    """The driver's own way of reading, put aside while anybody wants all properties."""

    readers = 0
    put_aside = ContentHeader.unmarshal


@contextmanager
def all_properties() -> Iterator[None]:
    """Have the driver read all properties of messages, and hand out those whose properties it cannot read, too.

    Whoever leaves last puts the driver's own way back, in whatever order they came.
    """
    if _Driver.readers == 0:
        _Driver.put_aside = ContentHeader.unmarshal
        ContentHeader.unmarshal = _forgiving(unwrap(_Driver.put_aside))  # type: ignore[method-assign]
    _Driver.readers += 1
    try:
        yield
    finally:
        _Driver.readers -= 1
        if _Driver.readers == 0:
            ContentHeader.unmarshal = _Driver.put_aside  # type: ignore[method-assign]


def _forgiving(unmarshal: Callable[..., None]) -> Callable[..., None]:
    def forgiving(self: ContentHeader, data: bytes) -> None:
        try:
            unmarshal(self, data)
        except Exception as fault:  # noqa: BLE001 - whatever is wrong with it, it is only this message's
            # The size of the body stands before the properties, and has been read.
            self.properties = Basic.Properties(headers={UNREADABLE_HEADER: f"{type(fault).__name__}: {fault}"})

    return forgiving
