"""`holdfast migrate` and `holdfast rotate-keys`, as a shell sees them, on real servers."""

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.service import Service
from support.shell import Done, failed, holdfast

import holdfast as api

MODELS = """
from holdfast import Schema
from pydantic import BaseModel

class User(BaseModel):
    first: str
    last: str

def split(old):
    first, _, last = old["name"].partition(" ")
    return {"first": first, "last": last}

Schema(User, version=2, upcasters={1: split})
"""


@pytest.fixture
def cli(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Runs a command against a running service, where a program's own modules are."""
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(*arguments: str, **options: Any) -> Done:
        return holdfast(*arguments, **({"amqp_url": service.amqp_url} | options))

    return run


async def values(service: Service, encryption: api.Encryption | None = None) -> list[Any]:
    """Of all users."""
    async with api.connect(service.amqp_url, encryption=encryption) as client:
        keys = [f"user/{number:02}" for number in range(30)]
        return [entry and entry.value for entry in (await client.read_many(keys)).values()]


async def fill(service: Service, encryption: api.Encryption | None = None) -> None:
    """Users as they were saved at version 1."""
    async with api.connect(service.amqp_url, encryption=encryption) as client:
        await client.save_many({f"user/{number:02}": {"name": f"Ada {number}"} for number in range(30)})


def test_values_are_migrated(cli: Callable[..., Done], service: Service) -> None:
    """Given old values and one that fits no version, when they are migrated, then all but that one are of today."""
    asyncio.run(fill(service))
    counted = cli("migrate", "models:User", "--prefix", "user/", "--dry-run")
    assert counted.returncode == 0, counted.stderr
    assert counted.stdout == "30 values looked at, 30 to be rewritten, 0 that cannot be read\n"
    cli("save", "user/07", '{"nick": "Ada"}')
    done = cli("migrate", "models:User", "--prefix", "user/")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith("user/07: version 1 of User does not fit")
    assert done.stdout.splitlines()[1] == "30 values looked at, 29 rewritten, 1 that cannot be read"
    migrated = asyncio.run(values(service))
    assert migrated[0] == {"$version": 2, "first": "Ada", "last": "0"}
    again = json.loads(cli("migrate", "models:User", "--prefix", "user/", "--json").stdout)
    assert (again["looked"], again["rewritten"], list(again["faults"]), again["done"]) == (30, 0, ["user/07"], True)


def test_what_is_no_schema_is_said(cli: Callable[..., Done]) -> None:
    """Given a name of nothing, or of something else, when it is to be migrated to, then that is said in a line."""
    failed(cli("migrate", "models"), 1, "'models' is not of the form module:name")
    failed(cli("migrate", "nowhere:User"), 1, "'nowhere:User' cannot be imported: No module named 'nowhere'")
    failed(cli("migrate", "models:Nobody"), 1, "'models:Nobody' cannot be imported")
    failed(cli("migrate", "models:split"), 1, "'models:split' is no schema, nor a class that has one")


def test_keys_are_rotated(cli: Callable[..., Done], service: Service, tmp_path: Path) -> None:
    """Given values sealed with one key, when keys are rotated, then another one opens them, and the file's keys open
    them for the command line.
    """
    old, new = bytes(32), bytes(range(32))
    path = tmp_path / "keys"
    path.write_text("".join(f"{name} {base64.b64encode(key).decode()}\n" for name, key in (("new", new), ("old", old))))
    asyncio.run(fill(service, api.Encryption({"old": old})))
    failed(cli("rotate-keys"), 1, "say where the keys are")
    done = cli("rotate-keys", "--keys-file", str(path), "--prefix", "user/")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "30 values looked at, 30 rewritten, 0 that cannot be read\n"
    assert asyncio.run(values(service, api.Encryption({"new": new})))[3] == {"name": "Ada 3"}
    assert json.loads(cli("read", "user/03", keys_file=str(path)).stdout)["value"] == {"name": "Ada 3"}
    assert list(json.loads(cli("read", "user/03").stdout)["value"]) == ["$sealed"]
    cli("save", "user/03", '"Eve"', keys_file=str(path))
    assert asyncio.run(values(service, api.Encryption({"new": new})))[3] == "Eve"
