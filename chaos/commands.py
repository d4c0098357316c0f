"""Commands: the calls of a history by what they asked for, so that a call and its repeats are one thing.

A command id happens at most once, however often it is called. So all calls under one id become one command, which
has one place in time. Its answer is the same for every call; only a save or delete with an etag that did not match
is decided anew each time, because it can never become right.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from .history import HistoryError, Operation, Outcome
from .model import Answer

#: Later than anything: the end of what never returned.
FOREVER: Final = 2**63

#: The error of a worker that refused a command for its age. It is on record, so that the id never happens. The
#: client's own error of that kind is another class, and says nothing of earlier calls.
_EXPIRED: Final = "ExpiredError"
_ID_REUSED: Final = "IdReusedError"


class ContradictionError(Exception):
    """Calls under one command id were told what cannot be true together."""

    def __init__(self, message: str, calls: Sequence[Operation]) -> None:
        self.calls = calls
        super().__init__(message)


@dataclass(slots=True, eq=False, kw_only=True)
class Command:
    """What may or must have a place in the order of a key."""

    id: str
    #: ``save``, ``delete``, ``read`` or ``check``.
    op: str
    #: Of a save: canonical JSON.
    value: bytes
    etag: str | None
    concurrency: str
    #: Of a check without an etag: whether it demands that the key is there.
    demands: bool | None
    #: An eventual read may tell of any earlier state.
    eventual: bool
    #: It happened between these two, if it happened.
    begin: int
    end: int
    #: The call whose answer it is; None if nobody knows whether it happened.
    told: Operation | None
    #: The value it was told, as canonical JSON; None if it was told none.
    told_value: bytes | None
    calls: tuple[Operation, ...]

    @property
    def certain(self) -> bool:
        """Whether it has a place. If not, it may have none."""
        return self.told is not None

    @property
    def changes(self) -> bool:
        """Whether it makes a new version, by what it was told."""
        told = self.told
        return told is None or (
            self.op in ("save", "delete")
            and told.outcome is Outcome.OK
            and not (self.op == "delete" and told.changed is False)
        )


def is_expired(call: Operation) -> bool:
    """Whether a worker refused the command for its age, so that its id never happens."""
    return _is(call, _EXPIRED)


def canonical(value: Any) -> bytes:
    """A value as JSON text that is equal exactly for equal values: 1, 1.0 and true are three."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def commands_of(operations: Iterable[Operation]) -> list[Command]:
    """The commands of one key's operations, in no particular order. What certainly had no effect is not among them.

    :raises ContradictionError: if calls under one id cannot be true together.
    :raises HistoryError: if an operation does not say what its outcome must say.
    """
    commands: list[Command] = []
    by_id: dict[str, list[Operation]] = {}
    for operation in operations:
        check_complete(operation)
        if operation.op != "read":
            by_id.setdefault(operation.id, []).append(operation)
        elif operation.outcome is Outcome.OK:
            commands.append(_command([operation], operation))
    for calls in by_id.values():
        commands += _write(calls)
    return commands


def _write(calls: list[Operation]) -> list[Command]:
    """The commands that the calls under one id are: none if it has no effect, several if its etag did not match."""
    asked = {_content(call) for call in calls} if len(calls) > 1 else {()}
    reused = [call for call in calls if _is(call, _ID_REUSED)]
    if reused and len(asked) == 1:
        raise ContradictionError("told that its id is another command's, which it is not", calls)
    if len(asked) > 1 and len({_content(call) for call in calls if call.outcome is not Outcome.REFUSED}) > 1:
        raise HistoryError(f"the id {calls[0].id!r} is of several commands, and more than one may have happened")
    live = [call for call in calls if call.outcome is not Outcome.REFUSED]
    answered = [call for call in live if call.outcome is not Outcome.UNKNOWN]
    expired = [call for call in calls if is_expired(call) and (not live or _content(call) == _content(live[0]))]
    if expired and answered:
        raise ContradictionError("refused for good under the same id, and answered", calls)
    if expired or not live:
        return []
    if not answered:
        return [_command(live, None)]
    first = min(answered, key=_returned)
    for call in answered:
        if call.outcome is not first.outcome:
            raise ContradictionError("told different outcomes under the same id", calls)
    if first.outcome is Outcome.CONFLICT and first.etag is not None:
        return [_command(live, call) for call in answered]
    for call in answered:
        difference = _difference(first, call)
        if difference:
            raise ContradictionError(f"told a different {difference} under the same id", calls)
    return [_command(live, first)]


