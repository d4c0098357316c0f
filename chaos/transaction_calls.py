"""Transactions of callers: what they ask for, given what they have seen, and how it is sent."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from holdfast import Check, Client, Delete, Save
from holdfast import Step as ClientStep
from holdfast.events import make_etag

from .history import Step, Told
from .transaction_plan import PlannedStep, StepKind

#: Keys of which a caller remembers what it saw.
_MEMORY: Final = 64


class Looks:
    """What a caller saw of keys when it read them for its transactions."""

    def __init__(self) -> None:
        #: The etag seen last, None for absent; and the one before it that was another. The oldest key goes first.
        self._seen: dict[str, tuple[str | None, str | None]] = {}

    def see(self, key: str, etag: str | None) -> None:
        """Remember what a read told."""
        last, before = self._seen.pop(key, (None, None))
        self._seen[key] = (etag, last if last not in (None, etag) else before)
        if len(self._seen) > _MEMORY:
            del self._seen[next(iter(self._seen))]

    def steps_of(self, command_id: str, planned: Iterable[PlannedStep]) -> tuple[Step, ...]:
        """The steps of a transaction. Each value is unlike any other of the run."""
        return tuple(self._step(f"{command_id}.{number}", one) for number, one in enumerate(planned))

    def _step(self, value: str, planned: PlannedStep) -> Step:
        key = planned.key
        etag, before = self._seen.get(key, (None, None))
        match planned.kind:
            case StepKind.SAVE:
                return Step(op="save", key=key, value=value)
            case StepKind.CREATE:
                return Step(op="save", key=key, value=value, concurrency="first-write")
            case StepKind.REPLACE if etag is None:
                return Step(op="save", key=key, value=value, concurrency="first-write")
            case StepKind.REPLACE:
                return Step(op="save", key=key, value=value, etag=etag)
            case StepKind.OVERTAKE:
                return Step(op="save", key=key, value=value, etag=before or make_etag(1, "nobody"))
            case StepKind.DELETE:
                return Step(op="delete", key=key)
            case StepKind.PRESENT:
                return Step(op="check", key=key, demands=True)
            case StepKind.ABSENT:
                return Step(op="check", key=key, demands=False)
            case StepKind.REMOVE | StepKind.UNMOVED if etag is None:
                return Step(op="check", key=key, demands=False)
            case StepKind.REMOVE:
                return Step(op="delete", key=key, etag=etag)
            case StepKind.UNMOVED:
                return Step(op="check", key=key, etag=etag)


def to_wire(step: Step) -> dict[str, Any]:
    """For those who publish without our client."""
    wire: dict[str, Any] = {"op": step.op, "key": step.key}
    if step.op == "save":
        wire |= {"value": step.value, "concurrency": step.concurrency}
    if step.etag is not None:
        wire["etag"] = step.etag
    if step.demands is not None:
        wire["exists"] = step.demands
    return wire


async def by_client(client: Client, steps: Sequence[Step], *, timeout: float, id: str) -> tuple[Told, ...]:  # noqa: A002
    """Send them by our client.

    :raises HoldfastError: as the client does.
    """
    return told_of(await client.transact([_to_client(step) for step in steps], timeout=timeout, id=id))


def _to_client(step: Step) -> ClientStep:
    match step.op:
        case "save":
            return Save(step.key, step.value, step.etag, step.concurrency == "first-write")
        case "delete":
            return Delete(step.key, step.etag)
        case _:
            return Check(step.key, etag=step.etag, exists=step.demands)


class _Result(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def exists(self) -> bool | None: ...
    @property
    def version(self) -> int | None: ...
    @property
    def etag(self) -> str | None: ...
    @property
    def changed(self) -> bool | None: ...


def told_of(results: Iterable[_Result]) -> tuple[Told, ...]:
    """What an answer tells of each step, by our client or without it."""
    return tuple(
        Told(key=one.key, exists=one.exists, version=one.version, etag=one.etag, changed=one.changed) for one in results
    )
