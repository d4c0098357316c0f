"""A Holdfast worker process beside the local servers."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .process import load_state
from .server import Server


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where RabbitMQ and MongoDB are, passwords included."""

    amqp_url: str = field(repr=False)
    mongo_url: str = field(repr=False)

    def environment(self) -> dict[str, str]:
        """As the environment variables that Holdfast reads."""
        return {"HOLDFAST_AMQP_URL": self.amqp_url, "HOLDFAST_MONGO_URL": self.mongo_url}


class WorkerServer(Server):
    """`holdfast worker` as a process of its own, ready when it says so in its health file.

    `environment` comes on top of this process's own, and the addresses on top of that.
    """

    kind = "worker"

    def __init__(
        self,
        directory: Path | str,
        *,
        addresses: Addresses | None = None,
        detach: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory, detach=detach)
        self._environment = dict(environment or {})
        if addresses is not None:
            self._environment |= addresses.environment()

    @property
    def log_path(self) -> Path:
        """What the worker prints; it has no other log."""
        return self.console_path

    @property
    def health_path(self) -> Path:
        """The JSON file in which the worker reports its state, beside its folder."""
        return self.directory.with_name(f"{self.directory.name}.json")

    def _prepare(self) -> tuple[Sequence[str], dict[str, str]]:
        # An earlier worker's report must not be taken for this one's.
        self.health_path.unlink(missing_ok=True)
        environment = {"HOLDFAST_HEALTH_FILE": str(self.health_path)} | self._environment
        return [sys.executable, "-m", "holdfast", "worker"], dict(os.environ) | environment

    def _probe(self) -> bool:
        return load_state(self.health_path).get("ready") is True
