"""Rewriting values online: migration to a schema's present version, and rotation of keys."""

import asyncio
from typing import Any

import pytest
from support.users import AFTER, BEFORE, NEW, SCHEMA, User

import holdfast
from holdfast import Encryption
from holdfast.client import rewrite
from holdfast.client.encryption import sealed_with
from holdfast.client.rewrite import NOTES, Progress, migrate, rotate_keys
from holdfast.testing import AccessConfig, AccessRule, MemoryService


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few keys are many pages, and each is noted."""
    monkeypatch.setattr(rewrite, "PAGE", 7)
    monkeypatch.setattr(rewrite, "NOTE_INTERVAL", -1.0)


async def fill(client: holdfast.Client, count: int) -> None:
    """Users as they were saved at version 1."""
    await client.save_many({f"user/{number:03}": {"name": f"Ada {number}"} for number in range(count)})


async def values(client: holdfast.Client, count: int) -> list[Any]:
    found = await client.read_many(f"user/{number:03}" for number in range(count))
    return [entry and entry.value for entry in found.values()]


async def test_old_values_are_saved_in_the_present_form(client: holdfast.Client) -> None:
    """Given values of two versions and others beside them, when they are migrated, then only the old ones become
    new versions, of the present form.
    """
    await fill(client, 30)
    await client.save("user/029", SCHEMA.dump(User(first="Eve")))
    await client.save("other", {"name": "no user"})
    await client.delete("user/028")
    told: list[int] = []
    progress = await migrate(client, SCHEMA, prefix="user/", on_progress=lambda now: told.append(now.looked))
    assert (progress.looked, progress.rewritten, progress.faulty, progress.resumed) == (29, 28, 0, False)
    assert told == [7, 14, 21, 28, 29]
    migrated = await values(client, 30)
    assert migrated[0] == {"$version": 2, "first": "Ada", "last": "0"}
    assert all(SCHEMA.is_current(value) for value in migrated if value is not None)
    history = await client.history("user/000")
    assert [event.version for event in history] == [1, 2]
    assert history[1].metadata == {"holdfast.rewrite": "migrate/User@2"}
    assert len(await client.history("user/029")) == 2
    other = await client.read("other")
    assert other is not None
    assert other.version == 1
    again = await migrate(client, SCHEMA, prefix="user/")
    assert (again.looked, again.rewritten, again.resumed) == (29, 0, False)


async def test_a_run_that_is_broken_off_is_taken_up(client: holdfast.Client) -> None:
    """Given a run that ends in the middle, when there is another, then it goes on from there, and counts on."""
    await fill(client, 30)

    def crash(now: Progress) -> None:
        if now.looked == 21:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await migrate(client, SCHEMA, prefix="user/", on_progress=crash)
    looked: list[int] = []
    progress = await migrate(client, SCHEMA, prefix="user/", on_progress=lambda now: looked.append(now.looked))
    # The last page was done, but not written down.
    assert looked[0] == 21
    assert (progress.resumed, progress.looked, progress.rewritten) == (True, 30, 23)
    assert all(SCHEMA.is_current(value) for value in await values(client, 30))
    assert not (await client.query(prefix=NOTES)).entries


async def test_writers_go_on_meanwhile(service: MemoryService, client: holdfast.Client) -> None:
    """Given programs that write, and faults of every kind, when values are migrated, then nobody's write is lost."""
    await fill(client, 40)
    service.faults.at_random(3, conflicts=0.1, lost_replies=0.1, timeouts=0.1, unavailable=0.1)
    async with service.connect() as other:
        migrating = asyncio.ensure_future(migrate(client, SCHEMA, prefix="user/"))
        for number in range(40):
            state = other.state(f"user/{number:03}", User)
            while True:
                try:
                    await state.update(lambda user: setattr(user, "first", "Eve"))
                except (holdfast.Unavailable, holdfast.OutcomeUnknown):
                    continue
                break
        progress = await migrating
    service.faults.stop()
    assert progress.looked == 40
    assert {fault.kind for fault in service.faults.happened} >= {"conflict", "timeout_applied", "unavailable"}
    for number, value in enumerate(await values(client, 40)):
        assert value == {"$version": 2, "first": "Eve", "last": str(number)}


