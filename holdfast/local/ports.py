"""Free ports on loopback."""

import random
import socket
from pathlib import Path

from .errors import LocalStackError

LOOPBACK = "127.0.0.1"


def _candidates() -> range:
    """Ports below the range that the kernel hands to outgoing connections.

    A server that is killed and restarted must find its port again. In the ephemeral range some client's
    outgoing connection may have taken it meanwhile, even one that tries to reconnect to that very port.
    """
    try:
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        low = 32768
    return range(20000, low) if low > 21000 else range(10000, 65000)


def is_free(port: int, address: str = LOOPBACK) -> bool:
    """Whether a server could listen on this port of an address of loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


def free_port(preferred: int | None = None, *, address: str = LOOPBACK) -> int:
    """`preferred` if it is free, else any free port. Raises LocalStackError if a thousand tries find none."""
    if preferred is not None and is_free(preferred, address):
        return preferred
    candidates = _candidates()
    for _ in range(1000):
        port = random.choice(candidates)  # noqa: S311 - spreads, doesn't hide
        if is_free(port, address):
            return port
    raise LocalStackError(f"no free port on {address} between {candidates.start} and {candidates.stop}")
