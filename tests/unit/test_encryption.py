"""Encryption at rest: what the service gets tells nothing, and cannot be changed or moved without being noticed."""

import base64
import copy
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdfast
from holdfast import Client, Encryption, EncryptionError, InvalidError, by_name
from holdfast.client.encryption import sealed_with
from holdfast.testing import MemoryService

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
BOTH = Encryption({"new": NEW, "old": OLD})
ONLY_OLD = Encryption({"old": OLD})
SECRET = {"name": "Ada Lovelace", "card": 4111111111111111, "tags": ["secret", None, 1.5, True]}


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text("äx$\0"), st.lists))
def test_what_is_sealed_is_opened_again(value: Any) -> None:
    """Given any value, when it is sealed and opened, then it is the same, and no part of it shows in between."""
    sealed = BOTH.seal("default", "user/42", "c1", value)
    assert BOTH.open("default", "user/42", sealed, command_id="c1") == value
    assert list(sealed) == ["$sealed"]


def test_nothing_of_the_value_shows() -> None:
    """Given a value, when it is sealed, then none of its texts and numbers is in what is sent."""
    sent = orjson.dumps(BOTH.seal("default", "user/42", "c1", SECRET))
    data = base64.b64decode(orjson.loads(sent)["$sealed"]["data"])
    for part in (b"Ada", b"card", b"4111", b"secret"):
        assert part not in sent
        assert part not in data


def test_a_command_that_is_sent_again_is_the_same() -> None:
    """Given a command, when it is sealed twice, then it is the same; another value or command has another nonce."""
    nonces = set()
    for key, command_id, value in (("a", "c1", 1), ("a", "c1", 2), ("a", "c2", 1), ("b", "c1", 1)):
        sealed = BOTH.seal("default", key, command_id, value)
        assert BOTH.seal("default", key, command_id, value) == sealed
        nonces.add(base64.b64decode(sealed["$sealed"]["data"])[:12])
    assert len(nonces) == 4


@pytest.mark.parametrize(
    ("store", "key", "known"),
    [
        ("other", "user/42", {}),
        ("default", "user/43", {}),
        ("default", "user/42", {"command_id": "c2"}),
        ("default", "user/42", {"etag": holdfast.events.make_etag(1, "c2")}),
    ],
)
def test_a_sealed_value_fits_one_place(store: str, key: str, known: dict[str, str]) -> None:
    """Given a sealed value, when it stands in another store, key or event, then it cannot be opened."""
    sealed = BOTH.seal("default", "user/42", "c1", SECRET)
    assert BOTH.open("default", "user/42", sealed, etag=holdfast.events.make_etag(1, "c1")) == SECRET
    with pytest.raises(EncryptionError, match="was changed, or was sealed for another"):
        BOTH.open(store, key, sealed, **known)


def test_no_change_goes_unnoticed() -> None:
    """Given a sealed value, when any bit of its data, its id or its key is changed, then it cannot be opened."""
    sealed = BOTH.seal("default", "a", "c1", [1])
    data = base64.b64decode(sealed["$sealed"]["data"])
    for bit in range(len(data) * 8):
        changed = copy.deepcopy(sealed)
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        changed["$sealed"]["data"] = base64.b64encode(flipped).decode()
        with pytest.raises(EncryptionError):
            BOTH.open("default", "a", changed)
    for name, text in (("id", "c2"), ("key", "old"), ("key", "none"), ("data", "?"), ("data", "")):
        changed = copy.deepcopy(sealed)
        changed["$sealed"][name] = text
        with pytest.raises(EncryptionError):
            BOTH.open("default", "a", changed)


def test_earlier_keys_open_and_the_primary_seals() -> None:
    """Given values of two keys, when they are opened with both, then they are; with one alone, only its own."""
    by_old = ONLY_OLD.seal("default", "a", "c1", 1)
    by_new = BOTH.seal("default", "a", "c1", 1)
    assert (BOTH.open("default", "a", by_old), BOTH.open("default", "a", by_new)) == (1, 1)
    assert (BOTH.is_current(by_old), BOTH.is_current(by_new), BOTH.is_current(1)) == (False, True, False)
    with pytest.raises(EncryptionError, match="sealed with the key 'new', which is not here"):
        ONLY_OLD.open("default", "a", by_new)
    assert Encryption({"new": NEW, "old": OLD}, primary="old").seal("default", "a", "c1", 1) == by_old


