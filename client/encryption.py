"""Encryption at rest, in the client: neither the broker nor the database sees plain values.

A value is sealed with AES-256-GCM, and bound to its store, its key and the command that saved it, so that whoever can
write to the database can neither change it nor put it in another value's place. Keys, versions, times and metadata
stay as they are.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self

import orjson

from ..events import EncryptionError, ErrorInfo, HistoryEntry, InvalidError, Reply, make_etag

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Wire = dict[str, Any]

#: The only member of a sealed value.
SEALED: Final = "$sealed"
#: Bytes of a key.
KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class _Key(NamedTuple):
    name: str
    cipher: "AESGCM"
    #: Makes nonces.
    nonces: bytes


class Encryption:
    """Seals values with the primary key, and opens those that were sealed with any of the keys.

    One command gives one sealed value: sent again under its id, it is the same command still. Two values never share
    a nonce, unless they are one value of one command.
    """

    def __init__(
        self,
        keys: Mapping[str, bytes],
        *,
        primary: str | None = None,
        plain: Literal["refuse", "accept"] = "refuse",
    ) -> None:
        """Make it of keys, each of 32 bytes.

        :param keys: by names, which stand with the values. A name is for ever: another key needs another one.
        :param primary: the name of the key that seals; by default the first.
        :param plain: what to do with values that are not sealed: ``accept`` them, for as long as there are some from
            before, or ``refuse`` them, so that nobody can put plain ones in their place.
        :raises InvalidError: if a key or the primary cannot be used.
        :raises EncryptionError: without the package ``cryptography``: install ``holdfast[encryption]``.
        """
        self._keys = {name: _make_key(name, secret) for name, secret in keys.items()}
        self.primary = primary or next(iter(keys), "")
        if self.primary not in self._keys:
            raise InvalidError(f"there is no key {self.primary!r} that could be the primary one", field="primary")
        self._plain = plain

    @classmethod
    def from_file(cls, path: Path | str, *, plain: Literal["refuse", "accept"] = "refuse") -> Self:
        """Read keys from a file: one a line, its name, a blank, and its 32 bytes in base64. The first is the primary.

        Empty lines and those that begin with ``#`` are passed over.

        :raises InvalidError: if a line is wrong; the message has its number, and nothing of a key.
        """
        keys: dict[str, bytes] = {}
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, text = line.strip().partition(" ")
            try:
                secret = base64.b64decode(text.strip(), validate=True)
            except binascii.Error:
                secret = b""
            if len(secret) != KEY_BYTES or name in keys:
                told = f"{path}, line {number}: a line is a new name, a blank, and {KEY_BYTES} bytes in base64"
                raise InvalidError(told, field="keys")
            keys[name] = secret
        if not keys:
            raise InvalidError(f"{path}: there is no key in it", field="keys")
        return cls(keys, plain=plain)

    def __repr__(self) -> str:
        """The names, never the keys."""
        return f"Encryption({', '.join(self._keys)}; primary={self.primary!r})"

    # -- single values

    def seal(self, store: str, key: str, command_id: str, value: Any) -> Wire:
        """A value of a command, sealed.

        :param key: as it is called in the store.
        """
        secret = self._keys[self.primary]
        plain = orjson.dumps(value)
        bound = _bound(store, key, command_id)
        # Not at random: a command that is sent again has to be the same again. Of what the nonce is made it tells
        # nothing, and another value, or another command, has another one.
        length = len(bound).to_bytes(4, "big")
        nonce = hmac.digest(secret.nonces, length + bound + plain, sha256)[:_NONCE_BYTES]
        data = nonce + secret.cipher.encrypt(nonce, plain, bound)
        return {SEALED: {"key": secret.name, "id": command_id, "data": base64.b64encode(data).decode()}}

    def open(self, store: str, key: str, value: Any, *, command_id: str | None = None, etag: str | None = None) -> Any:
        """A value as it was before it was sealed.

        :param command_id: of the event that it stands in, if that is known …
        :param etag: … or else that event's etag.
        :raises EncryptionError: if it was not sealed for this place, or not by one of the keys.
        """
        sealed = sealed_with(value)
        if sealed is None:
            if self._plain == "accept":
                return value
            raise EncryptionError(f"the value of {key!r} is not sealed")
        secret = self._keys.get(sealed.key)
        if secret is None:
            raise EncryptionError(f"the value of {key!r} is sealed with the key {sealed.key!r}, which is not here")
        told = f"the value of {key!r} was changed, or was sealed for another key, store or command"
        if (command_id is not None and sealed.id != command_id) or (
            etag is not None and make_etag(int(etag.partition("-")[0]), sealed.id) != etag
        ):
            raise EncryptionError(told)
        from cryptography.exceptions import InvalidTag

        try:
            data = base64.b64decode(sealed.data, validate=True)
            bound = _bound(store, key, sealed.id)
            plain = secret.cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], bound)
        except (InvalidTag, ValueError) as fault:
            raise EncryptionError(told) from fault
        return orjson.loads(plain)

    def is_current(self, value: Any) -> bool:
        """Whether a value is sealed with the primary key."""
        sealed = sealed_with(value)
        return sealed is not None and sealed.key == self.primary

    # -- commands and replies

    def seal_command(self, command: Wire, store: str) -> None:
        """Seal all values of a command, which has its id and its keys as the store calls them.

        :raises InvalidError: if the worker would have to look into values for it.
        """
        # A list of what there is asks for nothing that is in values.
        asks = command["op"] == "query" and (command.get("filter") is not None or command.get("sort"))
        replaced = whole_value(command)
        if (command["op"] == "patch" and replaced is None) or asks:
            raise InvalidError(
                f"the service cannot {command['op']} what it cannot read: values of this client are encrypted",
                code="encrypted",
                field="op",
            )
        if replaced is not None:
            sealed = self.seal(store, command["key"], command["id"], replaced["value"])
            command["patch"] = [{**replaced, "value": sealed}]
        for part in (command, *command.get("operations", ())):
            if "value" in part:
                part["value"] = self.seal(part.get("store", store), part["key"], command["id"], part["value"])

    def open_reply(self, reply: Reply, command: Wire, store: str) -> Reply:
        """A reply with its values opened."""
        key = command.get("key", "")
        opened: Wire = {}
        if reply.exists and "value" in reply.model_fields_set:
            opened["value"] = self.open(store, key, reply.value, etag=reply.etag)
        if reply.events:
            opened["events"] = [self.open_event(store, event.key or key, event) for event in reply.events]
        if reply.entries and command.get("projection") is None:
            opened["entries"] = [
                entry.model_copy(update={"value": self.open(store, entry.key, entry.value, etag=entry.etag)})
                for entry in reply.entries
            ]
        error = reply.error
        if error is not None and "current" in error.model_fields_set:
            # Of a transaction it is the value of one of its keys.
            opened["error"] = self._open_error(store, error.key or key, error)
        return reply.model_copy(update=opened) if opened else reply

    def open_event(self, store: str, key: str, event: HistoryEntry) -> HistoryEntry:
        """An event of a key, as the store calls it, with its value opened."""
        if event.type != "saved" or event.stripped:
            return event
        return event.model_copy(update={"value": self.open(store, key, event.value, command_id=event.id)})

    def _open_error(self, store: str, key: str, error: ErrorInfo) -> ErrorInfo:
        current = self.open(store, key, error.current, command_id=error.winner)
        return error.model_copy(update={"current": current})


def whole_value(command: Wire) -> Wire | None:
    """The one operation of a JSON Patch that puts another value in the place of the whole; None of other commands."""
    if command["op"] != "patch" or command.get("kind") != "json-patch" or len(command["patch"]) != 1:
        return None
    operation: Wire = command["patch"][0]
    return operation if operation["op"] == "replace" and operation["path"] == "" else None


class Sealed(NamedTuple):
    """A sealed value, taken apart."""

    #: The name of the key.
    key: str
    #: Of the command that it was sealed for.
    id: str
    data: str


def sealed_with(value: Any) -> Sealed | None:
    """What is told of itself by a value that is sealed; None if it is not."""
    if not isinstance(value, dict) or value.keys() != {SEALED} or not isinstance(value[SEALED], dict):
        return None
    parts: Wire = value[SEALED]
    if parts.keys() != set(Sealed._fields) or not all(isinstance(part, str) for part in parts.values()):
        return None
    return Sealed(**parts)


def _make_key(name: str, secret: bytes) -> _Key:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as missing:
        raise EncryptionError("encryption takes the package cryptography: install holdfast[encryption]") from missing
    if not name:
        raise InvalidError("a key needs a name", field="keys")
    if len(secret) != KEY_BYTES:
        raise InvalidError(f"the key {name!r} has {len(secret)} bytes instead of {KEY_BYTES}", field="keys")
    # Two purposes, two keys.
    return _Key(
        name, AESGCM(hmac.digest(secret, b"holdfast seal", sha256)), hmac.digest(secret, b"holdfast nonce", sha256)
    )


def _bound(store: str, key: str, command_id: str) -> bytes:
    """The associated data. None of the three can hold a NUL, so that no two places have the same."""
    return f"holdfast\0{store}\0{key}\0{command_id}".encode()
