"""Makes a fresh MongoDB ready for Holdfast, and finds nothing to do the next time.

Runs in the worker's image, in the network namespace of the MongoDB container: as long as a MongoDB with access
control has no user, it lets a connection from its own loopback initiate the replica set and create the first user
(the "localhost exception"), and nobody else do anything.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from pymongo import MongoClient
from pymongo.errors import AutoReconnect, ConnectionFailure, OperationFailure, PyMongoError

ROOT = "root"
"""The administrator's name."""
USER = "holdfast"
"""The workers' name, and that of their database."""
PATIENCE = 120.0
"""Seconds until giving up."""

ALREADY_INITIALIZED = 23
UNAUTHORIZED = 13
AUTHENTICATION_FAILED = 18
USER_NOT_FOUND = 11

Client = MongoClient[dict[str, Any]]


def connect(username: str | None = None, password: str | None = None) -> Client:
    return MongoClient(
        "127.0.0.1",
        27017,
        username=username,
        password=password,
        directConnection=True,
        serverSelectionTimeoutMS=5_000,
        connectTimeoutMS=5_000,
        socketTimeoutMS=30_000,
    )


def initiate(client: Client, member: str) -> None:
    """Make a replica set of this one member, unless there is a set already."""
    if client.admin.command("hello").get("setName"):
        say("replica set: there is one")
        return
    config = {"_id": "rs0", "members": [{"_id": 0, "host": member}]}
    try:
        client.admin.command("replSetInitiate", config)
    except OperationFailure as error:
        # Initiated a moment ago and not up yet; or, past the first user, not ours to ask.
        if error.code not in (ALREADY_INITIALIZED, UNAUTHORIZED):
            raise
        say("replica set: there is one")
    else:
        say(f"replica set: initiated with {member}")


def wait_for_primary(client: Client, deadline: float) -> None:
    """Return when this member is the primary; or when it is a member that is no primary, for then another is."""
    while True:
        hello = client.admin.command("hello")
        if hello.get("isWritablePrimary") or (hello.get("secondary") and hello.get("primary")):
            say(f"replica set: the primary is {hello.get('primary')}")
            return
        if time.monotonic() > deadline:
            raise SystemExit("mongo-init: the replica set has no primary")
        time.sleep(0.25)


def as_root(password: str) -> Client:
    """Log in as the administrator, who is created if nobody is there yet."""
    try:
        with connect() as nobody:
            nobody.admin.command("createUser", ROOT, pwd=password, roles=["root"])
        say(f"user {ROOT}: created")
    except OperationFailure as error:
        # Somebody is there, so the exception for loopback is over.
        if error.code != UNAUTHORIZED:
            raise
    client = connect(ROOT, password)
    try:
        client.admin.command("ping")
    except OperationFailure as error:
        if error.code != AUTHENTICATION_FAILED:
            raise
        raise SystemExit(
            f"mongo-init: MONGO_ROOT_PASSWORD is not the password of the user {ROOT!r} in this volume. "
            "It was set when the volume was new; docs/deploy.md says how to change it."
        ) from None
    return client


def put_user(client: Client, password: str) -> None:
    """Create the workers' user, or give it the password and the rights of today."""
    roles = [{"role": "readWrite", "db": USER}, {"role": "dbAdmin", "db": USER}]
    try:
        client.admin.command("updateUser", USER, pwd=password, roles=roles)
        say(f"user {USER}: up to date")
    except OperationFailure as error:
        if error.code != USER_NOT_FOUND:
            raise
        client.admin.command("createUser", USER, pwd=password, roles=roles)
        say(f"user {USER}: created")


def say(text: str) -> None:
    print(text, flush=True)


def run() -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with connect() as client:
                initiate(client, os.environ["MONGO_MEMBER"])
                wait_for_primary(client, deadline)
            with as_root(os.environ["MONGO_ROOT_PASSWORD"]) as client:
                if client.admin.command("hello").get("isWritablePrimary"):
                    put_user(client, os.environ["MONGO_PASSWORD"])
        except (AutoReconnect, ConnectionFailure) as error:
            # Starting, or electing: both pass.
            if time.monotonic() > deadline:
                raise SystemExit(f"mongo-init: MongoDB does not answer: {error}") from None
            time.sleep(1)
        else:
            return


if __name__ == "__main__":
    try:
        run()
    except PyMongoError as failure:
        sys.exit(f"mongo-init: {failure}")
    except KeyError as missing:
        sys.exit(f"mongo-init: {missing.args[0]} is not set")
