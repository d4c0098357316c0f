"""What can go wrong when servers run on this machine, split by what the reader can do about it."""

from pathlib import Path


class LocalStackError(Exception):
    """Root of everything that `holdfast.local` raises on purpose."""


class ServerNotFoundError(LocalStackError):
    """A server is neither installed nor can it be fetched here; the message says what to install."""


class ServerStartError(LocalStackError):
    """A process did not become ready: it ended, or its time ran out. Carries the end of its log.

    `log` is the path of the log, `log_tail` its last lines as they were when the start was given up.
    """

    def __init__(self, message: str, *, log: Path | None = None, log_tail: str = "") -> None:
        self.log = log
        self.log_tail = log_tail
        parts = [message]
        if log is not None:
            parts.append(f"Its log is {log}" + (", which ends with:" if log_tail else " (still empty)."))
        if log_tail:
            parts.append(log_tail)
        super().__init__("\n".join(parts))


class ServerStateError(LocalStackError):
    """An operation does not fit the state of a server: it is not running, or it refused a command."""
