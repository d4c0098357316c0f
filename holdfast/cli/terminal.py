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


def printable(text: str) -> str:
    """The text with everything escaped that a terminal might take for an order."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", errors="surrogatepass").decode() for char in text
    )


def confirmed(question: str) -> bool:
    """Ask whoever is there; nobody and nothing mean no."""
    err.print(f"{question} [y/N] ", end="", markup=False, highlight=False, soft_wrap=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def fail(message: str, code: int) -> NoReturn:
    """Say in one line what is wrong, and end with this exit code."""
    err.print(f"holdfast: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
