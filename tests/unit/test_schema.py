"""Schema evolution: what earlier programs have stored is read by this one."""

from typing import Any

import pytest
from pydantic import BaseModel

import holdfast
from holdfast import Schema, SchemaError


class Profile(BaseModel):
    """As it is today, at version 3."""

    first: str
    last: str
    email: str | None = None


def split_name(old: dict[str, Any]) -> dict[str, Any]:
    """From version 1, which had one name."""
    first, _, last = old.pop("name").partition(" ")
    return {**old, "first": first, "last": last}


def add_email(old: dict[str, Any]) -> dict[str, Any]:
    """From version 2, which had no address."""
    old["email"] = None
    return old


SCHEMA = Schema(Profile, version=3, upcasters={1: split_name, 2: add_email})
ADA = Profile(first="Ada", last="Lovelace")


@pytest.mark.parametrize(
    "stored",
    [
        {"name": "Ada Lovelace"},
        {"$version": 1, "name": "Ada Lovelace"},
        {"$version": 2, "first": "Ada", "last": "Lovelace"},
        {"$version": 3, "first": "Ada", "last": "Lovelace", "email": None},
        # A member of somebody's own, from before there was a schema.
        {"$version": "draft", "name": "Ada Lovelace"},
    ],
)
def test_each_version_is_read_by_the_steps_that_it_lacks(stored: Any) -> None:
    """Given what was stored under any version, when it is loaded, then it is a value of today."""
    before = repr(stored)
    assert SCHEMA.load(stored) == ADA
    assert repr(stored) == before


def test_the_version_stands_with_the_value() -> None:
    """Given a value, when it is dumped, then its version is a member, and it is read again."""
    stored = SCHEMA.dump(ADA)
    assert stored == {"$version": 3, "first": "Ada", "last": "Lovelace", "email": None}
    assert SCHEMA.load(stored) == ADA


def test_values_that_are_no_objects_stand_in_one() -> None:
    """Given a schema of a list, when values of all versions are read, then the version is told from the value."""
    numbers: Schema[list[int]] = Schema(
        list[int], version=2, upcasters={1: lambda old: [int(each) for each in old]}, name="numbers"
    )
    assert numbers.dump([1, 2]) == {"$version": 2, "$value": [1, 2]}
    assert numbers.load({"$version": 2, "$value": [1, 2]}) == [1, 2]
    assert numbers.load(["1", "2"]) == [1, 2]


def test_what_fits_no_version_is_an_error_that_says_so() -> None:
    """Given a version of no program, or data that does not fit, when it is loaded, then the error tells which."""
    with pytest.raises(SchemaError, match="stored as version 4 of Profile; this program knows 1 to 3"):
        SCHEMA.load({"$version": 4, "first": "Ada"})
    with pytest.raises(SchemaError, match="version 3 of Profile does not fit"):
        SCHEMA.load({"$version": 3, "first": "Ada"})
    with pytest.raises(SchemaError, match="version 1 of Profile does not fit: 'name'") as failed:
        SCHEMA.load({})
    assert isinstance(failed.value.__cause__, KeyError)
    assert isinstance(failed.value, ValueError)


def test_a_fallback_gets_what_nothing_else_can_read() -> None:
    """Given a fallback, when data is too old, too new or unfit, then it decides, knowing the version."""
    asked: list[tuple[Any, int]] = []

    class Late(BaseModel):
        number: int

    def decode(data: Any, version: int) -> Late:
        asked.append((data, version))
        return Late(number=0)

    schema = Schema(Late, version=4, upcasters={3: lambda old: {"number": old["n"]}}, fallback=decode)
    assert schema.load({"$version": 4, "number": 4}).number == 4
    assert schema.load({"$version": 3, "n": 3}).number == 3
    for stored in ({"anything": 1}, {"$version": 2, "n": 2}, {"$version": 5, "x": 1}, {"$version": 4, "number": "x"}):
        assert schema.load(stored).number == 0
    assert asked == [({"anything": 1}, 1), ({"n": 2}, 2), ({"x": 1}, 5), ({"number": "x"}, 4)]


def test_steps_without_a_gap_are_demanded() -> None:
    """Given upcasters with a hole, when the schema is made, then that is an error, and not only when a value comes."""

    class Gap(BaseModel):
        pass

    for version, upcasters in ((3, {1: add_email}), (2, {2: add_email}), (1, {0: add_email}), (0, {})):
        with pytest.raises(ValueError, match="version"):
            Schema(Gap, version=version, upcasters=upcasters)
    Schema(Gap, version=3, upcasters={2: add_email})
    with pytest.raises(ValueError, match="Gap has a schema already"):
        Schema(Gap, version=3, upcasters={2: add_email})


def test_members_of_those_names_are_refused() -> None:
    """Given a type with a member that is called as the version is, when it is dumped, then it is not mixed up."""
    odd: Schema[dict[str, int]] = Schema(dict[str, int], version=1, name="odd")
    for name in ("$version", "$value"):
        with pytest.raises(TypeError, match="can be called"):
            odd.dump({name: 1})


def test_what_is_to_be_migrated() -> None:
    """Given stored data, when it is asked whether it is of today, then only earlier versions are not."""
    assert not SCHEMA.is_current({"name": "Ada Lovelace"})
    assert not SCHEMA.is_current({"$version": 2, "first": "Ada", "last": "Lovelace"})
    assert SCHEMA.is_current(SCHEMA.dump(ADA))
    assert SCHEMA.is_current({"$version": 9})
    assert SCHEMA.migrate({"name": "Ada Lovelace"}) == SCHEMA.dump(ADA)


async def test_handles_use_the_schema_of_their_class(holdfast_client: holdfast.Client) -> None:
    """Given values of earlier versions, when handles read, update and look back, then all are values of today."""
    await holdfast_client.save("ada", {"name": "Ada Lovelace"})
    state = holdfast_client.state("ada", Profile)
    await state.read()
    assert state.value == ADA
    await state.update(lambda profile: setattr(profile, "email", "ada@example.org"))
    await state.clear()
    entry = [event.value for event in await holdfast_client.history("ada")]
    assert entry[1] == {"$version": 3, "first": "Ada", "last": "Lovelace", "email": "ada@example.org"}
    past = [(each.version, each.exists, each.value) async for each in state.history()]
    assert past == [
        (1, True, ADA),
        (2, True, ADA.model_copy(update={"email": "ada@example.org"})),
        (3, False, None),
    ]
    assert [each.version async for each in state.history(after_version=2)] == [3]


async def test_a_handle_that_cannot_read_keeps_what_it_has(holdfast_client: holdfast.Client) -> None:
    """Given a version of a later program, when a handle reads it, then that fails, and nothing is overwritten."""
    state = holdfast_client.state("ada", Profile)
    state.value = ADA
    await state.write()
    await holdfast_client.save("ada", {"$version": 4, "name": {"first": "Ada"}})
    with pytest.raises(SchemaError):
        await state.read()
    assert (state.value, state.version) == (ADA, 1)
    with pytest.raises(holdfast.ConflictError):
        await state.write()
    with pytest.raises(SchemaError):
        await state.update(lambda profile: profile)
