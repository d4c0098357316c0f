"""Whose connection is it? The kernel knows the process at the other end of a connection on loopback."""

import contextlib
from collections.abc import Callable, Collection
from pathlib import Path

#: Whose connections something is about: ids of processes, asked for whenever it matters, because they may change.
Peers = Callable[[], Collection[int]]

_LOOPBACK = "0100007F"


def connects(peers: Peers | None, *, client_port: int, server_port: int) -> bool:
    """Whether one of these processes made the connection between two ports of 127.0.0.1. None is everybody."""
    if peers is None:
        return True
    inode = _inode_of(client_port, server_port)
    return inode is not None and any(inode in _sockets_of(pid) for pid in peers())


def _inode_of(client_port: int, server_port: int) -> str | None:
    """The kernel's number of the client's socket; None if it is closed already."""
    wanted = [f"{_LOOPBACK}:{client_port:04X}", f"{_LOOPBACK}:{server_port:04X}"]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1:3] == wanted:
            return None if fields[9] == "0" else fields[9]
    return None


def _sockets_of(pid: int) -> set[str]:
    """The kernel's numbers of all sockets that a process has open; none if it is gone."""
    found = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                target = str(entry.readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found