async def test_what_cannot_be_read_is_told_and_left(client: holdfast.Client) -> None:
    """Given values of another shape, when they are migrated, then they stay, and the progress names them."""
    await fill(client, 3)
    await client.save("user/001", {"nick": "Ada"})
    await client.save("user/002", {"$version": 7, "first": "Ada"})
    progress = await migrate(client, SCHEMA, prefix="user/")
    assert (progress.rewritten, progress.faulty, list(progress.faults)) == (1, 1, ["user/001"])
    assert "version 1 of User does not fit" in progress.faults["user/001"]
    # A later version is a later program's.
    assert (await values(client, 3))[2] == {"$version": 7, "first": "Ada"}


async def test_a_dry_run_counts_and_writes_nothing(service: MemoryService, client: holdfast.Client) -> None:
    """Given old values, when a run is dry, then it counts them, and nothing is written, not even how far it came."""
    await fill(client, 10)
    progress = await migrate(client, SCHEMA, prefix="user/", dry=True)
    assert (progress.looked, progress.rewritten) == (10, 10)
    assert [len(await client.history(f"user/{number:03}")) for number in range(10)] == [1] * 10
    assert not (await client.query(prefix=NOTES)).entries


async def test_keys_are_rotated(service: MemoryService, client: holdfast.Client) -> None:
    """Given values sealed with the old key, when keys are rotated, then the new one alone opens them."""
    async with service.connect(encryption=BEFORE) as programs:
        await fill(programs, 20)
    async with service.connect(encryption=AFTER) as programs:
        await programs.save("user/000", {"name": "Eve 0"})
        progress = await rotate_keys(client, AFTER, prefix="user/")
        assert (progress.looked, progress.rewritten, progress.faulty) == (20, 19, 0)
        assert await values(programs, 3) == [{"name": "Eve 0"}, {"name": "Ada 1"}, {"name": "Ada 2"}]
        history = await programs.history("user/001")
        assert [event.value for event in history] == [{"name": "Ada 1"}] * 2
    async with service.connect(encryption=Encryption({"new": NEW})) as without_old:
        assert len([value for value in await values(without_old, 20) if value]) == 20
        with pytest.raises(holdfast.EncryptionError, match="'old', which is not here"):
            await without_old.history("user/001")


async def test_what_it_takes_to_rewrite() -> None:
    """Given a user who may list, read and save, when values are migrated, then that is enough: nothing is queried."""
    rules = [
        AccessRule(user="ada", store="*", key="user/*", operations=["keys", "read", "save"]),
        AccessRule(user="ada", store="*", key=f"{NOTES}*", operations=["read", "save", "delete"]),
    ]
    with MemoryService(access=AccessConfig(default="closed", rules=rules)) as service:
        async with service.connect(user="ada") as client:
            await fill(client, 5)
            progress = await migrate(client, SCHEMA, prefix="user/")
            assert (progress.looked, progress.rewritten, progress.faulty) == (5, 5, 0)


async def test_plain_values_are_sealed_where_they_are_accepted(client: holdfast.Client) -> None:
    """Given values from before there was a key, when keys are rotated, then that takes a word to accept them."""
    await fill(client, 5)
    refused = await rotate_keys(client, AFTER)
    assert (refused.rewritten, refused.faulty) == (0, 5)
    accepted = await rotate_keys(client, Encryption({"new": NEW}, plain="accept"))
    assert (accepted.rewritten, accepted.faulty) == (5, 0)
    assert all(sealed_with(value) for value in await values(client, 5))


async def test_keys_are_not_rotated_by_a_client_that_has_them(service: MemoryService) -> None:
    """Given a client that opens values by itself, when it is to rotate keys, then that is an error."""
    async with service.connect(encryption=AFTER) as client:
        with pytest.raises(holdfast.InvalidError, match="without encryption of its own"):
            await rotate_keys(client, AFTER)


async def test_a_sealing_client_migrates_what_it_can_open(service: MemoryService, client: holdfast.Client) -> None:
    """Given sealed values of an earlier version, when a client with the keys migrates them, then they are sealed."""
    async with service.connect(encryption=AFTER) as programs:
        await fill(programs, 5)
        assert (await migrate(programs, SCHEMA, prefix="user/")).rewritten == 5
        assert (await values(programs, 1))[0] == {"$version": 2, "first": "Ada", "last": "0"}
    assert all(sealed_with(value) for value in await values(client, 5))
