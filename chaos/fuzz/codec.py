"""The codec by itself against the oracle: no broker, so that millions of bodies can be tried.

What the generator makes is tried, and what comes of it by mutation. Where atheris is installed it looks for new ways
through the codec, see coverage.py.
"""

from random import Random

from holdfast.events import (
    BadCommand,
    Command,
    InvalidError,
    SaveCommand,
    decode_commands,
    encode,
)
from holdfast.events.codec import Decoded

from . import texts
from .answers import INTERNALS, LONGEST_FIELD, LONGEST_MESSAGE, is_told
from .commands import is_fresh
from .oracle import MADE, Fate, Judgement, depth, judge, read

#: In the place of an id that a worker makes.
_MADE_ID = "made"


class DisagreementError(AssertionError):
    """The codec does what the protocol page does not allow."""


def check(body: bytes, message_id: str | None = None) -> str:
    """Decode a body and compare with what is allowed. Gives back what came of it, for counting.

    :raises DisagreementError: if it is not allowed, or if anything unforeseen is raised.
    """
    judgements = judge(
        body,
        message_id=None if message_id is None else message_id.encode(),
        correlation_id=None,
        reply_to=None,
        now=0,
        is_fresh=is_fresh,
        split=False,
    )
    try:
        decoded = decode_commands(body, message_id=message_id or _MADE_ID)
    except InvalidError as fault:
        _check_error(fault)
        status = "too_large" if fault.code == "too_large" else "invalid"
        if not any(_is_whole(judgement, body, f"{status} {fault.code}") for judgement in judgements):
            raise DisagreementError(f"{fault.code}: {fault}, but allowed is {judgements}") from fault
        return fault.code
    except Exception as fault:
        raise DisagreementError(f"{fault!r} was raised") from fault
    differences = []
    for judgement in judgements:
        difference = _compare(decoded, judgement)
        if difference is None:
            return "commands" if any(not isinstance(command, BadCommand) for command in decoded.commands) else "bad"
        differences.append(difference)
    raise DisagreementError("; or ".join(differences))


def _is_whole(judgement: Judgement, body: bytes, outcome: str) -> bool:
    (fate, *others) = judgement.fates or (None,)
    return fate is not None and not others and fate.command is body and outcome in fate.outcomes


def _compare(decoded: Decoded, judgement: Judgement) -> str | None:
    commands, fates = decoded.commands, judgement.fates
    if decoded.is_array != judgement.is_array or len(commands) != len(fates):
        return f"{len(commands)} commands (array: {decoded.is_array}), allowed are {len(fates)} ({judgement.is_array})"
    for command, fate in zip(commands, fates, strict=True):
        if command.id != (_MADE_ID if fate.id is MADE else fate.id):
            return f"id {command.id!r}, allowed is {fate.id!r}"
        difference = _compare_bad(command, fate) if isinstance(command, BadCommand) else _compare_good(command, fate)
        if difference is not None:
            return difference
    return None


def _compare_bad(command: BadCommand, fate: Fate) -> str | None:
    _check_error(command.error)
    code = command.error.code
    if f"invalid {code}" not in fate.outcomes:
        return f"{code}, allowed are {sorted(fate.outcomes)}"
    return (
        None if is_told(code, command.error.field, fate) else f"field {command.error.field!r} of {code}: {fate.fields}"
    )


def _compare_good(command: Command, fate: Fate) -> str | None:
    if all(outcome.startswith("invalid ") for outcome in fate.outcomes):
        return f"a command, allowed are {sorted(fate.outcomes)}"
    sent = {name: value for name, value in fate.command.items() if name != "id"}
    taken = {name: getattr(command, name) for name in sent}
    # The order of an object's members plays no part.
    for name in ("operations", "messages"):
        if sent.get(name) is not None:
            taken[name] = [
                {member: getattr(one, member) for member in other}
                for one, other in zip(taken[name], sent[name], strict=True)
            ]
    # By their texts: 1, 1.0 and True are equal, and different values.
    if any(repr(taken[name]) != repr(sent[name]) for name in sent if name != "value"):
        return f"taken for {taken}, sent was {sent}"
    if isinstance(command, SaveCommand):
        if repr(command.value) != repr(sent["value"]):
            return "another value than was sent"
        written = encode(command.value)
        if repr(read(written, depth(written))) != repr(sent["value"]):
            return "a value that is not the same when it is written and read again"
    return None


def _check_error(error: InvalidError) -> None:
    if len(str(error)) > LONGEST_MESSAGE or len(error.field or "") > LONGEST_FIELD:
        raise DisagreementError(f"{error.code}: an error of {len(str(error))} characters")
    if INTERNALS.search(str(error)):
        raise DisagreementError(f"{error.code}: it tells of the program: {error}")


def mutate_and_check(bodies: list[bytes], seed: str, runs: int) -> None:
    """What comes of these bodies by mutation, and by mutation of that, as plainly as can be."""
    rng = Random(seed)
    for _ in range(runs):
        body = texts.mutate(rng, rng.choice(bodies))
        if rng.random() < 0.1:
            other = rng.choice(bodies)
            body = body[: rng.randrange(len(body) + 1)] + other[rng.randrange(len(other) + 1) :]
        check(body, rng.choice((None, "m", "m" * 200)))
        if rng.random() < 0.02 and len(body) < 2000:
            bodies[rng.randrange(len(bodies))] = body
