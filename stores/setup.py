"""What a database has to be and to have before a MongoStore uses it."""

import logging
from typing import Any, Final

from ..events import StoreConfigError, StoreError, StoreUnavailable
from .driver import AccessRefused, Driver
from .queries import (
    CARRIES_AT,
    EXPIRY_INDEX,
    EXPIRY_ORDER,
    HAS_VERSION,
    HEAD_GROUP,
    NEWEST_FIRST,
    RECEIPT_INDEX,
    VERSION_GROUP,
    VERSION_INDEX,
    newest,
)

log = logging.getLogger("holdfast.stores")

#: MongoDB 6.0. The skip scan over a partial index is not in older ones.
_MIN_WIRE_VERSION: Final = 17

_NAMESPACE_EXISTS: Final = 48

#: The index that decides: no version of a key comes twice. Besides it there is MongoDB's own on ``_id``.
LOG_INDEX: Final[dict[str, Any]] = {
    "name": VERSION_INDEX,
    "key": {"key": 1, "version": -1},
    "unique": True,
    "partialFilterExpression": HAS_VERSION,
}

#: Where what a transaction carries is to be erased with a key: of those that carry nothing it knows nothing.
CARRIED_INDEX: Final[dict[str, Any]] = {
    "name": RECEIPT_INDEX,
    "key": {"key": 1, "at": 1},
    "partialFilterExpression": CARRIES_AT,
}

#: Where a store drops keys: no two events of a key begin it.
FIRST_INDEX: Final[dict[str, Any]] = {
    "name": "key_first",
    "key": {"key": 1},
    "unique": True,
    "partialFilterExpression": {"first": True},
}
#: Where a store drops refusals: those of a time.
REFUSAL_INDEX: Final[dict[str, Any]] = {
    "name": "refusal_time",
    "key": {"time": 1},
    "partialFilterExpression": {"type": "refused"},
}

#: The index that the sweep goes along.
SWEEP_INDEX: Final[dict[str, Any]] = {
    "name": EXPIRY_INDEX,
    "key": EXPIRY_ORDER,
    "partialFilterExpression": {"expires": {"$exists": True}},
}

#: The documents of the keys that are there, for people with a MongoDB tool.
CURRENT_VIEW: Final[list[dict[str, Any]]] = [
    {"$match": HAS_VERSION},
    NEWEST_FIRST,
    {"$group": {"_id": "$key", "newest": {"$first": "$$ROOT"}}},
    {
        "$match": {
            "newest.type": "saved",
            # What does not expire has nothing there, and nothing is below every time.
            "$expr": {"$or": [{"$lte": ["$newest.expires", None]}, {"$gt": ["$newest.expires", "$$NOW"]}]},
        }
    },
    {
        "$project": {
            "version": "$newest.version",
            "value": "$newest.value",
            "time": "$newest.time",
            "expires": "$newest.expires",
            "author": "$newest.author",
            "metadata": "$newest.metadata",
            "command": "$newest._id.c",
        }
    },
]


async def prepare(driver: Driver, log_name: str, view_name: str) -> None:
    """Check the server and create what is missing. Workers may do this at the same time.

    :raises StoreConfigError: if the server is not fit or access is refused.
    :raises StoreUnavailable: if there is no answer.
    """
    try:
        await _check_server(driver)
        await create_indexes(driver, log_name, LOG_INDEX, CARRIED_INDEX, SWEEP_INDEX)
        await _create_view(driver, log_name, view_name)
        await _check_plans(driver, log_name)
    except AccessRefused as error:
        raise StoreConfigError(str(error)) from None
    except StoreUnavailable:
        raise
    except StoreConfigError:
        raise
    except StoreError as error:
        raise StoreConfigError(str(error)) from None


async def _check_server(driver: Driver) -> None:
    hello = await driver.command({"hello": 1})
    if hello.get("isreplicaset"):
        # So it is at each start of a member, until it has read its configuration.
        raise StoreUnavailable(
            f"MongoDB at {driver.place} has not found its replica set yet; if it never had one, run rs.initiate() in "
            "mongosh"
        )
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise StoreConfigError(
            f"MongoDB at {driver.place} is a standalone server; Holdfast needs a replica set, which may have one "
            "member: start mongod with --replSet rs0 and run rs.initiate() once in mongosh"
        )
    if hello["maxWireVersion"] < _MIN_WIRE_VERSION:
        raise StoreConfigError(f"MongoDB at {driver.place} is too old; Holdfast needs 6.0 or newer")
    if not hello.get("isWritablePrimary"):
        raise StoreUnavailable(f"MongoDB at {driver.place} is not the primary")


async def create_indexes(driver: Driver, log_name: str, *indexes: dict[str, Any]) -> None:
    """Create indexes that are not there yet.

    :raises StoreUnavailable: if no majority has them.
    """
    made = await driver.command(
        {"createIndexes": log_name, "indexes": list(indexes), "writeConcern": {"w": "majority"}}
    )
    # Without a majority it may be rolled back, and the first insert would then make a log without the index, in
    # which nothing refuses a version that is taken.
    if made.get("writeConcernError"):
        raise StoreUnavailable(f"no majority at {driver.place} has confirmed the indexes of the log")


async def _create_view(driver: Driver, log_name: str, view_name: str) -> None:
    view = {"viewOn": log_name, "pipeline": CURRENT_VIEW}
    listing = {"listCollections": 1, "filter": {"name": view_name}, "cursor": {}}
    found = (await driver.command(listing))["cursor"]["firstBatch"]
    if not found:
        made = await driver.command({"create": view_name, **view}, tolerate=[_NAMESPACE_EXISTS])
        if made["ok"]:
            return
        found = (await driver.command(listing))["cursor"]["firstBatch"]
    if found and found[0]["type"] != "view":
        raise StoreConfigError(f"the collection {view_name!r} is in the way: it has to be a view")
    if not found or found[0]["options"] != view:
        await driver.command({"collMod": view_name, **view})


async def _check_plans(driver: Driver, log_name: str) -> None:
    """Say so if the look at the newest versions would read them all."""
    for group, wanted in ((HEAD_GROUP, "DISTINCT_SCAN"), (VERSION_GROUP, "PROJECTION_COVERED")):
        stages = await explain(driver, log_name, newest({"$in": ["a", "b"]}, group))
        if "DISTINCT_SCAN" not in stages or wanted not in stages:
            log.warning(
                "MongoDB plans the look at the newest versions of %s as %s instead of a DISTINCT_SCAN: it will be "
                "slow for keys with many versions",
                log_name,
                sorted(stages),
            )


async def explain(driver: Driver, log_name: str, pipeline: list[dict[str, Any]]) -> set[str]:
    """The stages of the plan for a pipeline."""
    command = {"aggregate": log_name, "pipeline": pipeline, "cursor": {}, "hint": VERSION_INDEX}
    return _stages(await driver.command({"explain": command, "verbosity": "queryPlanner"}))


def _stages(plan: Any) -> set[str]:
    if isinstance(plan, list):
        return set().union(*(_stages(part) for part in plan))
    if not isinstance(plan, dict):
        return set()
    own = {plan["stage"]} if isinstance(plan.get("stage"), str) else set()
    return own.union(*(_stages(part) for part in plan.values()))
