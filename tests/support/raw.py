"""A client without any of our code: that of the chaos runs."""

from chaos.raw import RawClient, raw_client

__all__ = ["RawClient", "raw_client"]