def _command(calls: list[Operation], told: Operation | None) -> Command:
    call = calls[0]
    return Command(
        id=call.id,
        op=call.op,
        value=canonical(call.value) if call.op == "save" else b"",
        etag=call.etag,
        concurrency=call.concurrency,
        demands=call.demands,
        eventual=call.op == "read" and call.consistency == "eventual",
        begin=min(one.invoked for one in calls),
        # What is unknown may happen long after its caller has given up.
        end=FOREVER if told is None else _returned(told),
        told=told,
        told_value=None if told is None else _told_value(told),
        calls=tuple(calls),
    )


def _told_value(told: Operation) -> bytes | None:
    if told.op == "read":
        return canonical(told.answer_value) if told.exists else None
    return None if told.answer_value is None else canonical(told.answer_value)


def disagreement(command: Command, answer: Answer) -> str | None:
    """What of the answer that a command was told is not the right one; None if all is right, or nothing was told."""
    told = command.told
    if told is None:
        return None
    if told.outcome is not answer.outcome:
        return f"the right outcome would be {answer.outcome}"
    if told.exists is not None and told.exists is not answer.exists:
        return "the key would be there" if answer.exists else "the key would be absent"
    if told.version is not None and told.version != answer.version:
        return f"the right version would be {answer.version}"
    if told.answer_etag is not None and told.answer_etag != answer.etag:
        return f"the right etag would be {answer.etag}"
    if command.told_value is not None and command.told_value != answer.value:
        return f"the right value would be {text_of(answer.value)}"
    if told.changed is not None and told.changed is not answer.changed:
        return "it would have changed something" if answer.changed else "it would have changed nothing"
    return None


def text_of(value: bytes | None) -> str:
    """A value for people."""
    return "none" if value is None else value.decode()


def check_complete(operation: Operation) -> None:
    """See that an answer tells enough to be checked: a check of nothing would always pass.

    :raises HistoryError: if it does not.
    """
    missing = _missing(operation)
    if missing:
        raise HistoryError(f"an {operation.outcome} {operation.op} of {operation.key!r} says no {missing}: {operation}")


#: What an ``ok`` has to tell.
_WANTED: Final[dict[str, tuple[str, ...]]] = {
    "save": ("version", "answer_etag"),
    "increment": ("version", "answer_etag", "answer_value"),
    "delete": ("changed",),
    "read": ("exists",),
    "check": ("exists", "version"),
}


def _missing(operation: Operation) -> str | None:
    if operation.op not in ("save", "delete", "increment", "read", "check", "transact"):
        return "operation that the model knows"
    if operation.returned is None and operation.outcome not in (Outcome.UNKNOWN, Outcome.OK):
        return "time of its return"
    if operation.returned is not None and operation.returned < operation.invoked:
        return "return after its beginning"
    if operation.op == "transact":
        return _missing_of_transaction(operation)
    if operation.outcome is Outcome.OK:
        wanted = _WANTED[operation.op]
        if operation.op in ("read", "check") and operation.exists:
            wanted = ("version", "answer_etag")
    elif operation.outcome is Outcome.CONFLICT:
        wanted = ("exists", "version", "answer_etag") if operation.exists else ("exists", "version")
    else:
        return None
    return next((name for name in wanted if getattr(operation, name) is None), None)


def _missing_of_transaction(call: Operation) -> str | None:
    if not call.steps:
        return "steps"
    if call.outcome is Outcome.OK:
        if [step.key for step in call.steps] != [result.key for result in call.results]:
            return "result of each step"
        for step, result in zip(call.steps, call.results, strict=True):
            wanted = ("exists", "version", *(("etag",) if result.exists else ()))
            wanted += () if step.op == "check" else ("changed",)
            missing = next((name for name in wanted if getattr(result, name) is None), None)
            if missing is not None:
                return f"{missing} of {step.key!r}"
    elif call.outcome is Outcome.CONFLICT:
        if call.at_step is None or call.at_step >= len(call.steps):
            return "step that met it"
        wanted = ("exists", "version", *(("answer_etag",) if call.exists else ()))
        return next((name for name in wanted if getattr(call, name) is None), None)
    return None


def _content(call: Operation) -> tuple[Any, ...]:
    return call.op, canonical(call.value), call.etag, call.concurrency, call.demands


def _is(call: Operation, error: str) -> bool:
    return call.error is not None and call.error.partition(":")[0] == error


def _returned(call: Operation) -> int:
    return FOREVER if call.returned is None else call.returned


def _difference(one: Operation, other: Operation) -> str | None:
    for name in ("exists", "version", "answer_etag", "answer_value", "changed"):
        first, second = getattr(one, name), getattr(other, name)
        if first is not None and second is not None and canonical(first) != canonical(second):
            return name.removeprefix("answer_")
    return None
