"""Records as BSON documents, and back.

::

    {_id: {c: <command id>, n: <position in a transaction, else 0>},
     key, version, type, value, expires, patch, messages, time, author, digest, metadata, answer, events,
     correlation_id, causation_id, restored, stripped, first, at}

Fields that have nothing to say are left out; refusals and receipts have no version, which keeps them out of the index
on (key, version). A receipt that carries messages says ``at`` which version of its key it stands; that has an index of
its own. Values are native BSON, so that every MongoDB tool shows them as what they are.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import bson
from bson import CodecOptions, Int64, Timestamp
from bson.codec_options import DatetimeConversion, TypeDecoder, TypeRegistry
from bson.datetime_ms import DatetimeMS
from bson.errors import InvalidDocument
from bson.raw_bson import RawBSONDocument
from pydantic import TypeAdapter

from ..events import Event, Receipt, Record, Refusal, StoreError

#: What MongoDB takes as one document.
MAX_DOCUMENT_BYTES: Final = 16 * 1024 * 1024

_event: TypeAdapter[Record] = TypeAdapter(Event)
_refusal: TypeAdapter[Record] = TypeAdapter(Refusal)
_receipt: TypeAdapter[Record] = TypeAdapter(Receipt)
_OTHERS: Final = {"refused": _refusal, "transacted": _receipt}

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - the driver decodes dates to naive UTC


class _PlainInt(TypeDecoder):
    """Integers of 64 bits come from the driver as a type of its own."""

    bson_type = Int64

    def transform_bson(self, value: Any) -> int:
        return int(value)


_PLAIN: Final[CodecOptions[dict[str, Any]]] = CodecOptions(
    type_registry=TypeRegistry([_PlainInt()]), datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
_RAW: Final = CodecOptions(
    document_class=RawBSONDocument,
    type_registry=TypeRegistry([_PlainInt()]),
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)


def id_of(command_id: str) -> dict[str, Any]:
    """The ``_id`` of a single command's record, and of a transaction's receipt."""
    return {"c": command_id, "n": 0}


def to_document(record: Record) -> dict[str, Any]:
    """The document of a record."""
    document: dict[str, Any] = {"_id": {"c": record.id, "n": record.position}, "key": record.key}
    if isinstance(record, Event):
        document["version"] = Int64(record.version)
        document["type"] = record.type
        # A deleted key has no value; a saved one may have the value null, which is one.
        if record.value is not None or (record.type == "saved" and not record.stripped):
            document["value"] = record.value
        if record.expires is not None:
            document["expires"] = DatetimeMS(record.expires)
        if record.patch is not None:
            document["patch"] = record.patch
        if record.correlation_id is not None:
            document["correlation_id"] = record.correlation_id
        if record.causation_id is not None:
            document["causation_id"] = record.causation_id
        if record.restored is not None:
            document["restored"] = Int64(record.restored)
        if record.stripped:
            document["stripped"] = True
        if record.first:
            document["first"] = True
    else:
        document["type"] = record.type
        document["answer"] = record.answer
        if isinstance(record, Receipt):
            document["events"] = record.events
            if record.messages:
                document["at"] = Int64(record.at)
    if not isinstance(record, Refusal) and record.messages:
        document["messages"] = [message.model_dump() for message in record.messages]
    document["time"] = DatetimeMS(record.time)
    document["digest"] = record.digest
    if record.author is not None:
        document["author"] = record.author
    if record.metadata is not None:
        document["metadata"] = record.metadata
    return document


def encode_records(records: Iterable[Record]) -> list[bytes]:
    """The documents as BSON.

    :raises StoreError: if one of them cannot be a document.
    """
    encoded = []
    for record in records:
        try:
            document = bson.encode(to_document(record))
        except (InvalidDocument, UnicodeError, OverflowError, RecursionError, ValueError) as error:
            raise StoreError(f"the record {record.id!r} cannot be a document: {type(error).__name__}") from None
        if len(document) > MAX_DOCUMENT_BYTES:
            raise StoreError(f"the record {record.id!r} takes {len(document)} bytes, MongoDB takes 16 MiB")
        encoded.append(document)
    return encoded


def to_record(document: dict[str, Any]) -> Record:
    """The record of a document that ``to_document`` made."""
    # Members that a record does not have are passed over, and those that it may lack have their defaults.
    identity = document["_id"]
    fields = {**document, "id": identity["c"], "position": identity["n"], "time": to_millis(document["time"])}
    if "expires" in document:
        fields["expires"] = to_millis(document["expires"])
    return _OTHERS.get(document["type"], _event).validate_python(fields)


#: The type of what takes a place while a transaction lasts.
GUARD: Final = "guard"


def guard(command_id: str, number: int, key: str, version: int, *, first: bool = False) -> dict[str, Any]:
    """A document that takes (key, version) while a transaction lasts, and never stays. Its id is nobody else's.

    :param first: it takes the place of the event that begins the key, too.
    """
    document = {"_id": {"c": command_id, "n": -number}, "key": key, "version": Int64(version), "type": GUARD}
    return {**document, "first": True} if first else document


def to_millis(time: datetime | DatetimeMS) -> int:
    """A BSON date as milliseconds since 1970."""
    if isinstance(time, DatetimeMS):
        return int(time)
    since = time - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def decode_reply(reply: bytes) -> dict[str, Any]:
    """A server's reply with documents in it, every value exactly as it was stored."""
    # The driver makes objects with these two members into references of its own. They are rare enough to be
    # found by their names, and then decoded level by level.
    if b"$ref\0" in reply and b"$id\0" in reply:
        plain: dict[str, Any] = _unwrap(RawBSONDocument(reply, _RAW))
        return plain
    return bson.decode(reply, _PLAIN)


def documents_of(reply: bytes) -> tuple[list[bytes], Timestamp]:
    """The documents of a server's reply, each as it came, and the time in the log that they are of."""
    wrapped = RawBSONDocument(reply, _RAW)
    return [bytes(document.raw) for document in wrapped["cursor"]["firstBatch"]], wrapped["operationTime"]


def _unwrap(value: Any) -> Any:
    if isinstance(value, RawBSONDocument):
        return {name: _unwrap(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_unwrap(member) for member in value]
    return value
