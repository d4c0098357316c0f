"""Frozen dataclasses, made as quickly as those that are not frozen."""

from collections.abc import Callable
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


def quickly(kind: Callable[P, T]) -> Callable[P, T]:
    """What makes objects of a frozen dataclass with slots, as the class itself does, in a fraction of the time.

    The class has to set each field past its own lock, by way of ``object.__setattr__``: 1.2 µs for an entry,
    which every call gives back, and 2.5 µs for a change, against 0.4 and 0.6 µs. So they are made as objects of a twin
    that is not frozen, and then turned into what they are meant to be.

    :raises TypeError: if the class is no dataclass, or one whose fields have other defaults than plain values.
    """
    if not is_dataclass(kind) or any(each.default_factory is not MISSING for each in fields(kind)):
        raise TypeError("only for dataclasses whose defaults are plain values")

    def freeze(self: Any) -> None:
        self.__class__ = kind

    members = [
        (each.name, Any) if each.default is MISSING else (each.name, Any, field(default=each.default))
        for each in fields(kind)
    ]
    twin = make_dataclass("_Twin", members, slots=True, namespace={"__post_init__": freeze})
    return cast("Callable[P, T]", twin)
