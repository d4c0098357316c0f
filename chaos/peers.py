"""Whose connection is it? The kernel knows the process at the other end of a connection on loopback."""

import contextlib
from collections.abc import Callable, Collection
from pathlib import Path

#: Whose connections something is about: ids of processes, asked for whenever it matters, because they may change.
Peers = Callable[[], Collection[int]]

_LOOPBACK = "0100007F"


class Look:
    """What the kernel says at one moment."""

    def __init__(self) -> None:
        self._inodes: dict[tuple[str, str], str] | None = None
        self._sockets: dict[int, set[str]] = {}

    def connects(self, peers: Peers | None, *, client_port: int, server_port: int) -> bool:
        """Whether one of these processes has the connection between two ports of 127.0.0.1. None is everybody."""
        if peers is None:
            return True
        if self._inodes is None:
            self._inodes = _connections()
        inode = self._inodes.get((f"{_LOOPBACK}:{client_port:04X}", f"{_LOOPBACK}:{server_port:04X}"))
        return inode is not None and any(inode in self._sockets_of(pid) for pid in peers())

    def _sockets_of(self, pid: int) -> set[str]:
        if pid not in self._sockets:
            self._sockets[pid] = set(_sockets(pid))
        return self._sockets[pid]


def _connections() -> dict[tuple[str, str], str]:
    """The kernel's number of each connected socket, by own and other address. Those that are closed have none."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {(row[1], row[2]): row[9] for row in rows if row[9] != "0"}


def _sockets(pid: int) -> list[str]:
    """The kernel's numbers of all sockets that a process has open; none if it is gone."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                target = str(entry.readlink())
                if target.startswith("socket:["):
                    found.append(target[8:-1])
    return found
