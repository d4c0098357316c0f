"""Callers: they do what their plans say, through the public client, and record all of it."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast import Client, ConflictError, Entry, OutcomeUnknown, Unavailable
from holdfast.events import partition_of

from .history import Outcome, Recorder, Step, Told, outcome_of
from .line import RawLine
from .plan import Intent, Kind, Plan, Route
from .transaction_calls import Looks, by_client, to_wire, told_of

#: How many etags of its present hot key a caller keeps in mind.
_MEMORY = 4

_READS = (Kind.READ, Kind.GLANCE)
_DELETES = (Kind.DELETE, Kind.REMOVE)
#: What a call may end with in a run of faults. Anything else is a finding.
_EXPECTED = (ConflictError, Unavailable, OutcomeUnknown)


@dataclass
class Tally:
    """What came of the calls of a process."""

    outcomes: Counter[str] = field(default_factory=Counter)
    #: By operation and its outcome.
    kinds: Counter[str] = field(default_factory=Counter)
    #: What should not have happened, in words.
    findings: list[str] = field(default_factory=list)
    #: By partition, when its last write was acknowledged, in nanoseconds of CLOCK_MONOTONIC.
    acknowledged: dict[int, int] = field(default_factory=dict)

    def finding(self, what: str) -> None:
        """Note something that should not have happened. Enough of them are enough."""
        if len(self.findings) < 100:
            self.findings.append(what)


@dataclass(frozen=True, slots=True)
class _Command:
    """One command as it is sent, however often."""

    id: str
    key: str
    op: str
    value: Any = None
    etag: str | None = None
    first_write: bool = False
    consistency: str = "strong"
    #: Seconds that a save is to live.
    ttl: int | None = None
    #: Of a transaction.
    steps: tuple[Step, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """For those who publish without our client."""
        if self.steps:
            return {"op": self.op, "id": self.id, "operations": [to_wire(step) for step in self.steps]}
        wire: dict[str, Any] = {"op": self.op, "id": self.id, "key": self.key}
        if self.op == "save":
            wire["value"] = self.value
        if self.ttl is not None:
            wire["ttl_seconds"] = self.ttl
        if self.op == "increment":
            wire |= {"op": "patch", "kind": "increment", "patch": {"": self.value}, "return_value": True}
        if self.etag is not None:
            wire["etag"] = self.etag
        if self.first_write:
            wire["concurrency"] = "first-write"
        if self.op == "read" and self.consistency != "strong":
            wire["consistency"] = self.consistency
        return wire


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer that is ok, as far as it says something."""

    exists: bool | None = None
    version: int | None = None
    etag: str | None = None
    value: Any = None
    changed: bool | None = None
    results: tuple[Told, ...] = ()


