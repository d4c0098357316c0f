"""Values that expire, and patches, on a service in memory: what clients, handles and entities see of them."""

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from support.users import AFTER, BEFORE, NEW, OLD, SCHEMA, User

import holdfast
from holdfast import Check, Encryption, Entity, InvalidError, PersistentState, Save, persistent
from holdfast.client import rewrite
from holdfast.client.encryption import sealed_with
from holdfast.client.rewrite import migrate, rotate_keys
from holdfast.testing import MemoryService


@dataclass
class Cart:
    items: list[str] = field(default_factory=list)


class Session(Entity):
    """One state that lives for a while, and one that stays."""

    cart: PersistentState[Cart] = persistent(default=Cart, ttl=timedelta(minutes=1))
    visits: PersistentState[Cart] = persistent(default=Cart)


async def test_time_goes_by_as_a_test_wants(service: MemoryService, client: holdfast.Client) -> None:
    """Given values with and without a time, when that has come, then one is absent for everything, and one is not."""
    saved = await client.save("k", 1, ttl=600)
    await client.save("stays", 1)
    service.advance(300)
    assert await client.read("k") == saved
    service.advance(300)
    assert await client.read("k", consistency="eventual") is None
    assert [entry.key for entry in (await client.query()).entries] == ["stays"]
    assert await client.read("k") is None
    assert [event.type for event in await client.history("k")] == ["saved", "expired"]
    assert (await client.save("k", 2, first_write=True)).version == 3


async def test_patches(client: holdfast.Client) -> None:
    """Given values, when they are patched in each way, then what came of it comes back, and is what is kept."""
    assert (await client.increment("hits", 2)).value == 2
    assert (await client.merge_patch("user", {"a": {"b": 1}})).value == {"a": {"b": 1}}
    patched = await client.json_patch("user", [{"op": "add", "path": "/a/c", "value": 2}])
    assert await client.read("user") == patched
    with pytest.raises(holdfast.ConflictError) as caught:
        await client.json_patch("user", [{"op": "test", "path": "/a/c", "value": 3}])
    assert caught.value.code == "test_failed"


async def test_a_patch_leaves_the_time_or_sets_it(service: MemoryService, client: holdfast.Client) -> None:
    """Given a value with a time, when it is patched, then that stays; with a time of its own it begins anew."""
    saved = await client.save("k", 1, ttl=60)
    service.advance(30)
    assert (await client.increment("k")).expires_at == saved.expires_at
    anew = await client.increment("k", ttl=60)
    assert anew.expires_at_ms == anew.updated_at_ms + 60_000
    service.advance(61)
    assert (await client.increment("k")).value == 1


async def test_saves_of_a_transaction_may_expire(service: MemoryService, client: holdfast.Client) -> None:
    """Given a transaction with a save that expires, when its time has come, then for conditions it is absent."""
    async with client.transaction() as steps:
        steps.save("a", 1, ttl=60)
        steps.save("b", 1)
    a, b = steps.results
    assert (a.expires_at_ms, b.expires_at) == ((a.updated_at_ms or 0) + 60_000, None)
    with pytest.raises(holdfast.ConflictError):
        await client.transact([Check("a", exists=False), Save("b", 2)])
    service.advance(61)
    await client.transact([Check("a", exists=False), Save("b", 2)])
    with pytest.raises(holdfast.ConflictError) as caught:
        await client.transact([Save("a", 2, etag=a.etag)])
    assert (caught.value.code, caught.value.key) == ("absent", "a")


async def test_states_of_an_entity_may_expire(service: MemoryService, client: holdfast.Client) -> None:
    """Given an entity with a state that expires, when it is saved and time passes, then only that state is gone."""
    async with client.activate(Session, "s") as session:
        session.cart.value.items.append("apple")
        session.visits.value.items.append("home")
        await session.save()
        assert session.cart.expires_at is not None
        assert session.visits.expires_at is None
    service.advance(61)
    async with client.activate(Session, "s") as session:
        assert (session.cart.value, session.cart.exists) == (Cart(), False)
        assert session.visits.value == Cart(["home"])
        session.cart.value.items.append("pear")
        await session.cart.write()
        assert session.cart.expires_at is not None


@pytest.mark.parametrize("encryption", [None, BEFORE], ids=["plain", "sealed"])
async def test_what_is_migrated_expires_when_it_would_have(
    service: MemoryService, encryption: Encryption | None
) -> None:
    """Given old values, one with a time, when they are migrated, then that one expires at the same millisecond."""
    async with service.connect(encryption=encryption) as client:
        old = await client.save("user/1", {"name": "Ada Lovelace"}, ttl=60)
        await client.save("user/2", {"name": "Eve Moneypenny"})
        service.advance(1.2345)
        progress = await migrate(client, SCHEMA, prefix="user/")
        assert (progress.rewritten, progress.faulty) == (2, 0)
        one, two = await client.read("user/1"), await client.read("user/2")
        assert one is not None
        assert two is not None
        assert (one.expires_at_ms, two.expires_at_ms) == (old.expires_at_ms, None)
        assert SCHEMA.load(one.value) == User(first="Ada", last="Lovelace")
        service.advance(60)
        assert await client.read("user/1") is None
    async with service.connect() as raw:
        stored = (await raw.history("user/1"))[1].value
        assert (sealed_with(stored) is not None) == (encryption is not None)


