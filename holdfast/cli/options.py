"""Options and arguments that several commands share."""

from datetime import datetime
from typing import Annotated, Any

import typer

from ..client.lifetime import Ttl as Lifetime
from ..client.lifetime import to_seconds
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
Key = Annotated[str, typer.Argument(help="The key, such as user/42.")]


def lifetime(text: str) -> Lifetime:
    """How long a value lives, as a client takes it.

    :raises typer.BadParameter: if it is neither a number of seconds nor the word.
    """
    try:
        chosen: Lifetime = "forever" if text == "forever" else int(text)
        to_seconds(chosen)
    except (ValueError, InvalidError):
        raise typer.BadParameter(f"{text!r} is neither a number of seconds, 1 or more, nor 'forever'") from None
    return chosen


Ttl = Annotated[
    Any,
    typer.Option(
        parser=lifetime,
        help="Seconds after which the key is absent; or `forever`, where a store has a time for those who do not say.",
        metavar="SECONDS",
        show_default=False,
    ),
]


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
