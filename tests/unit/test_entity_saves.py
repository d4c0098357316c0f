"""Saving entities: what has changed, all of one store or nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from support.loopback import Loopback
from support.loops import settle

import holdfast
from holdfast import Encryption, Entity, PersistentState, by_name, persistent
from holdfast.testing import MemoryService


class Profile(BaseModel):
    name: str = ""


class Account(Entity):
    """Two states in one store, one in another."""

    profile: PersistentState[Profile] = persistent(default=Profile)
    balance: PersistentState[int] = persistent(default=int)
    notes: PersistentState[list[str]] = persistent(default=list)
    cart: PersistentState[dict[str, int]] = persistent(store="carts", default=dict)


@pytest.fixture
def service() -> Iterator[MemoryService]:
    with MemoryService(stores=["default", "carts"]) as service:
        yield service


@pytest.fixture
async def client(service: MemoryService) -> AsyncIterator[holdfast.Client]:
    async with service.connect() as client:
        yield client


async def versions(client: holdfast.Client, *names: str) -> list[int]:
    """Of the states of account 1."""
    found = await client.read_many(f"1/{name}" for name in names)
    return [entry.version if entry else 0 for entry in found.values()]


async def test_only_what_has_changed_is_saved(client: holdfast.Client) -> None:
    """Given an entity, when it is saved, then its changed states are, and others, looked at or not, are not."""
    async with client.activate(Account, "1") as account:
        await account.save()
        assert account.notes.value == []
        account.profile.value.name = "Ada"
        account.balance.value = 100
        account.cart.value["apple"] = 1
        assert [state.changed for state in (account.profile, account.balance, account.notes, account.cart)] == [
            True,
            True,
            False,
            True,
        ]
        await account.save()
        assert await versions(client, "profile", "balance", "notes") == [1, 1, 0]
        assert [account.profile.version, account.balance.version, account.cart.version] == [1, 1, 1]
        await account.save()
        account.balance.value += 1
        await account.save()
        assert await versions(client, "profile", "balance", "notes") == [1, 2, 0]
    async with client.activate(Account, "1") as again:
        assert (again.profile.value.name, again.balance.value, again.cart.value) == ("Ada", 101, {"apple": 1})
        assert not again.profile.changed


async def test_a_change_is_one_of_what_would_be_stored(client: holdfast.Client) -> None:
    """Given values that are equal and not the same, when they are compared, then that is a change."""
    await client.save("a", {"n": 1})
    state = client.state("a", dict[str, Any])
    assert not state.changed
    await state.read()
    for value, changed in (({"n": 1}, False), ({"n": True}, True), ({"n": 1.0}, True), ({"n": 1, "m": 2}, True)):
        state.value = value
        assert state.changed is changed
    fresh = client.state("b", int)
    fresh.value = 0
    assert fresh.changed


async def test_of_one_store_all_is_stored_or_nothing(client: holdfast.Client) -> None:
    """Given a state that moved on, when the entity is saved, then no other one of its store is stored; and once it is
    up to date again, the next save stores what was left.
    """
    async with client.activate(Account, "1") as account:
        account.profile.value.name = "Ada"
        account.balance.value = 100
        account.cart.value["apple"] = 1
        await client.save("1/balance", 5)
        with pytest.raises(holdfast.ConflictError) as conflict:
            await account.save()
        assert conflict.value.key == "1/balance"
        assert await versions(client, "profile", "balance") == [0, 1]
        assert (account.profile.version, account.profile.changed, account.profile.value.name) == (0, True, "Ada")
        # Another store stands for itself.
        assert (account.cart.version, account.cart.changed) == (1, False)
        await account.balance.read()
        account.balance.value += 100
        await account.save()
        assert await versions(client, "profile", "balance") == [1, 2]


@pytest.mark.parametrize("applied", [True, False])
async def test_after_an_unknown_outcome_it_is_found_out_first(
    service: MemoryService, client: holdfast.Client, applied: bool
) -> None:
    """Given a save whose outcome is unknown, when the states are used again, then each learns it first of all."""
    async with client.activate(Account, "1") as account:
        account.profile.value.name = "Ada"
        account.balance.value = 100
        service.faults.timeout(op="transact", applied=applied)
        with pytest.raises(holdfast.OutcomeUnknown):
            await account.save()
        account.balance.value = 200
        account.profile.value.name = "Ada Lovelace"
        await account.save()
        assert await versions(client, "profile", "balance") == [2, 2]
        history = [event.value for event in await client.history("1/balance")]
        assert history == [100, 200]
    assert len({fault.id for fault in service.faults.happened}) == 1


async def test_a_state_that_cannot_come_keeps_the_others_back(service: MemoryService, client: holdfast.Client) -> None:
    """Given a state with an unknown outcome of its own that cannot be found out now, when the entity is saved, then
    nothing is sent, and the states can go on.
    """
    async with client.activate(Account, "1") as account:
        account.balance.value = 1
        service.faults.timeout("1/balance", applied=False)
        with pytest.raises(holdfast.OutcomeUnknown):
            await account.balance.write()
        account.balance.value = 2
        account.profile.value.name = "Ada"
        service.faults.timeout("1/balance", applied=False)
        with pytest.raises(holdfast.OutcomeUnknown):
            await account.save()
        assert await versions(client, "profile", "balance") == [0, 0]
        await account.save()
        assert await versions(client, "profile", "balance") == [1, 2]


async def test_saves_come_in_their_turn(client: holdfast.Client) -> None:
    """Given many saves, writes and updates of one entity at the same time, when all are done, then none waited for
    another for ever, and what is stored is what the handles show.
    """
    async with client.activate(Account, "1") as account, asyncio.TaskGroup() as group:
        for number in range(20):
            account.balance.value = number
            account.profile.value = Profile(name=str(number))
            account.notes.value = [str(number)]
            await asyncio.sleep(0)
            group.create_task(account.save())
            group.create_task(account.notes.update(lambda notes: notes.append("more")))
            group.create_task(account.profile.write())
    async with client.activate(Account, "1") as account:
        account.balance.value = -1
        account.notes.value = []
        await account.save()
        await asyncio.gather(account.profile.read(), account.balance.read(), account.notes.read())
        found = await client.read_many(["1/profile", "1/balance", "1/notes"])
        states: list[PersistentState[Any]] = [account.profile, account.balance, account.notes]
        for entry, state in zip(found.values(), states, strict=True):
            assert entry is not None
            assert (entry.etag, entry.version) == (state.etag, state.version)


async def test_a_cancelled_save_goes_on(client: holdfast.Client) -> None:
    """Given a save whose caller is cancelled, when the states are used again, then they know how it ended."""
    async with client.activate(Account, "1") as account:
        account.profile.value.name = "Ada"
        account.balance.value = 100
        saving = asyncio.ensure_future(account.save())
        await asyncio.sleep(0)
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
        await account.balance.write()
        assert await versions(client, "profile", "balance") == [1, 2]
        assert (account.profile.version, account.balance.version) == (1, 2)


async def test_faults_at_random_never_store_half(service: MemoryService, client: holdfast.Client) -> None:
    """Given faults, when two activations save a pair of states again and again, then in every version both agree."""
    await client.save_many({"1/balance": 0, "1/notes": ["0"]})
    service.faults.at_random(5, lost_replies=0.1, timeouts=0.1, unavailable=0.02)

    async def work(start: int) -> None:
        for number in range(start, start + 40):
            try:
                async with client.activate(Account, "1") as account:
                    account.balance.value = number
                    account.notes.value = [str(number)]
                    await account.save()
            except holdfast.HoldfastError:
                continue

    await asyncio.gather(work(1000), work(2000))
    service.faults.stop()
    async with client.activate(Account, "1") as account:
        assert account.notes.value == [str(account.balance.value)]
    balances = {event.id: event.value for event in await client.history("1/balance", limit=1000)}
    notes = {event.id: event.value for event in await client.history("1/notes", limit=1000)}
    assert len(balances.keys() ^ notes.keys()) == 2, "all but the first two saves are of both"
    both = balances.keys() & notes.keys()
    assert len(both) > 20
    assert all(notes[one] == [str(balances[one])] for one in both)


async def test_saving_works_with_sealed_values_and_spaces(service: MemoryService) -> None:
    """Given a client with keys of its own and encryption, when an entity is saved, then all of that is in force."""
    sealing = Encryption({"k": bytes(32)})
    async with service.connect(encryption=sealing, keys=by_name("shop")) as client, service.connect() as plain:
        async with client.activate(Account, "1") as account:
            account.profile.value.name = "Ada"
            account.balance.value = 100
            await account.save()
        async with client.activate(Account, "1") as account:
            assert (account.profile.value.name, account.balance.value) == ("Ada", 100)
            twin = await client.activate(Account, "1").__aenter__()
            twin.balance.value = 1
            await twin.save()
            account.balance.value, account.profile.value.name = 2, "Eve"
            with pytest.raises(holdfast.ConflictError) as conflict:
                await account.save()
            assert conflict.value.key == "1/balance"
        stored = await plain.read("shop/1/balance")
        assert stored is not None
        assert list(stored.value) == ["$sealed"]


async def test_one_state_alone_is_a_plain_save() -> None:
    """Given one changed state, when the entity is saved, then that is a save, and not a transaction of one."""

    class Two(Entity):
        a: PersistentState[int] = persistent(default=int)
        b: PersistentState[int] = persistent(default=int)

    service = Loopback()
    async with service.connect() as client, client.activate(Two, "x") as two:
        two.a.value = 1
        await two.save()
        await settle()
        assert [command["op"] for command in service.commands] == ["read", "read", "save"]