def test_plain_values_are_refused_unless_they_are_accepted() -> None:
    """Given a value that is not sealed, when it is opened, then that takes a word: anybody could have put it there."""
    with pytest.raises(EncryptionError, match="is not sealed"):
        BOTH.open("default", "a", {"name": "Ada"})
    with pytest.raises(EncryptionError, match="is not sealed"):
        BOTH.open("default", "a", {"$sealed": {"key": "new"}})
    assert Encryption({"new": NEW}, plain="accept").open("default", "a", {"name": "Ada"}) == {"name": "Ada"}


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    """Given a file of keys, when it is read, then the first is the primary; what is wrong is told without the key."""
    path = tmp_path / "keys"
    old, new = base64.b64encode(OLD).decode(), base64.b64encode(NEW).decode()
    path.write_text(f"# keys of the shop\nnew {new}\n\nold {old}\n")
    read = Encryption.from_file(path)
    assert read.seal("default", "a", "c1", 1) == BOTH.seal("default", "a", "c1", 1)
    assert read.open("default", "a", ONLY_OLD.seal("default", "a", "c1", 2)) == 2
    for wrong in (f"new {new}\nnew {old}", "new", f"new {new[:-4]}", "new ?", ""):
        path.write_text(wrong)
        with pytest.raises(InvalidError) as told:
            Encryption.from_file(path)
        assert new[:10] not in str(told.value)


def test_keys_that_cannot_be_used_are_refused() -> None:
    """Given a short key, none, or a primary that is none of them, when they are given, then that is an error."""
    for keys, primary in (({"a": b"short"}, None), ({}, None), ({"a": NEW}, "b"), ({"": NEW}, None)):
        with pytest.raises(InvalidError):
            Encryption(keys, primary=primary)
    assert NEW.hex() not in repr(BOTH)
    assert repr(BOTH) == "Encryption(new, old; primary='new')"


async def test_a_client_seals_all_it_sends_and_opens_all_it_gets() -> None:
    """Given a client with keys, when it does all that it can, then it sees plain values, and the service sees none."""
    with MemoryService(stores=["default", "carts"]) as service:
        async with (
            service.connect(encryption=BOTH, keys=by_name("shop")) as client,
            service.connect() as service_sees,
        ):
            first = await client.save("user/42", SECRET)
            assert first.value == SECRET
            found = await client.read("user/42")
            assert found is not None
            assert (found.value, found.etag) == (SECRET, first.etag)
            with pytest.raises(holdfast.ConflictError) as conflict:
                await client.save("user/42", 1, first_write=True, return_current=True)
            assert (conflict.value.current, conflict.value.current_known) == (SECRET, True)
            state = client.state("user/42", dict[str, Any])
            await state.update(lambda value: value.update(name="Eve"))
            await client.delete("user/42")
            assert await client.read("user/42") is None
            outcomes = await client.save_many({"a": None, "b": SECRET}, store="carts")
            assert [entry and entry.value for entry in (await client.read_many(outcomes, store="carts")).values()] == [
                None,
                SECRET,
            ]
            history = await client.history("user/42")
            assert [event.value for event in history] == [SECRET, {**SECRET, "name": "Eve"}, None]
            seen = [event.value for event in await service_sees.history("shop/user/42") if event.type == "saved"]
            seen += [event.value for event in await service_sees.history("shop/b", store="carts")]
            assert len(seen) == 3
            assert all(sealed_with(value) is not None for value in seen)


