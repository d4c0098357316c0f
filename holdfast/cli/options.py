"""Options and arguments that several commands share."""

from typing import Annotated

import typer

AmqpUrl = Annotated[
    str | None,
    typer.Option("--amqp-url", help="AMQP URL of RabbitMQ. Better kept in HOLDFAST_AMQP_URL.", metavar="URL"),
]
Store = Annotated[str, typer.Option(help="Name of the store.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait for the answer: HOLDFAST_TIMEOUT, or 15.")]
Etag = Annotated[str | None, typer.Option(help="Only if the key is at this etag.")]
Key = Annotated[str, typer.Argument(help="The key, such as user/42.")]
