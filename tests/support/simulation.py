"""Histories made at random, and a checker of small ones that is too simple to be wrong."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations
from random import Random
from typing import Any, NamedTuple

from chaos.commands import Command, ContradictionError, canonical, commands_of, disagreement
from chaos.history import Operation, Outcome
from chaos.model import NEVER, Answer, State, apply

#: Nanoseconds from one command's moment to the next one's.
STEP = 1000


class _Asked(NamedTuple):
    id: str
    op: str
    value: bytes
    etag: str | None
    concurrency: str
    demands: bool | None = None


def simulate(
    random: Random,
    *,
    commands: int,
    unknown: float = 0.2,
    happened: float = 0.5,
    repeats: float = 0.2,
    conditions: float = 0.4,
    spread: float = 3.0,
) -> list[Operation]:
    """A history of one key that is linearizable because it happened: each command at one moment, within its call.

    :param unknown: how many writes have no answer; ``happened`` of these did happen.
    :param repeats: how many writes are called again under their ids.
    :param conditions: how many writes have an etag, most of them the right one.
    :param spread: how long calls take before and after their moments, in commands.
    """
    states = [NEVER]
    history: list[Operation] = []
    for number in range(commands):
        moment = number * STEP
        call = _call(random, number, states, conditions, moment - _span(random, spread))
        asked = _Asked(call.id, call.op, canonical(call.value), call.etag, call.concurrency)
        returned = moment + _span(random, spread)
        again = call.op != "read" and random.random() < repeats
        if call.op != "read" and random.random() < unknown:
            if random.random() < happened:
                states.append(apply(states[-1], asked)[1])
            # Its caller may have given up before it happened.
            history.append(replace(call, returned=random.choice((None, call.invoked, returned))))
            if again:
                history.append(replace(call, invoked=returned + 1))
            continue
        state = random.choice(states) if call.consistency == "eventual" else states[-1]
        answer, state = apply(state, asked)
        if call.op != "read":
            states.append(state)
        told = _told(random, replace(call, returned=returned), answer)
        history += _called_again(random, told) if again else [told]
    return history


def _span(random: Random, spread: float) -> int:
    return random.choice((0, 1, STEP, round(random.random() * spread * STEP)))


def _call(random: Random, number: int, states: Sequence[State], conditions: float, invoked: int) -> Operation:
    op = random.choices(("save", "delete", "read"), (5, 2, 3))[0]
    etag = None
    if op != "read" and random.random() < conditions:
        etag = states[-1].etag if random.random() < 0.7 else random.choice(states).etag
    return Operation(
        client=f"c{number}",
        id=f"i{number}",
        key="k",
        op=op,
        value=number if op == "save" else None,
        etag=etag,
        concurrency=random.choice(("last-write", "first-write")) if op == "save" else "last-write",
        consistency=random.choice(("strong", "strong", "eventual")) if op == "read" else "strong",
        invoked=invoked,
        returned=None,
        outcome=Outcome.UNKNOWN,
    )


def _told(random: Random, call: Operation, answer: Answer) -> Operation:
    version: int | None = answer.version
    if answer.outcome is Outcome.OK and not answer.exists and random.random() < 0.8:
        # Our client does not say at which version a key was found or made absent.
        version = None
    return replace(
        call,
        outcome=answer.outcome,
        exists=answer.exists,
        version=version,
        answer_etag=answer.etag,
        answer_value=None if answer.value is None else int(answer.value),
        changed=answer.changed,
    )


def _untold(told: Operation, outcome: Outcome, **given: Any) -> Operation:
    nothing = dict.fromkeys(("exists", "version", "answer_etag", "answer_value", "changed"))
    return replace(told, outcome=outcome, **{**nothing, **given})


def _called_again(random: Random, told: Operation) -> list[Operation]:
    """Calls under one id, of which one or two are told the answer."""
    assert told.returned is not None
    invoked = told.invoked + random.randrange(2 * STEP)
    again = replace(told, invoked=invoked, returned=max(invoked, told.returned) + random.randrange(STEP))
    unknown = _untold(told, Outcome.UNKNOWN, returned=random.choice((None, told.invoked)))
    refused = _untold(told, Outcome.REFUSED, error="UnansweredError")
    return random.choice(([told, again], [unknown, again], [refused, unknown, again]))


def damage(random: Random, history: Sequence[Operation]) -> list[Operation]:
    """The history with one answer, or one time, changed. It may be right all the same."""
    damaged = list(history)
    place = random.randrange(len(damaged))
    one = damaged[place]
    changes: list[Operation] = []
    if one.returned is not None:
        moment = random.randrange(one.invoked, one.returned + 1)
        changes += [replace(one, returned=moment), replace(one, invoked=moment)]
    if one.version is not None:
        version = max(0, one.version + random.choice((-1, 1)))
        changes.append(replace(one, version=version))
        if one.answer_etag is not None:
            changes.append(replace(one, version=version, answer_etag=f"{version}-{one.answer_etag.partition('-')[2]}"))
    if one.op == "delete" and one.changed is not None:
        changes.append(replace(one, changed=not one.changed, version=None))
    others = [other for other in history if other.answer_etag is not None and other is not one]
    if one.answer_etag is not None and others:
        other = random.choice(others)
        told = {"answer_etag": other.answer_etag, "version": other.version, "answer_value": other.answer_value}
        changes += [replace(one, **told), replace(one, answer_value=other.answer_value)]
    if one.op == "read" and one.exists:
        changes.append(_untold(one, Outcome.OK, exists=False))
    if one.op != "read":
        changes.append(refuse(one))
        changes.append(_untold(one, Outcome.UNKNOWN))
    if one.consistency == "eventual":
        changes.append(replace(one, consistency="strong"))
    if changes:
        damaged[place] = random.choice(changes)
    return damaged


def refuse(operation: Operation) -> Operation:
    """The same call, told that it was certainly not applied."""
    returned = operation.invoked if operation.returned is None else operation.returned
    return _untold(operation, Outcome.REFUSED, error="Unavailable", returned=returned)


def is_linearizable(history: Sequence[Operation]) -> bool:
    """The definition, word for word: every order of all that happened and of any that may have. For a few commands."""
    try:
        commands = commands_of(history)
    except ContradictionError:
        return False
    certain = [command for command in commands if command.certain]
    doubtful = [command for command in commands if not command.certain]
    return any(
        _keeps_time(order) and _is_right(order)
        for count in range(len(doubtful) + 1)
        for happened in combinations(doubtful, count)
        for order in permutations((*certain, *happened))
    )


def _keeps_time(order: Sequence[Command]) -> bool:
    """Whether nothing comes after what began when it had ended. An eventual read may tell of any earlier state."""
    return not any(
        later.end < command.begin and not command.eventual
        for place, command in enumerate(order)
        for later in order[place + 1 :]
    )


def _is_right(order: Sequence[Command]) -> bool:
    state = NEVER
    for command in order:
        answer, state = apply(state, command)
        if disagreement(command, answer) is not None:
            return False
    return True
