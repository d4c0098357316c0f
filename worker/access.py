"""Who may do what: the access rules of a service, and what is told to those who may write a key but not read it.

Rules only ever allow, so that neither their order nor a further one takes anything away. All of it is decided from
what the command and its delivery say, before anything is looked up.
"""

import logging
import re
import time
from collections.abc import Callable, Container, Iterable
from typing import Annotated, Final, Literal, NamedTuple, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ..events import Command, KeyCommand, Status, TransactCommand
from ..events.replies import error
from ..stores import KeyScope
from ..stores.scopes import EVERYTHING
from .decide import Answer

log = logging.getLogger(__name__)

#: Stands in a rule's key for the name of the user whom the rule is applied to.
USER_PLACEHOLDER: Final = "${user}"
#: What rules are about. ``describe`` is allowed to everybody: clients need it to begin. A transaction is allowed to
#: those who may do all that is in it.
#: ``changes`` needs no right of its own, but that to ``watch``; and ``publish`` is for writes that carry messages.
OPERATIONS: Final = (
    *(
        op
        for model in get_args(Command)
        for op in get_args(model.model_fields["op"].annotation)
        if op not in ("describe", "changes", "transact")
    ),
    "publish",
)

#: Users, operations and stores whose keys are remembered. Users are the broker's, so there are not more for long.
_MAX_REMEMBERED: Final = 10_000
#: Seconds until a denial of the same user and operation is logged again.
_LOG_INTERVAL: Final = 60.0


def _check_user(pattern: str) -> str:
    if not pattern:
        raise ValueError('is empty: for commands without a user say `anonymous = true`, for every user `user = "*"`')
    return pattern


def _check_store(pattern: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.*-]+", pattern):
        raise ValueError(f"{pattern!r} matches no store: they have letters, digits, '_', '-' and '.'; '*' is for any")
    return pattern


def _check_key(pattern: str) -> str:
    if not pattern:
        raise ValueError("is empty: '*' is for every key")
    if "*" in pattern[:-1]:
        raise ValueError(f"{pattern!r}: a '*' stands at the end, for all keys that begin like that, or nowhere")
    parts = pattern.split(USER_PLACEHOLDER)
    if any("${" in part for part in parts):
        raise ValueError(f"{pattern!r}: the only placeholder is {USER_PLACEHOLDER}")
    if any(not part.startswith("/") for part in parts[1:-1]) or (parts[1:] and parts[-1][:1] not in ("", "/")):
        # Else "user/${user}*" would let ada have what is adam's.
        raise ValueError(f"{pattern!r}: behind {USER_PLACEHOLDER} comes a '/' or nothing, so that it is a whole name")
    return pattern


def _check_operation(operation: str) -> str:
    if operation not in (*OPERATIONS, "*"):
        raise ValueError(f"{operation!r} is no operation; there are: {', '.join(OPERATIONS)}; and '*' for all")
    return operation


class AccessRule(BaseModel):
    """Lets somebody do something. In all patterns ``*`` is for any characters, and everything else for itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    #: Pattern for names of the broker's users. It matches nobody who does not say who he is.
    user: Annotated[str, AfterValidator(_check_user)] | None = None
    #: In place of ``user``: commands without a user. Everybody can leave his name out, so this is for everybody.
    anonymous: Literal[True] | None = None
    #: Pattern for names of stores.
    store: Annotated[str, AfterValidator(_check_store)]
    #: A key; or, with a ``*`` at its end, what keys begin with. ``${user}`` is for the user's own name.
    key: Annotated[str, AfterValidator(_check_key)]
    #: What is allowed; ``*`` for everything.
    operations: Annotated[
        list[Annotated[str, AfterValidator(_check_operation)]],
        Field(min_length=1),
    ]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.user is None) == (self.anonymous is None):
            raise ValueError("says either `user` or `anonymous = true`")
        if self.anonymous and USER_PLACEHOLDER in self.key:
            raise ValueError(f"who is anonymous has no name to put in the place of {USER_PLACEHOLDER}")
        return self


class AccessConfig(BaseModel):
    """The rules, and whether they are in force."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    #: ``open``: everybody may do everything, and rules play no part. ``closed``: only what a rule allows.
    default: Literal["open", "closed"]
    rules: list[AccessRule] = []


#: Without a configuration.
OPEN: Final = AccessConfig(default="open")


#: User, operation and store.
_Asked = tuple[str | None, str, str]


class _Keys(NamedTuple):
    """Some keys: these, and all that begin like that."""

    exact: frozenset[str]
    prefixes: tuple[str, ...]


