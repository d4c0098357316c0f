"""Holdfast for tests: a service in memory with the real engine and no servers, and faults on purpose.

::

    with MemoryService() as service:
        async with service.connect() as client: …

With pytest the fixtures ``holdfast_service`` and ``holdfast_client`` are there by themselves; see docs/testing.md.
"""

from ..worker import AccessConfig, AccessRule
from .broker import DeadLetter
from .faults import Fault, Faults
from .memory import MemoryService
from .servers import ServerService
from .service import Service

__all__ = [
    "AccessConfig",
    "AccessRule",
    "DeadLetter",
    "Fault",
    "Faults",
    "MemoryService",
    "ServerService",
    "Service",
]
