"""NATS JetStream's key-value store through nats-py, and the server for it."""

import socket
from collections.abc import Awaitable, Sequence
from pathlib import Path

import nats
import orjson
from nats.js.api import StorageType
from nats.js.errors import KeyNotFoundError

from holdfast.local import Server, ServerNotFoundError
from holdfast.local.ports import LOOPBACK, free_port

from .machine import find_nats_server
from .side import Options, Side, run_side
from .values import Value

_BUCKET = "benchmark"


class NatsServer(Server):
    """One nats-server with JetStream on files below its folder.

    It does not fsync each write, and has no option for that.
    """

    kind = "NATS"

    @property
    def log_path(self) -> Path:
        """What it logs."""
        return self.directory / "nats.log"

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"nats://{LOOPBACK}:{self._state['port']}"

    def _prepare(self) -> tuple[Sequence[str], dict[str, str]]:
        program = find_nats_server()
        if program is None:
            raise ServerNotFoundError(
                "there is no nats-server: install it, on Debian with: apt-get install nats-server"
            )
        self._remember(port=free_port(self._state.get("port")))
        (self.directory / "data").mkdir(exist_ok=True)
        command = [program, "-a", LOOPBACK, "-p", str(self._state["port"]), "-js", "-sd", str(self.directory / "data")]
        return [*command, "-l", str(self.log_path)], {"PATH": "/usr/bin:/bin", "HOME": str(self.directory)}

    def _probe(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self._state["port"]), timeout=1.0) as connection:
                return connection.recv(4) == b"INFO"
        except OSError:
            return False


class NatsSide(Side):
    """One client with its one connection. Values travel as JSON, as with the others."""

    async def open(self, options: Options) -> None:
        """Connect, and make the bucket: on files, one value per key, direct gets as newer clients ask for them."""
        self._connection = await nats.connect(options["nats_url"], pending_size=64 << 20)
        jetstream = self._connection.jetstream(timeout=30.0, publish_async_max_pending=1 << 20)
        self._bucket = await jetstream.create_key_value(bucket=_BUCKET, storage=StorageType.FILE, direct=True)

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.close()

    def save(self, key: str, value: Value) -> Awaitable[object]:
        """Put, acknowledged by the stream."""
        return self._bucket.put(key, orjson.dumps(value))

    async def read(self, key: str) -> object | None:
        """Get."""
        try:
            entry = await self._bucket.get(key)
        except KeyNotFoundError:
            return None
        value: object = orjson.loads(entry.value or b"null")
        return value


if __name__ == "__main__":
    run_side(NatsSide)
