"""Key spaces: which keys a client sees, and what they are called in the store. For sharing, and for keeping apart.

A client's key ``cart`` is kept as ``user/ada/cart`` (by user), ``shop/cart`` (by name) or as it is (none). Who uses the
same space shares its keys; who uses another one cannot even name them. What keeps users from connecting with another
space than their own is not the client but the access rules of the service: ``user/${user}/*``.
"""

from collections.abc import Callable
from typing import Any, Final

from ..events import InvalidError, Reply, check_key

Wire = dict[str, Any]

#: Given the name of the broker's user, as far as it is known, what all keys begin with.
Strategy = Callable[[str | None], str]

#: What the keys of users begin with. No space by name is called like that.
_USERS: Final = "user"


def by_user() -> Strategy:
    """Keys begin with ``user/<name>/``, the name of the broker's user in the URL: each user has keys of his own."""

    def prefix(user: str | None) -> str:
        if user is None:
            raise InvalidError("keys by user need a user in the URL", code="bad_url", field="url")
        return f"{_USERS}/{_checked(user, 'the name of a user')}/"

    return prefix


def by_name(name: str) -> Strategy:
    """Keys begin with ``<name>/``: whoever uses the same name, of an application say, shares its keys.

    :raises InvalidError: if the name cannot begin a key, or could be mistaken for the space of a user.
    """
    if name == _USERS:
        raise InvalidError(f"the name {_USERS!r} is for spaces by user", code="bad_key", field="keys")
    prefix = f"{_checked(name, 'a name')}/"
    return lambda _: prefix


def _checked(name: str, what: str) -> str:
    if "/" in name:
        # "a/b" would lie within "a".
        raise InvalidError(f"{what} that begins keys cannot hold a '/': {name!r}", code="bad_key", field="keys")
    return check_key(name)


class KeySpace:
    """The keys that begin with one prefix, called by what is behind it."""

    def __init__(self, prefix: str) -> None:
        """Make a space."""
        self.prefix = prefix

    def enter(self, command: Wire, route: str) -> str:
        """Put the prefix before every key of a command. Gives back the key by which it finds its partition.

        :param route: that key, as the client calls it; for a command that is about no one key any text.
        :raises InvalidError: if a key becomes too long by it.
        """
        prefix = self.prefix
        if "key" in command:
            command["key"] = check_key(prefix + command["key"])
        for operation in command.get("operations", ()):
            operation["key"] = check_key(prefix + operation["key"])
        if command["op"] in ("keys", "query", "watch"):
            command["prefix"] = prefix + (command.get("prefix") or "")
            if command.get("after") is not None:
                command["after"] = prefix + command["after"]
        return prefix + route

    def leave(self, reply: Reply) -> Reply:
        """A reply with its keys as the client calls them."""
        update: Wire = {}
        # Of a transaction, a list of keys and a query.
        for name in ("results", "keys", "entries"):
            parts = getattr(reply, name, None)
            if parts:
                update[name] = [part.model_copy(update={"key": self._without(part.key)}) for part in parts]
        if reply.events and reply.events[0].key is not None:
            update["events"] = [
                event.model_copy(update={"key": self._without(event.key or "")}) for event in reply.events
            ]
        if reply.versions:
            update["versions"] = {self._without(key): version for key, version in reply.versions.items()}
        conflict = getattr(reply.error, "key", None)
        if reply.error is not None and conflict is not None:
            update["error"] = reply.error.model_copy(update={"key": self._without(conflict)})
        following: Any = reply.next
        if isinstance(following, str):
            update["next"] = self._without(following)
        return reply.model_copy(update=update) if update else reply

    def _without(self, key: str) -> str:
        return key.removeprefix(self.prefix)
