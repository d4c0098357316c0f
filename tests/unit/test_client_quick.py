"""What is made quickly is what the class itself makes."""

import copy
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from typing import Any

import pytest

from holdfast import Change, Entry
from holdfast.client.quick import quickly


@pytest.mark.parametrize("kind", [Entry, Change])
def test_it_makes_what_the_class_makes(kind: type[Entry] | type[Change]) -> None:
    """Equal, of the same class, frozen, without a dict, and copied like any other."""
    values: dict[str, Any] = {each.name: f"the {each.name}" for each in fields(kind)}
    made, expected = quickly(kind)(**values), kind(**values)
    assert type(made) is kind
    assert made == expected
    assert (hash(made), repr(made)) == (hash(expected), repr(expected))
    assert not hasattr(made, "__dict__")
    assert copy.deepcopy(made) == replace(made) == expected
    with pytest.raises(FrozenInstanceError):
        made.key = "another"  # type: ignore[misc]


def test_defaults_are_those_of_the_class() -> None:
    """What is left out has the class's default."""
    assert quickly(Entry)("key", 1, "1-a", 1, 5) == Entry("key", 1, "1-a", 1, 5)


def test_other_classes_are_refused() -> None:
    """A default that is made anew for each object would be lost, and what is no dataclass has no fields."""

    @dataclass(frozen=True, slots=True)
    class Made:
        names: list[str] = field(default_factory=list)

    for kind in (Made, int):
        with pytest.raises(TypeError):
            quickly(kind)
