"""Why a history is wrong, for people: how far an order of the commands goes, and what has no place in it then."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.events import make_etag

from .commands import Command, ContradictionError, disagreement, text_of
from .history import Operation, Step
from .model import State, apply

#: Lines of each kind at most.
_LINES: Final = 12


@dataclass(frozen=True, slots=True)
class Furthest:
    """The longest order that was found, and where it could not go on."""

    placed: tuple[Command, ...]
    state: State
    #: What returned first of what is left: it needs a place before anything that began later.
    stuck: Command
    #: What else began before that.
    others: tuple[Command, ...]


def explain(store: str, key: str, operations: Sequence[Operation], furthest: Furthest) -> str:
    """The window of operations around the end of the longest order."""
    start = min(operation.invoked for operation in operations)
    stuck, state = furthest.stuck, furthest.state
    lines = [
        f"{store}/{key}: no order of the {len(operations)} operations agrees with what they were told.",
        f"The longest order has {len(furthest.placed)} of them and ends with the key {_state(state)}.",
        "This one has to come next, or something that lets it, and cannot:",
        f"  {_command(stuck, start)}",
        f"      here {_reason(stuck, state)}",
    ]
    lines += (f"      {line}" for line in _origin(stuck, operations))
    lines += _section(
        "Beside it:",
        (f"  {_command(one, start)}\n      here {_reason(one, state)}" for one in furthest.others),
    )
    lines += _section("Before it, the last one first:", (f"  {_command(one, start)}" for one in furthest.placed[::-1]))
    return "\n".join(lines)


def explain_contradiction(store: str, key: str, error: ContradictionError) -> str:
    """The calls that cannot be true together."""
    start = min(call.invoked for call in error.calls)
    lines = [f"{store}/{key}: {error}:"]
    return "\n".join(lines + [f"  {_call(call, start)}" for call in error.calls])


def explain_undecided(store: str, key: str, operations: Sequence[Operation], budget: int) -> str:
    """That nothing is known."""
    return (
        f"{store}/{key}: undecided: whether there is an order of the {len(operations)} operations was not found out "
        f"in {budget:,} steps"
    )


def explain_circle(ids: Sequence[str], operations: Iterable[Operation]) -> list[str]:
    """The calls under these ids, in their order."""
    calls: dict[str, list[Operation]] = {id_: [] for id_ in ids}
    for operation in operations:
        if operation.id in calls:
            calls[operation.id].append(operation)
    start = min((call.invoked for mine in calls.values() for call in mine), default=0)
    return [_call(call, start) for mine in calls.values() for call in mine]


def _section(title: str, lines: Iterable[str]) -> list[str]:
    lines = list(lines)
    if not lines:
        return []
    more = [f"  … and {len(lines) - _LINES} more"] if len(lines) > _LINES else []
    return [title, *lines[:_LINES], *more]


def _reason(command: Command, state: State) -> str:
    answer, after = apply(state, command)
    reason = disagreement(command, answer)
    if reason is not None:
        return reason
    return f"it would be right, and make version {after.version} {_state(after)}, but others were told another one"


def _origin(command: Command, operations: Sequence[Operation]) -> list[str]:
    """Whose state a command was told of, if not of one that stands in its order."""
    told = command.told
    if told is None or told.answer_etag is None or told.version is None:
        return []
    start = min(operation.invoked for operation in operations)
    makers = [one for one in operations if one.op == "save" and make_etag(told.version, one.id) == told.answer_etag]
    return [f"that etag is of {_call(one, start)}" for one in makers if one is not told] or (
        [] if makers else ["nobody made that etag"]
    )


def _state(state: State) -> str:
    if state.etag is None:
        return f"absent at version {state.version}"
    return f"at etag {state.etag} with the value {text_of(state.value)}"


def _command(command: Command, start: int) -> str:
    call = command.told or command.calls[0]
    repeats = f", one of {len(command.calls)} calls" if len(command.calls) > 1 else ""
    return _call(call, start) + repeats


def _call(call: Operation, start: int) -> str:
    ends = "never returned" if call.returned is None else _time(call.returned - start)
    asked = [f"{call.client}: {call.op} {call.id}", *map(_step, call.steps)]
    if call.op == "save":
        asked.append(f"value {call.value!r}")
    if call.etag is not None:
        asked.append(f"etag {call.etag!r}")
    elif call.concurrency == "first-write":
        asked.append("first-write")
    elif call.demands is not None:
        asked.append(f"exists {call.demands}")
    if call.consistency != "strong":
        asked.append(call.consistency)
    told = [str(call.outcome)] + ([call.error] if call.error else [])
    answer = {name: getattr(call, name) for name in ("exists", "version", "answer_etag", "answer_value", "changed")}
    told += [f"{name.removeprefix('answer_')} {item!r}" for name, item in answer.items() if item is not None]
    told += [f"step {call.at_step}"] if call.at_step is not None else []
    told += [f"{one.key!r} version {one.version}{' changed' if one.changed else ''}" for one in call.results]
    return f"[{_time(call.invoked - start)} to {ends}] {' '.join(asked)} → {', '.join(told)}"


def _step(step: Step) -> str:
    condition = {"etag": step.etag, "exists": step.demands}
    wanted = [f"{name} {item!r}" for name, item in condition.items() if item is not None]
    wanted += ["first-write"] if step.concurrency == "first-write" else []
    return f"({' '.join([step.op, repr(step.key), *wanted])})"


def _time(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9:+.9f}"
