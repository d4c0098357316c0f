"""Users as two versions of a schema have them, and keys to seal them with."""

from typing import Any

from pydantic import BaseModel

from holdfast import Encryption, Schema

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
BEFORE, AFTER = Encryption({"old": OLD}), Encryption({"new": NEW, "old": OLD})


class User(BaseModel):
    """At version 1 it was one ``name``."""

    first: str
    last: str = ""


def split(old: dict[str, Any]) -> dict[str, Any]:
    first, _, last = old["name"].partition(" ")
    return {"first": first, "last": last}


SCHEMA = Schema(User, version=2, upcasters={1: split})