class Caller:
    """Does one thing after another, until it is told to stop.

    :param clients: the first one is used; the second one where a command is to come by two.
    """

    def __init__(
        self,
        name: str,
        plan: Plan,
        *,
        clients: tuple[Client, ...],
        line: RawLine,
        recorder: Recorder,
        tally: Tally,
        partitions: int,
    ) -> None:
        self._name = name
        self._plan = plan
        self._clients = clients
        self._line = line
        self._recorder = recorder
        self._tally = tally
        self._partitions = partitions
        self._seen: list[str] = []
        self._seen_key = ""
        self._looks = Looks()

    @property
    def generation(self) -> int:
        """Of its hot key."""
        return self._plan.generation

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Call and call again."""
        while not stopping():
            await self.call(self._plan.next())

    async def call(self, intent: Intent) -> None:
        """Do one thing, and again under the same id as long as nobody knows what became of it."""
        if intent.looks_before:
            await self._look(intent, "before")
        await self._call(self._command(intent), intent)
        if intent.looks_after:
            await self._look(intent, "after")

    async def _look(self, intent: Intent, when: str) -> None:
        """Read the keys of a transaction one by one."""
        for number, step in enumerate(intent.steps):
            command = _Command(f"{self._name}.{intent.number}.{when}.{number}", step.key, "read")
            await self._attempt(command, replace(intent, kind=Kind.READ, route=Route.CLIENT), self._clients[0])

    async def _call(self, command: _Command, intent: Intent) -> None:
        # A read has no id to ask for again: each is one of its own.
        senders, repeats = self._clients[:1], 0
        if command.op != "read":
            repeats = intent.repeats
            if intent.route is Route.TWO_CLIENTS:
                senders = self._clients
            elif intent.route is Route.COPIED:
                senders = self._clients[:1] * 2
        for _ in range(repeats + 1):
            outcomes = await asyncio.gather(*(self._attempt(command, intent, client) for client in senders))
            if set(outcomes) != {Outcome.UNKNOWN}:
                break

    def _command(self, intent: Intent) -> _Command:
        kind = intent.kind
        if kind is Kind.TRANSACT:
            command_id = f"{self._name}.{intent.number}"
            return _Command(command_id, intent.key, "transact", steps=self._looks.steps_of(command_id, intent.steps))
        seen = self._seen if intent.key == self._seen_key else []
        etag = None
        if seen and kind in (Kind.REPLACE, Kind.REMOVE):
            etag = seen[-1]
        elif len(seen) > 1 and kind is Kind.OVERTAKE:
            etag = seen[0]
        elif kind in (Kind.OVERTAKE, Kind.REPLACE, Kind.REMOVE):
            # Without anything seen it has to look first.
            kind = Kind.READ
        op = "read" if kind in _READS else "delete" if kind in _DELETES else "save"
        op = "increment" if kind is Kind.COUNT else op
        command_id = f"{self._name}.{intent.number}"
        values: dict[str, Any] = {"save": command_id, "increment": 1}
        return _Command(
            id=command_id,
            key=intent.key,
            op=op,
            value=values.get(op),
            etag=etag,
            first_write=kind is Kind.CREATE,
            consistency="eventual" if kind is Kind.GLANCE else "strong",
            ttl=1 if kind is Kind.LEND else None,
        )

    async def _attempt(self, command: _Command, intent: Intent, client: Client) -> Outcome:
        call = self._recorder.invoke(
            client=self._name,
            id=command.id,
            key=command.key,
            op=command.op,
            value=command.value,
            etag=command.etag,
            concurrency="first-write" if command.first_write else "last-write",
            consistency=command.consistency,
            steps=command.steps,
        )
        try:
            told = await self._send(command, intent, client)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what became of the call
            self._recorder.failed(call, error)
            outcome = outcome_of(error)
            if not isinstance(error, _EXPECTED):
                self._tally.finding(f"{command} failed with {type(error).__name__}: {error}")
            if isinstance(error, ConflictError) and not intent.steps:
                self._see(command.key, error.actual)
        else:
            self._recorder.ok(
                call,
                exists=told.exists,
                version=told.version,
                etag=told.etag,
                value=told.value,
                changed=told.changed,
                results=told.results,
            )
            outcome = Outcome.OK
            if not intent.steps:
                self._see(command.key, told.etag)
            elif command.op == "read":
                self._looks.see(command.key, told.etag)
            if command.op != "read":
                self._tally.acknowledged[self._partition(command.key)] = time.monotonic_ns()
        self._tally.outcomes[outcome] += 1
        self._tally.kinds[f"{intent.kind} {outcome}"] += 1
        return outcome

    def _see(self, key: str, etag: str | None) -> None:
        if key != self._seen_key:
            self._seen_key, self._seen = key, []
        if etag is not None and (not self._seen or self._seen[-1] != etag):
            self._seen = [*self._seen[1 - _MEMORY :], etag]

    async def _send(self, command: _Command, intent: Intent, client: Client) -> _Answer:
        timeout = intent.timeout
        match intent.route:
            case Route.CLIENT | Route.TWO_CLIENTS:
                return await _by_client(client, command, timeout)
            case Route.COPIED:
                routing_key = str(self._partition(command.key))
            case Route.INGRESS:
                routing_key = command.key
            case Route.ASTRAY:
                routing_key = str((self._partition(command.key) + 1) % self._partitions)
        reply = await self._line.ask(command.to_wire(), routing_key, timeout=timeout)
        results = told_of(reply.results or ())
        return _Answer(reply.exists, reply.version, reply.etag, reply.value, reply.changed, results)

    def _partition(self, key: str) -> int:
        return partition_of("default", key, self._partitions)


async def _by_client(client: Client, command: _Command, timeout: float) -> _Answer:
    match command.op:
        case "save":
            entry: Entry | None = await client.save(
                command.key,
                command.value,
                etag=command.etag,
                first_write=command.first_write,
                ttl=command.ttl,
                timeout=timeout,
                id=command.id,
            )
        case "increment":
            entry = await client.increment(command.key, command.value, timeout=timeout, id=command.id)
        case "read":
            entry = await client.read(
                command.key,
                consistency="eventual" if command.consistency == "eventual" else "strong",
                timeout=timeout,
            )
        case "transact":
            return _Answer(results=await by_client(client, command.steps, timeout=timeout, id=command.id))
        case _:
            changed = await client.delete(command.key, etag=command.etag, timeout=timeout, id=command.id)
            return _Answer(changed=changed)
    if entry is None:
        return _Answer(exists=False)
    return _Answer(exists=True, version=entry.version, etag=entry.etag, value=entry.value)
