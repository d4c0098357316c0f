"""Transactions in a history and its log: what an engine did passes all checks, and each way to break one is found."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from store_records import saved
from support.commands import one, request, transact
from support.commands import save as save_command
from support.engines import Clock, engine_on
from support.histories import CONFLICT, OK, REFUSED, UNKNOWN, read, save

from chaos.audit import Audit, audit
from chaos.check import LOG_FILE, check_histories
from chaos.history import HistoryError, Operation, Step, Told
from chaos.linearizability import Result, check
from chaos.serializability import check as check_order
from chaos.serializability import happened_in
from chaos.transaction_calls import to_wire
from holdfast.events import Event, Receipt, Record, Refusal, SaveCommand, TransactCommand, make_etag
from holdfast.stores import MemoryStore

PARTITIONS = 4


def put(key: str, value: str, **fields: Any) -> Step:
    return Step(op="save", key=key, value=value, **fields)


def called(id_: str, begin: int, end: int | None, *steps: Step, **told: Any) -> Operation:
    """A call of a transaction; nobody knows what became of it unless something is told."""
    fields: dict[str, Any] = {"outcome": UNKNOWN, **told}
    return Operation(
        client="c", id=id_, key=steps[0].key, op="transact", steps=steps, invoked=begin, returned=end, **fields
    )


def made(key: str, version: int, id_: str) -> Told:
    return Told(key=key, exists=True, version=version, etag=make_etag(version, id_), changed=True)


def absent(key: str) -> Told:
    return Told(key=key, exists=False, version=0)


def event(key: str, version: int, id_: str, position: int, value: str | None = None) -> Event:
    return saved(key, version, value=f"{id_}/{key}" if value is None else value, command=id_).model_copy(
        update={"position": position}
    )


def receipt(id_: str, *results: Told) -> Receipt:
    told = [{name: getattr(one, name) for name in ("key", "exists", "version", "etag", "changed")} for one in results]
    return Receipt(
        id=id_,
        key=results[0].key,
        time=0,
        digest=b"",
        answer={"status": "ok", "results": told},
        events=sum(one.changed is True for one in results),
    )


def refusal(id_: str, key: str, operation: int, version: int) -> Refusal:
    error = {"code": "absent", "operation": operation, "key": key, "actual": None}
    return Refusal(
        id=id_,
        key="a",
        time=0,
        digest=b"",
        answer={"status": "conflict", "exists": False, "version": version, "error": error},
    )


def findings(operations: list[Operation], records: Iterable[Record]) -> dict[str, list[str]]:
    """What each of the three checks finds."""
    records = list(records)
    both = Audit(operations)
    log = [str(finding) for record in records for finding in both.see(record)]
    log += map(str, both.finish())
    verdicts = [one.explanation for one in check(both.settled()) if one.result is not Result.LINEARIZABLE]
    events = [record for record in records if isinstance(record, Event)]
    order = list(check_order(happened_in(operations), events))
    return {name: found for name, found in (("log", log), ("keys", verdicts), ("order", order)) if found}


STEPS = (put("a", "t/a"), put("b", "t/b", etag=make_etag(1, "s")), Step(op="check", key="c", demands=False))
RESULTS = (made("a", 1, "t"), made("b", 2, "t"), absent("c"))
#: A key that is there, and a transaction that was told that it was committed: what it made, and the log.
S = save("s", 0, 10, 1, key="b")
T = called("t", 20, 30, *STEPS, outcome=OK, results=RESULTS)
OF_S = saved("b", 1, value="s", command="s")
A1, B2 = event("a", 1, "t", 1), event("b", 2, "t", 2)
R = receipt("t", *RESULTS)
WHOLE: list[Record] = [OF_S, R, A1, B2]
ABSENT_B = called("t", 20, 30, *STEPS, outcome=CONFLICT, at_step=1, exists=False, version=0)
PRESENT_C = called(
    "t", 20, 30, put("a", "t/a"), Step(op="check", key="c", demands=True), outcome=CONFLICT, at_step=1, exists=False,
    version=0,
)  # fmt: skip

#: name: a history and a log; which check finds what.
WRONG: dict[str, tuple[list[Operation], list[Record], str, str]] = {
    "half is there": ([S, T], [OF_S, R, A1], "log", "a part of a transaction is missing"),
    "half is there, and nobody was told": (
        [S, called("t", 20, None, *STEPS)], [OF_S, R, A1], "log", "a part of a transaction is missing"),
    "half is there without a receipt": (
        [S, called("t", 20, None, *STEPS)], [OF_S, A1], "log", "a part of a transaction that was not committed"),
    "applied twice": (
        [S, T], [*WHOLE, event("a", 2, "t", 1), event("b", 3, "t", 2)], "log", "two events at position 1"),
    "applied twice, at other positions": (
        [S, T], [*WHOLE, event("a", 2, "t", 3)], "log", "more than its transaction made"),
    "two receipts": ([S, T], [*WHOLE, R], "log", "two receipts"),
    "lost": ([S, T], [OF_S], "log", "told ok, but is not in the log"),
    "another version than was told": (
        [S, replace(T, results=(made("a", 7, "t"), *RESULTS[1:]))], WHOLE, "log", "told other results"),
    "another value": ([S, T], [OF_S, R, event("a", 1, "t", 1, "x"), B2], "log", "asked for something else"),
    "a key that it does not name": (
        [S, T], [*WHOLE, event("d", 1, "t", 3)], "log", "a key that it does not name"),
    "as a single command": (
        [S, T], [OF_S, R, event("a", 1, "t", 0), B2], "log", "as if it were no transaction"),
    "refused, and committed": (
        [S, called("t", 20, 30, *STEPS, outcome=REFUSED, error="Unavailable")], WHOLE, "log", "but was refused"),
    "expired, and committed": (
        [S, called("t", 20, 25, *STEPS), called("t", 26, 30, *STEPS, outcome=REFUSED, error="ExpiredError")],
        WHOLE, "log", "told that it was not"),
    "conflict, and committed": ([ABSENT_B], [R, A1, B2], "log", "told that it was not"),
    "a conflict that is not recorded": ([PRESENT_C], [], "log", "not recorded"),
    "a conflict, recorded as another one": ([PRESENT_C], [refusal("t", "c", 1, 2)], "log", "another recorded answer"),
    "told ok, recorded as refused": ([S, T], [OF_S, refusal("t", "c", 2, 0)], "log", "but was told ok"),
    "nobody sent it": ([S], WHOLE, "log", "no client sent it"),
    "a condition that did not hold": (
        [S, save("u", 12, 15, 2, key="b"), replace(T, results=(RESULTS[0], made("b", 3, "t"), RESULTS[2]))],
        [OF_S, saved("b", 2, value="u", command="u"), receipt("t", RESULTS[0], made("b", 3, "t"), RESULTS[2]), A1,
         event("b", 3, "t", 2)],
        "keys", "etag"),
    "a check that did not hold": (
        [S, T, save("w", 0, 5, 1, key="c"), read(40, 50, "w", 1, key="c")],
        [*WHOLE, saved("c", 1, value="w", command="w")], "keys", "version"),
    "a conflict with what never was": (
        [replace(ABSENT_B, version=3)], [], "keys", "the right version would be"),
    "one key is behind what was read": (
        [S, T, read(40, 50, "s", 1, key="b")], WHOLE, "keys", "the right"),
    "half of it is seen": (
        [S, T, called("r", 22, 28, Step(op="check", key="a", etag=make_etag(1, "t")),
                      Step(op="check", key="b", etag=make_etag(1, "s")), outcome=OK, results=(
            replace(made("a", 1, "t"), changed=None), replace(made("b", 1, "s"), changed=None)))],
        [*WHOLE, receipt("r", replace(made("a", 1, "t"), changed=None), replace(made("b", 1, "s"), changed=None))],
        "order", "no order is possible"),
    "write skew": (
        [called("x", 0, 10, put("a", "x/a"), Step(op="check", key="b", demands=False), outcome=OK,
                results=(made("a", 1, "x"), absent("b"))),
         called("y", 0, 10, put("b", "y/b"), Step(op="check", key="a", demands=False), outcome=OK,
                results=(made("b", 1, "y"), absent("a")))],
        [receipt("x", made("a", 1, "x"), absent("b")), event("a", 1, "x", 1),
         receipt("y", made("b", 1, "y"), absent("a")), event("b", 1, "y", 1)],
        "order", "no order is possible"),
}  # fmt: skip

#: The same and the like, as they should be.
RIGHT: dict[str, tuple[list[Operation], list[Record]]] = {
    "committed": ([S, T], WHOLE),
    "committed, and nobody was told": ([S, called("t", 20, None, *STEPS)], WHOLE),
    "not committed, and nobody was told": ([S, called("t", 20, None, *STEPS)], [OF_S]),
    "refused": ([S, called("t", 20, 30, *STEPS, outcome=REFUSED, error="Unavailable")], [OF_S]),
    "expired": (
        [S, called("t", 20, 30, *STEPS, outcome=REFUSED, error="ExpiredError")],
        [OF_S, Refusal(id="t", key="a", time=0, digest=b"", answer={"status": "expired"})],
    ),
    "an etag that met another one": ([ABSENT_B], []),
    "a recorded conflict": ([PRESENT_C], [refusal("t", "c", 1, 0)]),
    "told twice": ([S, T, replace(T, invoked=31, returned=40)], WHOLE),
    # What an etag demands is looked at each time, and an earlier step may have become wrong.
    "two conflicts under one id": (
        [ABSENT_B, replace(ABSENT_B, invoked=60, returned=70, version=2), save("s", 31, 35, 1, key="b"),
         Operation(client="c", id="d", key="b", op="delete", invoked=40, returned=50, outcome=OK, changed=True)],
        [OF_S, saved("b", 2, command="d").model_copy(update={"type": "deleted", "value": None})],
    ),
    "of two that check each other the later one is refused": (
        [called("x", 0, 10, put("a", "x/a"), Step(op="check", key="b", demands=False), outcome=OK,
                results=(made("a", 1, "x"), absent("b"))),
         called("y", 0, 10, put("b", "y/b"), Step(op="check", key="a", demands=False), outcome=CONFLICT, at_step=1,
                exists=True, version=1, answer_etag=make_etag(1, "x"))],
        [receipt("x", made("a", 1, "x"), absent("b")), event("a", 1, "x", 1),
         Refusal(id="y", key="b", time=0, digest=b"", answer={
             "status": "conflict", "exists": True, "version": 1,
             "error": {"operation": 1, "key": "a", "actual": make_etag(1, "x")}})],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str) -> None:
    operations, records, which, words = WRONG[name]
    found = findings(operations, records)
    assert any(words in one for one in found.get(which, [])), found


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_accepted(name: str) -> None:
    assert findings(*RIGHT[name]) == {}


def test_only_all_keys_together_show_a_write_skew() -> None:
    """And half of a transaction that was seen: each key by itself is right, and the log as well."""
    for name in ("write skew", "half of it is seen"):
        operations, records, *_ = WRONG[name]
        assert findings(operations, records).keys() == {"order"}


def test_what_cannot_be_checked_is_no_history() -> None:
    with pytest.raises(HistoryError, match="result of each step"):
        Audit([replace(T, results=RESULTS[:1])])
    with pytest.raises(HistoryError, match="step that met it"):
        Audit([replace(ABSENT_B, at_step=None)])
    with pytest.raises(HistoryError, match="a key twice"):
        Audit([called("t", 0, 1, put("a", "1"), put("a", "2"))])
    with pytest.raises(HistoryError, match="two transactions"):
        Audit([T, called("t", 31, 40, put("a", "1"))])


async def lived(seed: int, commands: int) -> tuple[list[Operation], list[Record]]:
    """What clients saw of an engine that was sent transactions among saves, and its log. Some were never told."""
    random, store = Random(seed), MemoryStore()  # noqa: S311
    await store.open()
    engine = engine_on(store, Clock())
    history: list[Operation] = []
    etags: dict[str, str | None] = {}
    keys = [f"k{number}" for number in range(6)]
    for number in range(commands):
        moment = number * 100
        id_ = f"i{number}"
        begin = moment - random.randrange(60)
        command: SaveCommand | TransactCommand
        if random.random() < 0.5:
            key = random.choice(keys)
            command = save_command(key, id_, id=id_)
            call = Operation(
                client="c", id=id_, key=key, op="save", value=id_, invoked=begin, returned=None, outcome=UNKNOWN
            )
        else:
            steps = [_step(random, f"{id_}/{key}", key, etags.get(key)) for key in random.sample(keys, 3)]
            command = transact(*map(to_wire, steps), id=id_)
            call = called(id_, begin, None, *steps)
        if random.random() < 0.9:
            answer = await one(engine, request(command))
            for told in answer.get("results", [{"key": call.key, "etag": answer.get("etag")}]):
                etags[told["key"]] = told["etag"] if answer["status"] == "ok" else etags.get(told["key"])
            if random.random() < 0.8:
                call = _told(replace(call, returned=moment + random.randrange(60)), answer)
        history.append(call)
    return history, [record async for record in store.scan()]


def _step(random: Random, value: str, key: str, etag: str | None) -> Step:
    kinds = [put(key, value), Step(op="delete", key=key), Step(op="check", key=key, demands=etag is not None)]
    if etag is not None:
        kinds += [put(key, value, etag=etag), Step(op="check", key=key, etag=etag), put(key, value, etag="1-x")]
    return random.choice(kinds)


def _told(call: Operation, answer: dict[str, Any]) -> Operation:
    if answer["status"] == "conflict":
        error = answer["error"]
        return replace(
            call,
            outcome=CONFLICT,
            at_step=error["operation"],
            exists=answer["exists"],
            version=answer["version"],
            answer_etag=error["actual"],
        )
    if call.op == "save":
        return replace(call, outcome=OK, version=answer["version"], answer_etag=answer["etag"])
    names = ("key", "exists", "version", "etag", "changed")
    results = tuple(Told(**{name: told.get(name) for name in names}) for told in answer["results"])
    return replace(call, outcome=OK, results=results)


@pytest.mark.parametrize("seed", range(5))
async def test_what_an_engine_did_passes(seed: int) -> None:
    history, records = await lived(seed, 300)
    assert findings(history, records) == {}
    transactions = [one.outcome for one in history if one.op == "transact"]
    assert {OK, CONFLICT, UNKNOWN} <= set(transactions)


@pytest.mark.parametrize("seed", range(5))
async def test_a_transaction_that_lost_an_event_is_found(seed: int) -> None:
    history, records = await lived(seed, 200)
    random = Random(seed)  # noqa: S311
    lost = random.choice([record for record in records if record.position > 0])
    assert "log" in findings(history, [record for record in records if record is not lost])
    whole = [record for record in records if record.id != lost.id]
    assert "log" in findings(history, whole)


async def test_a_run_of_transactions_is_checked_in_parts(tmp_path: Path) -> None:
    """Keys of a transaction are in different parts and processes: nothing is counted twice, and nothing is missed."""
    history, records = await lived(1, 300)

    async def checked(records: list[Record]) -> Any:
        lines = [record.model_dump() | {"digest": record.digest.hex()} for record in records]
        (tmp_path / LOG_FILE).write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        return await check_histories([path], tmp_path / LOG_FILE, PARTITIONS)

    path = tmp_path / "one.history"
    write(path, history)
    right = await checked(records)
    assert (right.findings, right.operations, right.keys) == ([], len(history), 6)
    assert right.transactions.total() == sum(one.op == "transact" for one in history)
    part = next(record for record in records if record.position == 2)
    wrong = await checked([record for record in records if record is not part])
    assert any("a part of a transaction is missing" in finding for finding in wrong.findings)


def write(path: Path, history: list[Operation]) -> None:
    """A file as a recorder leaves it, of calls that were made before."""
    ends = ("returned", "outcome", "exists", "version", "answer_etag", "answer_value", "changed", "error", "results")
    lines: list[tuple[int, dict[str, Any]]] = []
    for number, call in enumerate(sorted(history, key=lambda call: call.invoked), start=1):
        data = {name: item for name, item in orjson.loads(orjson.dumps(call)).items() if item not in (None, [])}
        told = {name: data.pop(name) for name in (*ends, "at_step") if name in data}
        lines.append((call.invoked, {"call": number, **data}))
        if call.returned is not None:
            lines.append((call.returned, {"return": number, **told}))
    lines.sort(key=lambda line: (line[0], "return" in line[1]))
    path.write_bytes(b"".join(orjson.dumps(data) + b"\n" for _, data in lines))


def test_a_transaction_of_nobody_is_found() -> None:
    """Callers of this history send none. Its receipt and each of its events is told."""
    found = [str(finding) for finding in audit([], [R, A1, event("b", 1, "t", 2)])]
    assert sum("no client sent it" in one for one in found) == 3
