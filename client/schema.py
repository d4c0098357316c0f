"""Schema evolution: values that were stored by earlier programs, read by this one.

A :class:`Schema` stores its version with each value. A value of an earlier version goes through upcasters, plain
functions from JSON data to JSON data, one for each step, until it fits the type of today.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import orjson

from ..events import SchemaError
from .serializers import Serializer, serializer_for

T = TypeVar("T")

#: The member of a stored object that holds its schema version. What is no object stands inside one, under ``VALUE``.
VERSION: Final = "$version"
VALUE: Final = "$value"

#: From the JSON data of one version to that of the next. It may change what it is given, or return something new.
Upcaster = Callable[[Any], Any]
#: Takes stored data and its version, where nothing else could make sense of them.
Fallback = Callable[[Any, int], T]


class Stored(NamedTuple):
    """A stored value, taken apart."""

    #: 1 if none stands with it: it is from before the schema.
    version: int
    data: Any


class Schema(Serializer[T], Generic[T]):
    """The serializer of a type whose stored form changes with time::

        Schema(Profile, version=3, upcasters={1: split_name, 2: add_email})
        state = client.state("user/42/profile", Profile)

    A class has one schema, and handles on values of the class use it by themselves. Other types, such as
    ``list[Profile]``, may have one too, which is given to each handle as its ``serializer``.

    An object is stored with the version as a member, ``"$version"``; anything else as
    ``{"$version": 3, "$value": …}``. What has no version counts as version 1.
    """

    def __init__(
        self,
        type_: type[T],
        *,
        version: int,
        upcasters: Mapping[int, Upcaster] | None = None,
        fallback: Fallback[T] | None = None,
        serializer: Serializer[T] | None = None,
        name: str | None = None,
    ) -> None:
        """Make the schema of a type.

        :param version: of what is stored from now on; 1, 2, 3, ….
        :param upcasters: by the version that they take. Together they lead from the oldest one that may be stored,
            without a gap, to ``version``.
        :param fallback: given data that is older than all upcasters, newer than this program, or does not fit the
            type, and its version, makes a value of it, or raises an error.
        :param serializer: of the present version; by default the one that fits the type.
        :param name: tells schemas apart where somebody looks at them; by default the type's.
        :raises ValueError: if a step between two versions is missing, or the class has a schema already.
        """
        self.type = type_
        self.version = version
        self.name = name or getattr(type_, "__name__", str(type_))
        self._upcasters = dict(upcasters or {})
        self._fallback = fallback
        self._serializer: Serializer[T] = serializer or serializer_for(type_)
        if version < 1:
            raise ValueError("versions count from 1")
        #: The oldest version that can be read without the fallback.
        self.oldest = min(self._upcasters, default=version)
        steps = range(self.oldest, version)
        if sorted(self._upcasters) != list(steps) or self.oldest < 1:
            raise ValueError(
                f"the upcasters of {self.name} take versions {sorted(self._upcasters)}: to reach {version} there has "
                f"to be one for each of {list(steps)}"
            )
        if isinstance(type_, type) and _schemas.setdefault(type_, self) is not self:
            raise ValueError(f"{self.name} has a schema already")

    def dump(self, value: T) -> Any:
        """The value with its version."""
        data = self._serializer.dump(value)
        if not isinstance(data, dict):
            return {VERSION: self.version, VALUE: data}
        if VERSION in data or VALUE in data:
            raise TypeError(f"no member of {self.name} can be called {VERSION!r} or {VALUE!r}: the schema needs them")
        return {VERSION: self.version, **data}

    def load(self, data: Any) -> T:
        """The value, by way of the upcasters if it is of an earlier version.

        :raises SchemaError: if there is no way.
        """
        stored = take_apart(data)
        fault: Exception
        if self.oldest <= stored.version <= self.version:
            try:
                return self._serializer.load(self._upcast(stored))
            except Exception as misfit:  # noqa: BLE001 - an upcaster may raise anything, for data nobody thought of
                fault = misfit
        else:
            fault = SchemaError(
                f"stored as version {stored.version} of {self.name}; this program knows {self.oldest} to {self.version}"
            )
        if self._fallback is not None:
            return self._fallback(stored.data, stored.version)
        if isinstance(fault, SchemaError):
            raise fault
        raise SchemaError(f"version {stored.version} of {self.name} does not fit: {fault}") from fault

    def check(self, value: Any) -> T:
        """As the serializer of the present version."""
        return self._serializer.check(value)

    def is_current(self, data: Any) -> bool:
        """Whether stored data is of the present version, or of a newer one, so that there is nothing to migrate."""
        return isinstance(data, dict) and VERSION in data and take_apart(data).version >= self.version

    def migrate(self, data: Any) -> Any:
        """Stored data in the form of the present version.

        :raises SchemaError: if there is no way.
        """
        return self.dump(self.load(data))

    def _upcast(self, stored: Stored) -> Any:
        version, data = stored
        if version < self.version:
            # They may change it in place, and it may be somebody else's.
            data = orjson.loads(orjson.dumps(data))
        while version < self.version:
            data = self._upcasters[version](data)
            version += 1
        return data


#: Of classes.
_schemas: WeakKeyDictionary[type, Schema[Any]] = WeakKeyDictionary()


def schema_of(type_: Any) -> Schema[Any] | None:
    """The schema of a class, if it has one."""
    return _schemas.get(type_) if isinstance(type_, type) else None


def take_apart(data: Any) -> Stored:
    """The version of stored data, and the data without it."""
    if not isinstance(data, dict):
        return Stored(1, data)
    version = data.get(VERSION)
    if type(version) is not int or version < 1:
        # Somebody's own member of that name, from before.
        return Stored(1, data)
    rest = {name: member for name, member in data.items() if name != VERSION}
    return Stored(version, rest[VALUE] if rest.keys() == {VALUE} else rest)
