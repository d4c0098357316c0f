"""The command line: ``holdfast``."""

from .app import main

__all__ = ["main"]