class Access:
    """The rules of a closed service, made quick to ask."""

    def __init__(self, config: AccessConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules = [
            (None if rule.user is None else _regex(rule.user), _regex(rule.store), rule.key, frozenset(rule.operations))
            for rule in config.rules
        ]
        self._keys: dict[_Asked, _Keys] = {}
        self._clock = clock
        self._logged: dict[tuple[str | None, str], float] = {}

    def allows(self, user: str | None, operation: str, store: str, key: str) -> bool:
        """Whether a rule lets the user do it.

        :param user: as the broker has validated it; None for a command without one. What that may do, everybody may.
        """
        keys = self._keys.get((user, operation, store)) or self._remember(user, operation, store)
        return key.startswith(keys.prefixes) or key in keys.exact

    def judge(self, user: str | None, command: KeyCommand | TransactCommand, operation: str) -> Answer | None:
        """The denial of a command that is not allowed; None if it is.

        :param operation: what a command on one key takes the right to.
        """
        store = command.store
        if not isinstance(command, TransactCommand):
            if not self.allows(user, operation, store, command.key):
                return self.denial(user, operation, store, command.key)
            # Whether a patch fits, and what it then answers, tells of the value that is there.
            if command.op == "patch" and not self.allows(user, "read", store, command.key):
                return self.denial(user, "read", store, command.key)
            return None
        for number, one in enumerate(command.operations):
            # What a check tells is what a read does.
            operation = "read" if one.op == "check" else one.op
            if not self.allows(user, operation, store, one.key):
                denial = self.denial(user, operation, store, one.key)
                return {**denial, "error": {**denial["error"], "operation": number, "key": one.key}}
        return None

    def hidden(self, user: str | None, command: TransactCommand) -> frozenset[int]:
        """Those operations of a transaction whose keys the user may not read."""
        return frozenset(
            number
            for number, one in enumerate(command.operations)
            if not self.allows(user, "read", command.store, one.key)
        )

    def allows_below(self, user: str | None, operation: str, store: str, prefix: str) -> bool:
        """Whether rules let the user do it with every key that begins like that, those to come included."""
        keys = self._keys.get((user, operation, store)) or self._remember(user, operation, store)
        return prefix.startswith(keys.prefixes)

    def allows_watch(self, user: str | None, store: str, key: str, *, below: bool = False) -> bool:
        """Whether the user may follow the changes of a key, or of all keys that begin like that.

        That shows what is there, so that it takes the right to read, too.
        """
        allows = self.allows_below if below else self.allows
        return allows(user, "watch", store, key) and allows(user, "read", store, key)

    def _remember(self, user: str | None, operation: str, store: str) -> _Keys:
        if len(self._keys) >= _MAX_REMEMBERED:
            self._keys.clear()
        exact: set[str] = set()
        prefixes: set[str] = set()
        for users, stores, pattern, operations in self._rules:
            if not (operation in operations or "*" in operations) or not stores.fullmatch(store):
                continue
            if users is not None and (user is None or not users.fullmatch(user)):
                continue
            key = pattern.removesuffix("*")
            if USER_PLACEHOLDER in key:
                # A name of several levels would reach into the keys of a user of another name.
                if user is None or "/" in user:
                    continue
                key = key.replace(USER_PLACEHOLDER, user)
            (prefixes if pattern.endswith("*") else exact).add(key)
        keys = self._keys[user, operation, store] = _Keys(frozenset(exact), tuple(sorted(prefixes)))
        return keys

    def scope(self, user: str | None, operations: Iterable[str], store: str) -> KeyScope:
        """The keys of a store with which a user may do all of these operations."""
        scope = EVERYTHING
        for operation in operations:
            keys = self._keys.get((user, operation, store)) or self._remember(user, operation, store)
            scope &= KeyScope.of(keys.exact, keys.prefixes)
        return scope

    def denial(self, user: str | None, operation: str, store: str, key: str) -> Answer:
        """The answer to a command that is not allowed. It tells what was asked, and nothing of any state."""
        who = "nobody (the command has no user-id)" if user is None else f"the user {user!r}"
        message = f"{who} may not {operation} the key {key!r} of the store {store!r}"
        self._log(user, operation, message)
        return error(Status.DENIED, "denied", message)

    def _log(self, user: str | None, operation: str, message: str) -> None:
        """Tell the operator, but not as often as somebody asks, nor of all that he asks for."""
        now = self._clock()
        if now - self._logged.get((user, operation), -_LOG_INTERVAL) >= _LOG_INTERVAL:
            if len(self._logged) >= _MAX_REMEMBERED:
                self._logged.clear()
            self._logged[user, operation] = now
            log.warning("denied: %s", message)


def conceal(answer: Answer) -> Answer:
    """What is told of the answer to a write to somebody who may not read the key.

    That it was done, or that the key was not in the state demanded: without that nobody can write on a condition.
    Neither what is there, nor whether anything is, nor how often it changed.
    """
    status = answer["status"]
    if status == Status.OK:
        return {"status": status}
    fault = answer["error"]
    if status == Status.CONFLICT:
        message = "the key is not in the state demanded; in which one it is this user may not know"
        return error(Status.CONFLICT, "hidden", message, expected=fault["expected"])
    return {"status": status, "error": {name: fault[name] for name in ("code", "message", "field") if name in fault}}


def conceal_results(answer: Answer, hidden: Container[int]) -> Answer:
    """What is told of the answer to a transaction to somebody who may not read the keys of some operations."""
    if answer["status"] == Status.OK:
        results = [{"key": one["key"]} if number in hidden else one for number, one in enumerate(answer["results"])]
        return {**answer, "results": results}
    if answer["status"] == Status.CONFLICT and answer["error"]["operation"] in hidden:
        concealed = conceal(answer)
        place = {name: answer["error"][name] for name in ("operation", "key")}
        return {**concealed, "error": {**concealed["error"], **place}}
    return answer


def stores_of_nobody(config: AccessConfig, stores: Iterable[str]) -> list[str]:
    """Patterns of stores in rules that match none of these: a mistake in writing, most likely."""
    names = list(stores)
    return [rule.store for rule in config.rules if not any(map(_regex(rule.store).fullmatch, names))]


def warn_of(config: AccessConfig) -> None:
    """Log what may be a mistake in rules that are valid in themselves."""
    if config.default == "open" and config.rules:
        log.warning(
            "access is open: everybody may do everything, and the %d access rules are NOT in force", len(config.rules)
        )
    if config.default == "closed" and not config.rules:
        log.warning("access is closed and there are no rules: nobody may do anything")


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in re.split(r"\*+", pattern)), re.DOTALL)
