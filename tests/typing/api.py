"""The public API as users write it, for the type checker alone: nothing runs this."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from pydantic import BaseModel

import holdfast
from holdfast import (
    AbsentError,
    Check,
    Client,
    ClosedError,
    Condition,
    ConflictError,
    Delete,
    DeniedError,
    Encryption,
    Entity,
    Entry,
    ErasedError,
    ExpiredError,
    Field,
    HistoryEntry,
    HoldfastError,
    IdReusedError,
    InvalidError,
    KeyEntry,
    KeyPage,
    NotReadError,
    Order,
    OutcomeUnknown,
    PersistentState,
    QueryPage,
    RemoteError,
    Revision,
    Save,
    Schema,
    Service,
    SeveralStoresError,
    StepResult,
    SyncClient,
    TooLargeError,
    Transaction,
    Unavailable,
    UnknownStoreError,
    UnsupportedError,
    by_name,
    by_user,
    persistent,
)


@dataclass
class Cart:
    items: list[str] = field(default_factory=list)


class Profile(BaseModel):
    name: str


async def by_key() -> None:
    async with holdfast.connect(
        "amqp://localhost/", timeout=5, store="profiles", max_in_flight=100, name="me"
    ) as client:
        assert_type(client, Client)
        saved = await client.save("user/42", {"name": "Ada"})
        assert_type(saved, Entry)
        assert_type(saved.etag, str)
        assert_type(saved.version, int)
        assert_type(saved.updated_at, datetime)
        again = await client.save(
            "user/42",
            [1, 2.5, None, True, {"a": "b"}],
            etag=saved.etag,
            first_write=False,
            store="default",
            metadata={"by": "ada"},
            return_current=True,
            timeout=1.5,
            id="import-17",
        )
        assert_type(again.value, Any)

        entry = await client.read("user/42", consistency="eventual", store="default", timeout=1)
        assert_type(entry, Entry | None)
        if entry is not None:
            assert_type(await client.delete("user/42", etag=entry.etag, metadata={"why": "gone"}), bool)

        assert_type(await client.read_many(["a", "b"]), dict[str, Entry | None])
        assert_type(await client.read_many(name for name in ("a", "b")), dict[str, Entry | None])
        assert_type(await client.read_many(["a", "b"], return_errors=True), dict[str, Entry | HoldfastError | None])
        assert_type(await client.delete_many(["a", Delete("b", etag="1-x")]), dict[str, bool | HoldfastError])
        outcomes = await client.save_many({"a": 1, "b": None})
        assert_type(outcomes, dict[str, Entry | HoldfastError])
        await client.save_many([Save("a", 1), Save("b", 2, etag="1-x"), Save("c", 3, first_write=True)])

        past = await client.read("user/42", version=3)
        assert_type(past, Entry | None)
        assert_type(await client.read("user/42", at=datetime.now(UTC)), Entry | None)
        restored = await client.restore("user/42", version=3, etag="3-x", correlation_id="a", causation_id="b")
        assert_type(restored, Entry)
        assert_type(await client.purge("user/42", etag="3-x", metadata={"by": "ada"}, store="default", id="p-1"), bool)

        page = await client.keys("user/", after="user/41", limit=10, store="default", timeout=1)
        assert_type(page, KeyPage)
        assert_type(page.next, str | None)
        async for found in client.iter_keys("user/"):
            assert_type(found, KeyEntry)
            assert_type(found.etag, str | None)
        assert_type(await client.count_keys(), int)

        await client.save("session", 1, ttl=60)
        await client.save_many([Save("session", 1, ttl=timedelta(minutes=1))])
        assert_type((await client.save("session", 1, ttl=timedelta(hours=1))).expires_at, datetime | None)
        patched = await client.merge_patch("user/42", {"name": None}, etag=again.etag, ttl=60, timeout=1, id="x")
        assert_type(patched, Entry)
        await client.json_patch("user/42", [{"op": "add", "path": "/a", "value": [1]}], metadata={"by": "ada"})
        assert_type(await client.increment("hits"), Entry)
        await client.increment("stats", 2.5, path="/seconds", store="default", return_current=True)
        await client.increment("stats", {"/visits": 1, "/seconds": 0.5})

        events = await client.history("user/42", after_version=3, limit=10)
        await client.history(
            "user/42", before_version=9, since=datetime.now(UTC), until=saved.updated_at, backward=True
        )
        async for event in client.iter_history("user/42", after_version=3):
            assert_type(event, HistoryEntry)
            assert_type(event.correlation_id, str | None)
            assert_type(event.restored, int | None)
        assert_type(events, Sequence[HistoryEntry])
        for event in events:
            assert_type(event.version, int)
            assert_type(event.author, str | None)
            assert_type(event.expires, int | None)

        assert_type(await client.describe(), Service)


async def transactions(client: Client) -> None:
    # Lists of mixed steps need no annotation.
    steps = [Save("a", 1), Delete("b", etag="1-x"), Check("c", exists=False)]
    results = await client.transact(steps, store="default", metadata={"by": "ada"}, return_current=True, id="t-1")
    assert_type(results, list[StepResult])
    for result in results:
        assert_type(result.key, str)
        assert_type(result.etag, str | None)
        assert_type(result.changed, bool | None)
        assert_type(result.updated_at, datetime | None)
    await client.transact(Save(key, 1) for key in ("a", "b"))
    async with client.transaction(timeout=3) as transaction:
        assert_type(transaction, Transaction)
        assert_type(transaction.save("a", 1, first_write=True), int)
        transaction.delete("b", etag="1-x")
        transaction.check("c", etag="1-x")
    assert_type(transaction.results, list[StepResult])
    try:
        await client.transact(steps)
    except ConflictError as conflict:
        assert_type(conflict.operation, int | None)
    except SeveralStoresError as several:
        assert_type(several.code, str)


async def handles(client: Client) -> None:
    cart = client.state("user/42/cart", Cart, store="carts", default=Cart, timeout=3)
    assert_type(cart, PersistentState[Cart])
    await cart.read()
    await cart.read(consistency="eventual")
    await cart.read(consistency="sometimes")  # type: ignore[arg-type]
    assert_type(cart.value, Cart)
    cart.value.items.append("apple")
    cart.value = Cart(["pear"])
    await cart.write()
    assert_type(cart.etag, str | None)
    assert_type(cart.exists, bool)
    assert_type(cart.version, int)
    assert_type(cart.expires_at, datetime | None)
    client.state("session", Cart, ttl=timedelta(days=1))
    client.state("session", Cart, ttl=60)
    assert_type(cart.key, str)
    await cart.clear()

    def add(value: Cart) -> None:
        value.items.append("pear")

    def replace(value: Cart) -> Cart:
        return Cart(value.items[:-1])

    def either(value: Cart) -> Cart | None:
        return None if value.items else Cart(["first"])

    async def add_later(value: Cart) -> None:
        await asyncio.sleep(0)
        value.items.append("pear")

    async def replace_later(value: Cart) -> Cart:
        await asyncio.sleep(0)
        return Cart(value.items)

    assert_type(await cart.update(add), Cart)
    await cart.update(replace)
    await cart.update(either)
    await cart.update(add_later)
    await cart.update(replace_later)
    await cart.update(lambda value: value.items.append("plum"), attempts=3)
    await cart.update(lambda value: Cart(value.items * 2))

    counter = client.state("visits", int, default=int)
    assert_type(await counter.update(lambda count: count + 1), int)
    assert_type(client.state("p", Profile), PersistentState[Profile])
    assert_type(client.state("l", list[Profile], default=list), PersistentState[list[Profile]])
    assert_type(client.state("d", dict[str, Any], default=dict), PersistentState[dict[str, Any]])


class User(Entity):
    profile: PersistentState[Profile] = persistent("profile", store="profiles")
    cart: PersistentState[Cart] = persistent(default=Cart)


async def entities(client: Client) -> None:
    async with client.activate(User, "user-42", timeout=3) as user:
        assert_type(user, User)
        assert_type(user.cart.value, Cart)
        async for revision in user.profile.history(after_version=3):
            assert_type(revision, Revision[Profile])
            assert_type(revision.value, Profile | None)


def blocking() -> None:
    with holdfast.connect_sync("amqp://localhost/", timeout=5) as client:
        assert_type(client, SyncClient)
        assert_type(client.save("a", 1, metadata={"by": "ada"}), Entry)
        assert_type(client.read("a"), Entry | None)
        assert_type(client.delete("a", etag="1-x"), bool)
        assert_type(client.history("a", limit=3), Sequence[HistoryEntry])
        assert_type(client.iter_history("a"), Iterator[HistoryEntry])
        assert_type(client.read_many(["a"]), dict[str, Entry | None])
        cart = client.state("cart", Cart, default=Cart)
        assert_type(cart.update(lambda value: value.items.append("a")), Cart)
        assert_type(client.run(Client.describe), Service)
        client.save("a")  # type: ignore[call-arg]
        client.read("a", consistency="sometimes")  # type: ignore[arg-type]


def values() -> None:
    assert_type(Schema(Profile, version=2, upcasters={1: lambda old: old}), Schema[Profile])
    holdfast.connect(keys=by_user(), encryption=Encryption({"k": b"0" * 32}, plain="accept"))
    holdfast.connect(keys=by_name("shop"))


async def mistakes(client: Client) -> None:
    """What the type checker finds: each of these lines is a mistake, and says so if it ever is none."""
    state = client.state("cart", Cart)
    state.value = {"items": []}  # type: ignore[assignment]
    await client.save("k", 1, ttl=1.5)  # type: ignore[arg-type]
    await client.increment("k", "1")  # type: ignore[arg-type]
    await state.update(lambda cart: cart.items.pop())  # type: ignore[arg-type, return-value]
    client.state("cart", Cart, default=dict)  # type: ignore[arg-type]
    await client.read("k", consistency="sometimes")  # type: ignore[arg-type]
    await client.save("k")  # type: ignore[call-arg]
    await client.save("k", 1, "1-etag")  # type: ignore[arg-type, call-arg]
    (await client.read("k")).value  # type: ignore[union-attr]  # noqa: B018
    await client.save_many([("k", 1)])  # type: ignore[list-item]
    await client.transact([("k", 1)])  # type: ignore[list-item]
    Check("k", "1-etag")  # type: ignore[call-arg]


async def errors(client: Client) -> None:
    try:
        await client.save("k", 1)
    except ConflictError as conflict:
        assert_type(conflict.key, str)
        assert_type(conflict.expected, str | None)
        assert_type(conflict.actual, str | None)
        assert_type(conflict.version, int)
        assert_type(conflict.winner, str | None)
        assert_type(conflict.current, Any)
    except (TooLargeError, IdReusedError) as invalid:
        assert_type(invalid.code, str)
        assert_type(invalid.field, str | None)
    except InvalidError as invalid:
        assert_type(invalid.code, str)
    except OutcomeUnknown as unknown:
        assert_type(unknown.id, str | None)
        await client.save("k", 1, id=unknown.id)
    except ExpiredError as late:
        assert_type(late, ExpiredError)
    except (Unavailable, TimeoutError):
        pass
    except RemoteError as remote:
        assert_type(remote.code, str)
    except (UnknownStoreError, DeniedError, ErasedError, ClosedError, NotReadError, AbsentError) as other:
        raise SystemExit(str(other)) from other
    except HoldfastError:
        raise


async def by_query(client: Client) -> None:
    age = holdfast.field("age")
    assert_type(age, Field)
    adult = age.gte(18) & ~holdfast.field(("address", "city")).is_in(["Oslo", None]) | age.eq(True)
    assert_type(adult, Condition)
    assert_type(age.descending(), Order)
    page = await client.query(adult, prefix="user/", sort=["name", age.ascending()], projection=["name"], limit=5)
    assert_type(page, QueryPage)
    assert_type(page.entries, list[Entry])
    assert_type(page.token, str | None)
    assert_type(page.scan, bool)
    assert_type(page.as_of, datetime)
    async for entry in client.iter_query(adult, store="profiles", timeout=5):
        assert_type(entry, Entry)
    try:
        await client.query(explain=True, token=page.token)
    except UnsupportedError as unsupported:
        assert_type(unsupported.code, str)