async def test_a_restore_seals_anew() -> None:
    """Given sealed versions, when one is restored, then it can be opened, also by a key of today, and once per id."""
    with MemoryService() as service:
        async with (
            service.connect(encryption=ONLY_OLD, keys=by_name("shop")) as before,
            service.connect(encryption=BOTH, keys=by_name("shop")) as client,
            service.connect() as service_sees,
        ):
            first = await before.save("a", SECRET)
            await before.save("a", 2)
            entry = await client.restore("a", version=1, metadata={"why": "oops"}, correlation_id="c", id="r")
            assert (entry.key, entry.version) == ("a", 3)
            again = await client.restore("a", version=1, metadata={"why": "oops"}, id="r")
            assert (again.version, again.etag) == (3, entry.etag)
            found = await client.read("a")
            assert found is not None
            assert (found.value, found.etag) == (SECRET, entry.etag)
            (event,) = await client.history("a", after_version=2)
            assert (event.metadata, event.correlation_id) == ({"holdfast.restored": "1", "why": "oops"}, "c")
            (seen,) = await service_sees.history("shop/a", after_version=2)
            sealed = sealed_with(seen.value)
            assert sealed is not None
            assert (sealed.key, sealed.id) == ("new", "r")
            # Also where it is absent now, and where what is there cannot be opened.
            await client.delete("a")
            assert (await client.restore("a", version=3)).version == 5
            await service_sees.save("shop/a", "plain")
            assert (await client.restore("a", version=3)).version == 7
            with pytest.raises(holdfast.ConflictError) as stale:
                await client.restore("a", version=1, etag=first.etag)
            assert stale.value.code == "etag_mismatch"
            for version, code in ((4, "no_value"), (99, "no_value")):
                with pytest.raises(holdfast.ConflictError) as nothing:
                    await client.restore("a", version=version)
                assert (nothing.value.key, nothing.value.code, nothing.value.version) == ("a", code, 7)
            with pytest.raises(holdfast.ConflictError) as both:
                await client.restore("a", version=99, etag=first.etag)
            assert both.value.code == "etag_mismatch"


async def test_a_restore_does_not_bring_back_what_is_purged_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a purge between the look at the past and the save, when the save comes, then it is not applied."""
    with MemoryService() as service:
        async with service.connect(encryption=BOTH) as client, service.connect() as other:
            await client.save("a", SECRET)
            call = Client._call
            sent: list[str] = []

            async def overtaken(it: Client, command: dict[str, Any], *rest: Any, **more: Any) -> Any:
                if it is client:
                    sent.append(command["op"])
                    if sent == ["read", "read", "save"]:
                        await other.purge("a")
                return await call(it, command, *rest, **more)

            monkeypatch.setattr(Client, "_call", overtaken)
            with pytest.raises(holdfast.ConflictError) as conflict:
                await client.restore("a", version=1)
            assert conflict.value.code == "stripped"
            assert sent == ["read", "read", "save", "read", "read"]
            assert [event.type for event in await client.history("a")] == ["saved", "purged"]


async def test_a_repeat_is_the_same_command() -> None:
    """Given a save whose outcome is unknown, when it is made again under its id, then it is applied once."""
    with MemoryService() as service:
        async with service.connect(encryption=BOTH) as client:
            service.faults.timeout(applied=True)
            with pytest.raises(holdfast.OutcomeUnknown) as unknown:
                await client.save("a", SECRET)
            assert (await client.save("a", SECRET, id=unknown.value.id)).version == 1
            with pytest.raises(holdfast.IdReusedError):
                await client.save("a", 1, id=unknown.value.id)


async def test_a_value_that_somebody_moved_is_not_taken() -> None:
    """Given somebody who can write to the service, when he puts an old or another value back, then readers notice."""
    with MemoryService() as service:
        async with service.connect(encryption=BOTH) as client, service.connect() as intruder:
            await client.save("a", "old")
            old = await intruder.read("a")
            assert old is not None
            await client.save("a", "new")
            for key in ("a", "b"):
                await intruder.save(key, old.value)
                with pytest.raises(EncryptionError):
                    await client.read(key)
            await intruder.save("a", "plain")
            with pytest.raises(EncryptionError, match="not sealed"):
                await client.read("a")
            state = client.state("a", str)
            with pytest.raises(EncryptionError):
                await state.update(str.upper)


async def test_a_conflict_on_purpose_works_with_sealed_values() -> None:
    """Given faults, when a client with keys meets a rival, then the rival has the keys too, and its value is opened."""
    with MemoryService() as service:
        async with service.connect(encryption=BOTH, keys=by_name("shop")) as client:
            state = client.state("a", int, default=int)
            service.faults.conflict()
            assert await state.update(lambda count: count + 1) == 1
            service.faults.conflict()
            assert await state.update(lambda count: count + 1) == 2
            service.faults.conflict("a", value=10)
            assert await state.update(lambda count: count + 1) == 11
            assert service.faults.pending == 0


def test_keys_at_random_work() -> None:
    """Given a fresh key, when it is used, then it works like any other."""
    fresh = Encryption({"k": os.urandom(32)})
    assert fresh.open("s", "k", fresh.seal("s", "k", "i", 1)) == 1
