"""What each package offers is written down, sorted and complete."""

from importlib import import_module
from types import ModuleType

import pytest


@pytest.mark.parametrize("name", ["holdfast.events", "holdfast.stores"])
def test_exported_members(name: str) -> None:
    """``__all__`` is sorted and has every public name of the package, but not its modules."""
    package = import_module(name)
    public = [
        member
        for member in vars(package)
        if not member.startswith("_") and not isinstance(getattr(package, member), ModuleType)
    ]
    assert package.__all__ == sorted(package.__all__)
    assert sorted(public) == package.__all__


@pytest.mark.parametrize("name", ["holdfast.events", "holdfast.stores"])
def test_public_things_are_documented(name: str) -> None:
    """Every public class and function says what it is for."""
    package = import_module(name)
    silent = [
        member
        for member in package.__all__
        if callable(getattr(package, member))
        and isinstance(getattr(package, member), type)
        and not getattr(package, member).__doc__
    ]
    assert silent == []
