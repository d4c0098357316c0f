"""The engine: consume, decide, commit, reply; and the process around it."""

from .access import AccessConfig, AccessRule
from .batch import Batch, Request
from .engine import Engine
from .options import WorkerOptions
from .process import Worker, run_worker

__all__ = [
    "AccessConfig",
    "AccessRule",
    "Batch",
    "Engine",
    "Request",
    "Worker",
    "WorkerOptions",
    "run_worker",
]
