"""A history and its log: what does not agree is found, and what an engine did agrees."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from support.commands import Operation as Asked
from support.commands import delete as delete_command
from support.commands import increment, one, request
from support.commands import save as save_command
from support.engines import Clock, engine_on
from support.histories import REFUSED, UNKNOWN, conflict, delete, read, refused, save, unknown

from chaos.audit import Audit, audit
from chaos.check import read_log
from chaos.history import HistoryError, Operation, Outcome
from chaos.linearizability import Result, check
from holdfast.events import DeleteCommand, Event, Receipt, Record, Refusal, SaveCommand, make_etag
from holdfast.stores import MemoryStore


async def lived(seed: int, commands: int) -> tuple[list[Operation], list[Record]]:
    """What clients saw of an engine, one command after the other, and its log."""
    random, clock = Random(seed), Clock()  # noqa: S311
    store = MemoryStore()
    await store.open()
    engine = engine_on(store, clock)
    history: list[Operation] = []
    etags: dict[str, str | None] = {}
    for number in range(commands):
        key = random.choice(("a", "b", "c"))
        command = _command(random, number, key, etags.get(key), clock.millis)
        for attempt in range(random.choice((1, 1, 2))):
            moment = number * 100 + attempt * 10
            call = _call(command, moment)
            happens = random.random() < 0.9
            answer = await one(engine, request(command)) if happens else {}
            if not happens or random.random() < 0.2:
                history.append(call)
                continue
            told = _told(call, answer)
            history.append(replace(told, returned=moment + 5))
        head = (await store.heads([key])).get(key)
        etags[key] = make_etag(head.version, head.id) if head is not None and head.exists else None
    return history, [record async for record in store.scan()]


def _command(random: Random, number: int, key: str, etag: str | None, now: int) -> SaveCommand | DeleteCommand:
    fields: dict[str, Any] = {"id": f"i{number}"}
    if random.random() < 0.5:
        fields["etag"] = etag if random.random() < 0.8 else "1-x"
    if random.random() < 0.05:
        fields["deadline"] = now - 1
    if random.random() < 0.3:
        return delete_command(key, **fields)
    return save_command(key, f"i{number}", concurrency=random.choice(("first-write", "last-write")), **fields)


def _call(command: Asked, moment: int) -> Operation:
    assert isinstance(command, SaveCommand | DeleteCommand)
    return Operation(
        client="c",
        id=command.id,
        key=command.key,
        op=command.op,
        value=command.value if isinstance(command, SaveCommand) else None,
        etag=command.etag,
        concurrency=command.concurrency if isinstance(command, SaveCommand) else "last-write",
        invoked=moment,
        returned=None,
        outcome=UNKNOWN,
    )


def _told(call: Operation, answer: dict[str, Any]) -> Operation:
    if answer["status"] == "expired":
        return replace(call, outcome=REFUSED, error="ExpiredError")
    told = {"exists": answer["exists"], "version": answer["version"]}
    if answer["status"] == "conflict":
        etag = answer["error"]["actual"]
        return replace(call, outcome=Outcome.CONFLICT, answer_etag=etag, error="ConflictError", **told)
    if call.op == "delete":
        return replace(call, outcome=Outcome.OK, changed=answer["changed"])
    return replace(call, outcome=Outcome.OK, answer_etag=answer["etag"], **told)


@pytest.mark.parametrize("seed", range(5))
async def test_what_an_engine_did_agrees_with_its_log(seed: int) -> None:
    history, records = await lived(seed, 400)
    assert list(audit(history, records)) == []
    kinds = {(one.op, one.outcome) for one in history}
    assert len(kinds) > 6
    assert [verdict.result for verdict in check(history)] == [Result.LINEARIZABLE] * 3


@pytest.mark.parametrize("seed", range(5))
async def test_what_the_log_settles_is_as_linearizable(seed: int) -> None:
    history, records = await lived(seed, 400)
    both = Audit(history)
    assert [finding for record in records for finding in both.see(record)] == []
    assert list(both.finish()) == []
    settled = list(both.settled())
    assert [verdict.result for verdict in check(settled)] == [Result.LINEARIZABLE] * 3
    # Every event has its place now, and no outcome of a command is open.
    answered = {one.id for one in settled if one.outcome is not UNKNOWN}
    assert {one.id for one in settled} == answered
    versions = {one.id: one.version for one in settled if one.version is not None and one.outcome is Outcome.OK}
    assert {record.id: record.version for record in records if isinstance(record, Event)}.items() <= versions.items()


def event(key: str, version: int, id_: str, type_: Any = "saved", value: Any = None) -> Event:
    return Event(
        id=id_,
        key=key,
        time=0,
        digest=b"",
        type=type_,
        version=version,
        value=id_ if value is None and type_ == "saved" else value,
    )


def refusal(id_: str, **answer: Any) -> Refusal:
    return Refusal(id=id_, key="k", time=0, digest=b"", answer=answer)


def met(winner: str, version: int) -> dict[str, Any]:
    """The recorded answer of a first-write that met the state that a save made."""
    return {
        "status": "conflict",
        "exists": True,
        "version": version,
        "error": {"actual": make_etag(version, winner), "winner": winner},
    }


A1, B2 = save("a", 0, 10, 1), save("b", 20, 30, 2)
EVENT_A1, EVENT_B2 = event("k", 1, "a"), event("k", 2, "b")
FIRST = replace(save("f", 20, 30, 2), concurrency="first-write")
EXPIRED = refused("x", 20, 30, error="ExpiredError")
LATE: dict[str, Any] = {"status": "expired"}
NOOP: dict[str, Any] = {"status": "ok", "changed": False, "exists": False, "version": 0}

#: name: a history and a log that do not agree, a piece of what is said, and the same without the fault.
PAIRS: dict[str, tuple[tuple[list[Operation], list[Record]], str, tuple[list[Operation], list[Record]]]] = {
    "acknowledged and lost": (([A1, B2], [EVENT_A1]), "is not in the log", ([A1, B2], [EVENT_A1, EVENT_B2])),
    "an acknowledged delete is lost": (
        ([A1, delete("d", 20, 30)], [EVENT_A1]),
        "is not in the log",
        ([A1, delete("d", 20, 30)], [EVENT_A1, event("k", 2, "d", "deleted")]),
    ),
    "another version": (
        ([A1, save("b", 20, 30, 3)], [EVENT_A1, EVENT_B2]),
        "was told another one",
        ([A1, B2], [EVENT_A1, EVENT_B2]),
    ),
    "another etag": (
        ([A1, replace(B2, answer_etag="2-x")], [EVENT_A1, EVENT_B2]),
        "made the etag",
        ([A1, B2], [EVENT_A1, EVENT_B2]),
    ),
    "another value": (
        ([A1], [event("k", 1, "a", value="z")]),
        "asked for something else",
        ([A1], [EVENT_A1]),
    ),
    "another type": (
        ([A1, B2], [EVENT_A1, event("k", 2, "b", "deleted")]),
        "asked for something else",
        ([A1, delete("b", 20, 30)], [EVENT_A1, event("k", 2, "b", "deleted")]),
    ),
    "a save for a delete": (
        ([A1, delete("b", 20, 30)], [EVENT_A1, EVENT_B2]),
        "asked for something else",
        ([A1, delete("b", 20, 30)], [EVENT_A1, event("k", 2, "b", "deleted")]),
    ),
    "another version of a delete": (
        ([A1, delete("d", 20, 30, version=3)], [EVENT_A1, event("k", 2, "d", "deleted")]),
        "was told another one",
        ([A1, delete("d", 20, 30, version=2)], [EVENT_A1, event("k", 2, "d", "deleted")]),
    ),
    "another key": (([A1], [event("l", 1, "a")]), "was sent for the key 'k'", ([A1], [EVENT_A1])),
    "nobody sent it": (
        ([A1], [EVENT_A1, EVENT_B2]),
        "no client sent it",
        ([A1, unknown("b", 20)], [EVENT_A1, EVENT_B2]),
    ),
    "nobody sent what was refused": (
        ([A1], [EVENT_A1, refusal("x", **LATE)]),
        "no client sent it",
        ([A1, unknown("x", 20)], [EVENT_A1, refusal("x", **LATE)]),
    ),
    "refused, and in the log": (
        ([A1, refused("b", 20, 30)], [EVENT_A1, EVENT_B2]),
        "but was refused",
        ([A1, refused("b", 20, 30)], [EVENT_A1]),
    ),
    "expired, and in the log": (
        ([A1, unknown("x", 15), EXPIRED], [EVENT_A1, event("k", 2, "x")]),
        "was told that it did not",
        ([A1, unknown("x", 15), EXPIRED], [EVENT_A1, refusal("x", **LATE)]),
    ),
    "conflicted, and in the log": (
        ([A1, conflict(FIRST, "a", 1)], [EVENT_A1, event("k", 2, "f")]),
        "was told that it did not",
        ([A1, conflict(FIRST, "a", 1)], [EVENT_A1, refusal("f", **met("a", 1))]),
    ),
    "did nothing, and is in the log": (
        ([A1, delete("d", 20, 30, changed=False)], [EVENT_A1, event("k", 2, "d", "deleted")]),
        "was told that it did not",
        ([A1, delete("d", 20, 30)], [EVENT_A1, event("k", 2, "d", "deleted")]),
    ),
    "a conflict that is not recorded": (
        ([A1, conflict(FIRST, "a", 1)], [EVENT_A1]),
        "which is not recorded",
        ([A1, conflict(replace(FIRST, etag="1-x"), "a", 1)], [EVENT_A1]),
    ),
    "a delete of nothing that is not recorded": (
        ([delete("d", 20, 30, changed=False)], []),
        "which is not recorded",
        ([delete("d", 20, 30, changed=False)], [refusal("d", **NOOP)]),
    ),
    "an expiry that is not recorded": (
        ([EXPIRED], []),
        "which is not recorded",
        ([EXPIRED], [refusal("x", **LATE)]),
    ),
    "told ok, and recorded as a refusal": (
        ([A1], [refusal("a", **LATE)]),
        "told that it changed something",
        ([A1], [EVENT_A1]),
    ),
    "told another conflict than the recorded one": (
        ([A1, B2, conflict(FIRST, "b", 2)], [EVENT_A1, EVENT_B2, refusal("f", **met("a", 1))]),
        "another recorded answer",
        ([A1, B2, conflict(FIRST, "b", 2)], [EVENT_A1, EVENT_B2, refusal("f", **met("b", 2))]),
    ),
    "told of nothing to do, recorded as expired": (
        ([delete("d", 20, 30, changed=False)], [refusal("d", **LATE)]),
        "but was told ok",
        ([delete("d", 20, 30, changed=False)], [refusal("d", **NOOP)]),
    ),
    "told that it had expired, recorded as a conflict": (
        ([A1, EXPIRED], [EVENT_A1, refusal("x", **met("a", 1))]),
        "told that it had expired",
        ([A1, EXPIRED], [EVENT_A1, refusal("x", **LATE)]),
    ),
    "one id twice": (
        ([A1], [EVENT_A1, event("k", 2, "a")]),
        "more than once",
        ([A1], [EVENT_A1]),
    ),
    "one id as event and refusal": (
        ([A1], [EVENT_A1, refusal("a", **LATE)]),
        "more than once",
        ([A1], [EVENT_A1]),
    ),
    "a gap": (
        ([A1, save("b", 20, 30, 3)], [EVENT_A1, event("k", 3, "b")]),
        "version 3 comes where version 2 should",
        ([A1, B2], [EVENT_A1, EVENT_B2]),
    ),
    "no beginning": (([B2], [EVENT_B2]), "comes where version 1 should", ([A1, B2], [EVENT_B2, EVENT_A1])),
    "a version twice": (
        ([A1, unknown("b", 0)], [EVENT_A1, event("k", 1, "b")]),
        "comes where version 2 should",
        ([A1, unknown("b", 0)], [EVENT_A1, EVENT_B2]),
    ),
    "a stale swap in the log": (
        ([A1, replace(B2, etag="1-x")], [EVENT_A1, EVENT_B2]),
        "although its condition did not hold",
        ([A1, replace(B2, etag=make_etag(1, "a"))], [EVENT_A1, EVENT_B2]),
    ),
    "a stale swap of unknown outcome in the log": (
        ([A1, unknown("b", 20, etag="1-x")], [EVENT_A1, EVENT_B2]),
        "although its condition did not hold",
        ([A1, unknown("b", 20, etag=make_etag(1, "a"))], [EVENT_A1, EVENT_B2]),
    ),
    "a first-write on what was there": (
        ([A1, unknown("b", 20, concurrency="first-write")], [EVENT_A1, EVENT_B2]),
        "although its condition did not hold",
        ([A1, unknown("b", 20)], [EVENT_A1, EVENT_B2]),
    ),
    "a delete of nothing in the log": (
        ([unknown("d", 20, op="delete")], [event("k", 1, "d", "deleted")]),
        "although its condition did not hold",
        ([A1, unknown("d", 20, op="delete")], [EVENT_A1, event("k", 2, "d", "deleted")]),
    ),
    "an order against real time": (
        ([save("a", 0, 10, 2), save("b", 11, 30, 1)], [event("k", 2, "a"), event("k", 1, "b")]),
        "had ended before",
        ([save("a", 0, 11, 2), save("b", 11, 30, 1)], [event("k", 2, "a"), event("k", 1, "b")]),
    ),
    "a read of what never was": (
        ([A1, read(20, 30, "b", 2)], [EVENT_A1]),
        "a state that is not in the log",
        ([A1, read(20, 30, "a", 1)], [EVENT_A1]),
    ),
    "a read of another's etag": (
        ([A1, read(20, 30, "b", 1)], [EVENT_A1]),
        "a state that is not in the log",
        ([A1, read(20, 30, "a", 1)], [EVENT_A1]),
    ),
    "an eventual read of another value": (
        ([A1, read(20, 30, "a", 1, answer_value="z", consistency="eventual")], [EVENT_A1]),
        "another value",
        ([A1, read(20, 30, "a", 1, consistency="eventual")], [EVENT_A1]),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_does_not_agree_is_found(name: str) -> None:
    (history, records), words, _ = PAIRS[name]
    found = [str(finding) for finding in audit(history, records)]
    assert any(words in one for one in found), found


@pytest.mark.parametrize("name", PAIRS)
def test_what_agrees_beside_it_is_accepted(name: str) -> None:
    *_, (history, records) = PAIRS[name]
    assert list(audit(history, records)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda records: records[: len(records) // 2],
        lambda records: [one for one in records if isinstance(one, Event)],
        lambda records: [*records, records[0]],
        lambda records: [*records, event("a", 9999, "nobody")],
    ],
)
async def test_a_log_that_was_damaged(change: Callable[[list[Record]], list[Record]]) -> None:
    history, records = await lived(1, 200)
    assert list(audit(history, change(records)))


def test_what_the_log_knows_decides() -> None:
    """Without the log either of the two may have come first; with it, it is known that this one was too early."""
    history = [A1, unknown("x", 40), unknown("y", 12), save("b", 20, 30, 3)]
    assert [verdict.result for verdict in check(history)] == [Result.LINEARIZABLE]
    both = Audit(history)
    records = [EVENT_A1, event("k", 2, "x"), event("k", 3, "b")]
    assert [finding for one in records for finding in both.see(one)] == []
    assert [verdict.result for verdict in check(both.settled())] == [Result.VIOLATED]
    assert any("had ended before" in str(finding) for finding in both.finish())


@pytest.mark.parametrize("error", ["IdReusedError:id_reused", "ExpiredError"])
@pytest.mark.parametrize("happened", [True, False])
def test_what_the_log_settles_hides_no_contradiction(error: str, happened: bool) -> None:
    history = [A1, unknown("b", 15), refused("b", 20, 30, error=error)]
    both = Audit(history)
    records = [EVENT_A1, EVENT_B2] if happened else [EVENT_A1]
    found = [finding for one in records for finding in both.see(one)] + list(both.finish())
    verdicts = [verdict.result for verdict in check(both.settled())]
    if happened or error.startswith("IdReused"):
        assert verdicts == [Result.VIOLATED]
    else:
        # Only the log says that the answer is missing in it.
        assert any("not recorded" in str(finding) for finding in found)


def test_one_id_on_two_keys_is_no_history() -> None:
    with pytest.raises(HistoryError, match="two keys"):
        Audit([A1, replace(A1, key="other")])


def test_the_log_of_a_run_is_read_as_it_was(tmp_path: Path) -> None:
    receipt = Receipt(id="t", key="k", time=0, digest=b"\1", answer={"status": "ok"}, events=1)
    part = event("k", 1, "t").model_copy(update={"position": 1, "digest": b"\2"})
    lines = [record.model_dump() | {"digest": record.digest.hex()} for record in (receipt, part, refusal("r"))]
    path = tmp_path / "log"
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    assert list(read_log(path)) == [receipt, part, refusal("r")]


async def counted(commands: int) -> tuple[list[Operation], list[Record]]:
    """What clients saw of counters, and of keys that expire."""
    clock, store = Clock(), MemoryStore()
    await store.open()
    engine = engine_on(store, clock)
    history: list[Operation] = []
    for number in range(commands):
        clock.pass_(0.4)
        call = Operation(
            client="c", id=f"n{number}", key=f"count-{number % 2}", op="increment", value=1, invoked=number * 100,
            returned=number * 100 + 5, outcome=Outcome.OK,
        )  # fmt: skip
        answer = await one(engine, request(increment(call.key, return_value=True, id=call.id)))
        lent = save_command("lent", f"l{number}", id=f"l{number}", ttl_seconds=1)
        history.append(
            replace(call, version=answer["version"], answer_etag=answer["etag"], answer_value=answer["value"])
            if number % 3
            else replace(call, outcome=UNKNOWN, returned=None)
        )
        if number % 5 == 0:
            told = await one(engine, request(lent))
            called = replace(call, id=lent.id, key="lent", op="save", value=lent.value)
            history.append(replace(called, version=told["version"], answer_etag=told["etag"]))
    return history, [record async for record in store.scan()]


async def test_counters_and_what_expires_agree_with_their_log() -> None:
    """Increments add up, whoever was told of them, and what expires does so by nobody's command."""
    history, records = await counted(60)
    assert {record.type for record in records} == {"saved", "expired"}
    assert list(audit(history, records)) == []


Damage = Callable[[list[Operation], list[Record]], None]


def _event(change: dict[str, Any]) -> Damage:
    def damage(history: list[Operation], records: list[Record]) -> None:
        place = next(index for index, record in enumerate(records) if record.id == "n20")
        records[place] = records[place].model_copy(update=change)

    return damage


def _answer(**change: Any) -> Damage:
    def damage(history: list[Operation], records: list[Record]) -> None:
        place = next(index for index, call in enumerate(history) if call.id == "n20")
        history[place] = replace(history[place], **change)

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_event({"value": 12}), "counts 12 on top of"),
        (_event({"value": 10}), "counts 10 on top of"),
        (_event({"patch": None}), "asked for something else"),
        (_answer(answer_value=12), "was told another one"),
        (_answer(answer_etag="11-00000000"), "was told another one"),
        (_answer(version=12), "was told another one"),
        (_answer(value=2), "counts 11 on top of"),
    ],
)
async def test_a_count_that_is_wrong_is_found(damage: Damage, words: str) -> None:
    """An increment that was lost, counted twice, or told otherwise."""
    history, records = await counted(60)
    damage(history, records)
    assert any(words in finding.message for finding in audit(history, records)), list(audit(history, records))
