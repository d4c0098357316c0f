"""Options and arguments that several commands share."""

from datetime import datetime
from typing import Annotated

import typer

from ..events import InvalidError

#: How a time is given.
TIME = "2026-03-01T12:00:00Z"

AmqpUrl = Annotated[
    str | None,
    typer.Option("--amqp-url", help="AMQP URL of RabbitMQ. Better kept in HOLDFAST_AMQP_URL.", metavar="URL"),
]
Store = Annotated[str, typer.Option(help="Name of the store.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait for the answer: HOLDFAST_TIMEOUT, or 15.")]
Etag = Annotated[str | None, typer.Option(help="Only if the key is at this etag.")]
Ttl = Annotated[
    int | None,
    typer.Option(min=1, help="Seconds after which the key is absent.", metavar="SECONDS", show_default=False),
]
Key = Annotated[str, typer.Argument(help="The key, such as user/42.")]


def moment(text: str | None) -> datetime | None:
    """A time as ISO 8601 has it; None stays None.

    :raises InvalidError: if it is none, or has no time zone.
    """
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidError(f"{text!r} is no time; one is written like {TIME}") from None
    if time.tzinfo is None:
        raise InvalidError(f"{text!r} has no time zone; a time is written like {TIME}, or with +01:00 for the Z")
    return time
