"""Records, and the digest that tells a repeat from a command that only has the same id."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.events import DeleteCommand, Event, Mutation, Refusal, SaveCommand, digest_of, encode, make_etag

SAVE: dict[str, Any] = {
    "op": "save",
    "id": "1",
    "key": "k",
    "value": {"a": 1, "b": [1, 2]},
    "metadata": {"x": "1", "y": "2"},
}
DELETE: dict[str, Any] = {"op": "delete", "id": "1", "key": "k"}


def save(**fields: Any) -> SaveCommand:
    return SaveCommand(**(SAVE | fields))


def delete(**fields: Any) -> DeleteCommand:
    return DeleteCommand(**(DELETE | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"sent_at": 1},
        {"deadline": 1},
        {"id": "2"},
        {"return_current": True},
        {"value": {"b": [1, 2], "a": 1}},
        {"metadata": {"y": "2", "x": "1"}},
        {"store": "default"},
        {"concurrency": "last-write"},
        {"etag": None},
    ],
    ids=repr,
)
def test_what_a_retry_may_change(fields: dict[str, Any]) -> None:
    """Times, what is asked for in a conflict, written-out defaults and the order of members play no part."""
    assert digest_of(save(**fields)) == digest_of(save())


@pytest.mark.parametrize(
    "fields",
    [
        {"key": "l"},
        {"store": "other"},
        {"etag": ""},
        {"etag": "1-00000000"},
        {"concurrency": "first-write"},
        {"metadata": None},
        {"metadata": {}},
        {"metadata": {"x": "1", "y": "3"}},
        {"value": None},
        {"value": {"a": 1, "b": [2, 1]}},
        {"value": {"a": 1.0, "b": [1, 2]}},
        {"value": {"a": True, "b": [1, 2]}},
        {"value": {"a": "1", "b": [1, 2]}},
        {"value": [{"a": 1, "b": [1, 2]}]},
    ],
    ids=repr,
)
def test_what_makes_another_command(fields: dict[str, Any]) -> None:
    """What is to be written, where, and under which condition, makes the command."""
    assert digest_of(save(**fields))[0] != digest_of(save())[0]


def test_all_of_these_differ() -> None:
    """A save is no delete, and no field can pass for another."""
    commands: list[Mutation] = [
        save(value=None, metadata=None),
        delete(),
        delete(etag="a"),
        delete(key="a"),
        delete(store="a"),
        delete(metadata={"a": "b"}),
        save(value="a", metadata=None),
        save(value=None, metadata=None, etag="a"),
        save(value=0.0),
        save(value=-0.0),
        save(value=0),
        save(value=""),
        save(value=[]),
        save(value={}),
        save(value=[[]]),
    ]
    assert len({digest_of(command)[0] for command in commands}) == len(commands)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner) | st.dictionaries(st.text("ab", max_size=3), inner),
    )
)
def test_size_and_form(value: Any) -> None:
    """A digest has eight bytes, and the size beside it is that of the value as compact JSON."""
    digest, size = digest_of(save(value=value))
    assert len(digest) == 8
    assert size == len(encode(value))
    assert digest_of(delete())[1] == 0


def test_a_known_digest() -> None:
    """Digests stay in the log for good, so another release has to come to the same."""
    assert digest_of(save())[0].hex() == "7e5c8320d9742da3"
    assert digest_of(delete())[0].hex() == "0051012773146d01"


def test_events() -> None:
    """An event knows its etag and whether the key is there after it, and cannot be changed."""
    event = Event(id="1", key="k", time=0, digest=b"", type="saved", version=3)
    assert event.etag == make_etag(3, "1")
    assert event.exists
    assert not event.model_copy(update={"type": "deleted"}).exists
    with pytest.raises(ValueError, match="frozen"):
        event.version = 4  # type: ignore[misc]


def test_refusals() -> None:
    """A refusal says so."""
    assert Refusal(id="1", key="k", time=0, digest=b"", answer={}).type == "refused"