async def test_what_is_sealed_anew_expires_when_it_would_have(service: MemoryService) -> None:
    """Given a sealed value with a time, when keys are rotated, then it expires at the same millisecond."""
    async with service.connect(encryption=BEFORE) as client:
        old = await client.save("k", {"secret": 1}, ttl=60)
    async with service.connect() as raw:
        assert (await rotate_keys(raw, AFTER)).rewritten == 1
    async with service.connect(encryption=AFTER) as client:
        entry = await client.read("k")
        assert entry is not None
        assert (entry.value, entry.expires_at) == ({"secret": 1}, old.expires_at)
        with pytest.raises(InvalidError) as caught:
            await client.merge_patch("k", {"secret": 2})
        assert caught.value.code == "encrypted"
        with pytest.raises(InvalidError, match="encrypted"):
            await client.json_patch("k", [{"op": "replace", "path": "/secret", "value": 2}])
        whole = await client.json_patch("k", [{"op": "replace", "path": "", "value": 2}], etag=entry.etag)
        assert (whole.value, whole.expires_at) == (2, old.expires_at)
    async with service.connect() as raw:
        found = await raw.read("k")
        assert found is not None
        assert sealed_with(found.value) is not None


async def test_handles_in_a_store_with_a_lifetime() -> None:
    """Given a store with a lifetime, when handles write, then that counts from each write on, but where one is said."""
    with MemoryService(ttl={"default": 60}) as service:
        async with service.connect() as client:
            plain, stays = client.state("plain", int, default=int), client.state("stays", int, ttl="forever")
            stays.value = 1
            await stays.write()
            for _ in range(3):
                await plain.update(lambda count: count + 1)
                assert plain.expires_at is not None
                service.advance(59)
            service.advance(1)
            await plain.read()
            await stays.read()
            assert (plain.exists, stays.exists, stays.expires_at) == (False, True, None)
            async with client.activate(Session, "s") as session:
                session.cart.value.items.append("apple")
                session.visits.value.items.append("home")
                await session.save()
                assert session.cart.expires_at == session.visits.expires_at


@pytest.mark.parametrize("encryption", [None, BEFORE], ids=["plain", "sealed"])
async def test_what_is_rewritten_in_a_store_with_a_lifetime_keeps_its_own(encryption: Encryption | None) -> None:
    """Given a store with a lifetime, values with one, and values that stay, when they are migrated and sealed anew,
    then they expire when they would have, or stay.
    """
    with MemoryService(ttl={"default": 60}) as service:
        async with service.connect(encryption=encryption) as client:
            old = await client.save("user/1", {"name": "Ada Lovelace"})
            assert old.expires_at_ms == old.updated_at_ms + 60_000
            await client.save("user/2", {"name": "Eve Moneypenny"}, ttl="forever")
            service.advance(10)
            assert (await migrate(client, SCHEMA, prefix="user/")).rewritten == 2
        async with service.connect() as raw:
            sealer = Encryption({"new": NEW, "old": OLD}, plain="accept")
            assert (await rotate_keys(raw, sealer)).rewritten == 2
            one, two = await raw.read("user/1"), await raw.read("user/2")
            assert one is not None
            assert two is not None
            assert (one.version, one.expires_at_ms) == (3, old.expires_at_ms)
            assert (two.version, two.expires_at_ms) == (3, None)
            service.advance(3600)
            assert await raw.read("user/1") is None
            assert await raw.read("user/2") == two


async def test_how_far_a_rewriting_has_come_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a store with a lifetime and a run that was broken off, when that is over, then the next run goes on."""
    monkeypatch.setattr(rewrite, "PAGE", 2)
    monkeypatch.setattr(rewrite, "NOTE_INTERVAL", -1.0)

    def crash(now: rewrite.Progress) -> None:
        if now.looked == 4:
            raise KeyboardInterrupt

    with MemoryService(ttl={"default": 60}) as service:
        async with service.connect() as client:
            for number in range(6):
                await client.save(f"user/{number}", {"name": "Ada"}, ttl="forever")
            with pytest.raises(KeyboardInterrupt):
                await migrate(client, SCHEMA, prefix="user/", on_progress=crash)
            service.advance(3600)
            progress = await migrate(client, SCHEMA, prefix="user/")
            assert (progress.resumed, progress.looked) == (True, 6)


async def test_what_cannot_be_rewritten_is_told(service: MemoryService, client: holdfast.Client) -> None:
    """Given a value so large that what replaces it is no patch any more, when it is migrated, then that is a fault."""
    await client.save("user/1", {"name": "x" * (2**20 - 20)}, ttl=60)
    await client.save("user/2", {"name": "Eve"}, ttl=60)
    progress = await migrate(client, SCHEMA, prefix="user/")
    assert (progress.rewritten, progress.faulty, list(progress.faults)) == (1, 1, ["user/1"])
