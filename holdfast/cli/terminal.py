"""What commands print, and where: data on standard output, everything else on standard error."""

import sys
from typing import Any, NoReturn

import orjson
from rich.console import Console

out = Console()
err = Console(stderr=True)


def print_json(data: Any) -> None:
    """Print one line of JSON to standard output."""
    sys.stdout.write(orjson.dumps(data).decode() + "\n")


def fail(message: str, code: int) -> NoReturn:
    """Say in one line what is wrong, and end with this exit code."""
    err.print(f"holdfast: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
