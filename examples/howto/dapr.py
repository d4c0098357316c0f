"""Dapr's "How-To: Save and get state" and "How-To: Build a stateful service", as they are written with Holdfast.

    save_state, POST /v1.0/state/<store>    save(key, value), with store= if it is not the default one
    get_state, GET …/<key>                  read(key): an Entry with value and etag, or None
    delete_state, DELETE …/<key>            delete(key)
    etag, If-Match                          etag=
    last-write, first-write                 the default, and first_write=True
    strong, eventual                        the default, and consistency="eventual" of reads; all writes are strong
    save_bulk_state, get_bulk_state         save_many, read_many, and delete_many
    execute_state_transaction               transact

Where Dapr answers 409, or 500, Holdfast raises a ConflictError that names both etags, and brings the value that won if
it is asked for. Values are JSON as Python has it: nothing has to be made a text first.

Start a service, and then: `HOLDFAST_AMQP_URL=amqp://… python -m examples.howto.dapr`
"""

import asyncio
import os
from typing import Any

import holdfast
from holdfast import Check, Client, Delete, Save


async def save_get_delete(client: Client) -> None:
    """The first steps."""
    await client.save("order_1", {"orderId": 250})
    entry = await client.read("order_1")
    print("saved and read:", entry.value if entry else None)
    entry = await client.read("order_1", consistency="eventual")
    print("read without waiting for the latest:", entry.value if entry else None)
    await client.delete("order_1")
    print("deleted:", await client.read("order_1"))


async def etags(client: Client) -> None:
    """Optimistic concurrency: an etag that is not the present one is a conflict, and nothing happens."""
    mine = await client.save("order_1", {"orderId": 1})  # it tells the etag, so that there is no need to read
    await client.save("order_1", {"orderId": 2})  # somebody else, without an etag: the last write wins
    try:
        await client.save("order_1", {"orderId": 3}, etag=mine.etag, return_current=True)
    except holdfast.ConflictError as conflict:
        print(f"conflict: expected {conflict.expected}, found {conflict.actual} with {conflict.current}")
    try:
        await client.delete("order_1", etag=mine.etag)
    except holdfast.ConflictError:
        print("conflict: it is not what was to be deleted")
    try:
        await client.save("order_1", {"orderId": 4}, first_write=True)
    except holdfast.ConflictError:
        print("conflict: first-write wins, and it has been written")


async def retry_on_mismatch(client: Client, key: str) -> Any:
    """Read, change, write, and again if somebody else was quicker: by hand, as Dapr's page has it."""
    while True:
        entry = await client.read(key)
        count = (entry.value["count"] if entry else 0) + 1
        try:
            saved = await client.save(
                key, {"count": count}, etag=entry.etag if entry else None, first_write=entry is None
            )
        except holdfast.ConflictError:
            continue
        return saved.value


async def or_let_it(client: Client, key: str) -> Any:
    """The same, done by a handle."""

    def increment(state: dict[str, int]) -> None:
        state["count"] = state.get("count", 0) + 1

    return await client.state(key, dict[str, int], default=dict).update(increment)


async def many_at_once(client: Client) -> None:
    """Bulk calls tell of each key what became of it."""
    outcomes = await client.save_many([Save("a", 1), Save("b", 2), Save("a/first", 3, etag="1-00000000")])
    print("saved:", [key for key, outcome in outcomes.items() if isinstance(outcome, holdfast.Entry)])
    found = await client.read_many(["a", "b", "c"], consistency="eventual")
    print("read:", {key: entry.value if entry else None for key, entry in found.items()})
    print("deleted:", await client.delete_many(["a", "b", "c"]))


async def all_or_nothing(client: Client) -> None:
    """A transaction: all of its operations, or none. One that does not fit is named."""
    await client.transact([Save("order_2", {"orderId": 2}), Save("order_3", {"orderId": 3}), Delete("order_1")])
    try:
        await client.transact([Delete("order_2"), Save("order_3", None), Check("order_1", exists=True)])
    except holdfast.ConflictError as conflict:
        print(f"conflict: operation {conflict.operation}, {conflict.key} is {conflict.code}")
    both = await client.read_many(["order_2", "order_3"])
    print("unchanged:", [entry.value["orderId"] for entry in both.values() if entry])


async def tour(client: Client) -> None:
    """All of it."""
    await save_get_delete(client)
    await etags(client)
    await asyncio.gather(*(retry_on_mismatch(client, "counter") for _ in range(10)))
    await asyncio.gather(*(or_let_it(client, "counter") for _ in range(10)))
    counter = await client.read("counter")
    print("twenty increments at the same time:", counter.value if counter else None)
    await many_at_once(client)
    await all_or_nothing(client)


async def main() -> None:
    """Do it on the service that the environment names."""
    async with holdfast.connect(os.environ["HOLDFAST_AMQP_URL"]) as client:
        await tour(client)


if __name__ == "__main__":
    asyncio.run(main())
