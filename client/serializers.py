"""Serializers: from a program's values to plain JSON data and back.

Which one a handle uses follows from its type: pydantic's for models, dataclasses and whatever else pydantic knows,
msgspec's for its structs, text in base64 for ``bytes``, and JSON as it is for ``Any``.
"""

import base64
import binascii
import sys
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any, Generic, TypeVar, get_args

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from ..events import InvalidError, check_value

T = TypeVar("T")


class Serializer(ABC, Generic[T]):
    """Turns values of one type into plain JSON data and back. Derive from it for types of your own."""

    @abstractmethod
    def dump(self, value: T) -> Any:
        """The value as plain JSON data that shares nothing with it: later changes of the one do not show in the other.

        :raises TypeError: if it is no value of this type.
        """

    @abstractmethod
    def load(self, data: Any) -> T:
        """The value of some JSON data.

        :raises ValueError: if the data does not fit.
        """

    def check(self, value: Any) -> T:
        """The value, if it is one of this type.

        :raises TypeError: if it is not.
        """
        self.dump(value)
        checked: T = value
        return checked


class PydanticSerializer(Serializer[T]):
    """For pydantic models, dataclasses, typed dicts, and all other types that pydantic can validate."""

    def __init__(self, type_: Any) -> None:
        """Make one for a type."""
        self._adapter: TypeAdapter[T] = TypeAdapter(type_)

    def dump(self, value: T) -> Any:
        """As pydantic has it in JSON."""
        try:
            return self._adapter.dump_python(value, mode="json", warnings="error")
        except PydanticSerializationError as misfit:
            raise TypeError(str(misfit)) from None

    def load(self, data: Any) -> T:
        """As pydantic validates JSON. What it raises, a ``ValidationError``, is a ``ValueError``."""
        return self._adapter.validate_json(orjson.dumps(data))

    def check(self, value: Any) -> T:
        """As pydantic validates strictly."""
        try:
            return self._adapter.validate_python(value, strict=True)
        except ValidationError as misfit:
            raise TypeError(str(misfit)) from None


class MsgspecSerializer(Serializer[T]):
    """For msgspec's structs, and types made of them. It takes msgspec, which Holdfast does not install."""

    def __init__(self, type_: Any) -> None:
        """Make one for a type."""
        import msgspec

        self._encoder = msgspec.json.Encoder()
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(type_)
        self._fault = msgspec.MsgspecError

    def dump(self, value: T) -> Any:
        """As msgspec has it in JSON."""
        try:
            body = self._encoder.encode(value)
            # It writes down whatever it is given: only reading tells whether that is a value of the type.
            self._decoder.decode(body)
        except self._fault as misfit:
            raise TypeError(str(misfit)) from None
        return orjson.loads(body)

    def load(self, data: Any) -> T:
        """As msgspec decodes JSON."""
        try:
            return self._decoder.decode(orjson.dumps(data))
        except self._fault as misfit:
            raise ValueError(str(misfit)) from None


class JsonSerializer(Serializer[Any]):
    """For plain JSON: None, booleans, numbers, texts, lists and dicts of them, as :func:`check_value` has it."""

    def dump(self, value: Any) -> Any:
        """A copy of it."""
        try:
            return orjson.loads(orjson.dumps(check_value(value)))
        except (InvalidError, orjson.JSONEncodeError) as misfit:
            raise TypeError(str(misfit)) from None

    def load(self, data: Any) -> Any:
        """A copy of it."""
        return orjson.loads(orjson.dumps(data))


class BytesSerializer(Serializer[bytes]):
    """For bytes, kept as text in base64 (RFC 4648, with padding)."""

    def dump(self, value: bytes) -> str:
        """The text."""
        if not isinstance(value, bytes):
            raise TypeError(f"{type(value).__name__} is not bytes")
        return base64.b64encode(value).decode()

    def load(self, data: Any) -> bytes:
        """The bytes."""
        if not isinstance(data, str):
            raise ValueError(f"bytes are kept as text in base64, not as {type(data).__name__}")  # noqa: TRY004
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error as fault:
            raise ValueError(f"not base64: {fault}") from None


def serializer_for(type_: Any) -> Serializer[Any]:
    """The serializer that fits a type. One for each, since handles come and go, and pydantic's take time to make."""
    try:
        hash(type_)
    except TypeError:
        return _make(type_)
    return _remembered(type_)


def _make(type_: Any) -> Serializer[Any]:
    if type_ is bytes:
        return BytesSerializer()
    if type_ is Any:
        return JsonSerializer()
    # Whoever has a struct has imported msgspec.
    msgspec = sys.modules.get("msgspec")
    if msgspec is not None and _is_made_of(type_, msgspec.Struct):
        return MsgspecSerializer(type_)
    return PydanticSerializer(type_)


_remembered = lru_cache(maxsize=1024)(_make)


def _is_made_of(type_: Any, base: type) -> bool:
    return (isinstance(type_, type) and issubclass(type_, base)) or any(
        _is_made_of(part, base) for part in get_args(type_)
    )
