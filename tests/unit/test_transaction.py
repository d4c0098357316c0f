"""What a transaction means: the table of single commands, in order, and the whole or nothing."""

from collections.abc import Mapping
from typing import Any

import pytest
from support.commands import NOW, checks, delete, drops, first, save, sets, transact

from holdfast.events import Event, Receipt, TransactCommand, digest_of, digest_of_transaction, make_etag
from holdfast.events.limits import FENCE_WINDOW_MS
from holdfast.stores import Head
from holdfast.worker.decide import Rejection, decide
from holdfast.worker.transaction import Commit, decide_transaction, keys_of

THERE = Head(3, True, "w3", NOW - 10)
GONE = Head(4, False, "w4", NOW - 10)
ETAG = make_etag(3, "w3")
HEADS = {"there": THERE, "gone": GONE}


def decided(
    command: TransactCommand, heads: Mapping[str, Head] = HEADS, *, now: int = NOW, author: str | None = None
) -> Commit | Rejection:
    return decide_transaction(command, heads, now=now, author=author, digest=digest_of_transaction(command))


def committed(*operations: dict[str, Any], **fields: Any) -> Commit:
    commit = decided(transact(*operations, **fields))
    assert isinstance(commit, Commit)
    return commit


def refused(*operations: dict[str, Any], **fields: Any) -> Rejection:
    rejection = decided(transact(*operations, **fields))
    assert isinstance(rejection, Rejection)
    return rejection


@pytest.mark.parametrize("head", [THERE, GONE, None])
@pytest.mark.parametrize("etag", [None, ETAG, make_etag(4, "w4"), ""])
@pytest.mark.parametrize("kind", ["save", "first", "delete"])
def test_one_operation_is_decided_as_a_command_by_itself(head: Head | None, etag: str | None, kind: str) -> None:
    """Each condition in each state: the same event, or the same conflict with a name, and recorded alike."""
    single = (
        delete("k", id="c", etag=etag)
        if kind == "delete"
        else (first if kind == "first" else save)("k", id="c", etag=etag)
    )
    operation = drops("k") if kind == "delete" else sets("k")
    if kind == "first":
        operation["concurrency"] = "first-write"
    whole = decided(transact({**operation, "etag": etag}, id="c"), {} if head is None else {"k": head})
    alone = decide(single, head or Head(0, False, "", 0), now=NOW, author=None, digest=digest_of(single)[0])
    if isinstance(alone, Event):
        assert isinstance(whole, Commit)
        assert whole.events == [alone.model_copy(update={"position": 1})]
        assert whole.guards == []
    elif alone.answer["status"] == "ok":
        assert isinstance(whole, Commit)
        assert (whole.events, whole.guards) == ([], [("k", (head.version if head else 0) + 1)])
        assert whole.answer["results"] == [{"key": "k", **{n: i for n, i in alone.answer.items() if n != "status"}}]
    else:
        assert isinstance(whole, Rejection)
        error = {**alone.answer["error"], "operation": 0, "key": "k"}
        assert whole.answer == {**alone.answer, "error": error}
        assert (whole.recorded, whole.about_key) == (alone.recorded, alone.about_key)


@pytest.mark.parametrize(
    ("condition", "key", "code", "recorded"),
    [
        ({"etag": ETAG}, "there", None, False),
        ({"etag": "other"}, "there", "etag_mismatch", False),
        ({"etag": ""}, "there", "etag_mismatch", False),
        ({"etag": make_etag(4, "w4")}, "gone", "absent", False),
        ({"etag": make_etag(0, "")}, "never", "absent", False),
        ({"exists": True}, "there", None, False),
        ({"exists": True}, "gone", "absent", True),
        ({"exists": True}, "never", "absent", True),
        ({"exists": False}, "there", "exists", True),
        ({"exists": False}, "gone", None, False),
        ({"exists": False}, "never", None, False),
    ],
)
def test_checks(condition: dict[str, Any], key: str, code: str | None, recorded: bool) -> None:
    """A check that holds guards what it saw; one that does not is a conflict, recorded if it could pass."""
    decision = decided(transact(sets("new"), checks(key, **condition)))
    head = HEADS.get(key, Head(0, False, "", 0))
    etag = make_etag(head.version, head.id) if head.exists else None
    if code is None:
        assert isinstance(decision, Commit)
        assert decision.guards == [(key, head.version + 1)]
        assert decision.answer["results"][1] == {
            "key": key,
            "exists": head.exists,
            "etag": etag,
            "version": head.version,
        }
    else:
        assert isinstance(decision, Rejection)
        assert decision.answer["error"]["code"] == code
        assert decision.answer["error"]["operation"] == 1
        assert decision.answer["error"]["actual"] == etag
        assert decision.recorded is recorded


def test_operations_on_one_key_see_each_other() -> None:
    """Versions go on within the transaction, and what is written needs no guard."""
    commit = committed(
        checks("there", etag=ETAG),
        drops("there"),
        checks("there", exists=False),
        sets("there", 1, concurrency="first-write"),
        sets("there", 2),
        drops("gone"),
        sets("gone", 3),
        drops("never"),
        id="t",
    )
    assert [(event.key, event.version, event.type, event.position) for event in commit.events] == [
        ("there", 4, "deleted", 1),
        ("there", 5, "saved", 2),
        ("there", 6, "saved", 3),
        ("gone", 5, "saved", 4),
    ]
    assert commit.guards == [("never", 1)]
    assert [result.get("changed") for result in commit.answer["results"]] == [
        None,
        True,
        None,
        True,
        True,
        False,
        True,
        False,
    ]
    # A condition on what an earlier operation makes cannot hold: nobody knows that etag.
    assert refused(sets("there"), sets("there", etag=ETAG)).answer["error"]["operation"] == 1


def test_the_first_that_does_not_hold_is_named() -> None:
    rejection = refused(sets("new"), checks("never", exists=True), sets("there", etag="x"))
    assert (rejection.answer["error"]["operation"], rejection.answer["error"]["key"]) == (1, "never")


def test_the_records() -> None:
    """The receipt stands for the whole; events have the operation's digest, as if it were a command by itself."""
    command = transact(sets("a", {"x": 1}), checks("there", exists=True), drops("there"), id="t", metadata={"m": "x"})
    commit = decided(command, author="ada")
    assert isinstance(commit, Commit)
    receipt, saved, deleted = commit.records
    assert isinstance(receipt, Receipt)
    assert (receipt.id, receipt.position, receipt.key, receipt.events) == ("t", 0, "a", 2)
    assert receipt.answer == commit.answer
    assert receipt.digest == digest_of_transaction(command)
    assert saved.digest == digest_of(save("a", {"x": 1}, id="t", metadata={"m": "x"}))[0]
    assert deleted.digest == digest_of(delete("there", id="t", metadata={"m": "x"}))[0]
    assert {(record.id, record.author) for record in commit.records} == {("t", "ada")}
    # Metadata are erased with the events that have them, and stand nowhere else.
    assert [record.metadata for record in commit.records] == [None, {"m": "x"}, {"m": "x"}]


def test_times_never_run_backwards() -> None:
    commit = decided(transact(sets("ahead"), sets("ahead")), {"ahead": Head(1, True, "w", NOW + 500)})
    assert isinstance(commit, Commit)
    assert [event.time for event in commit.events] == [NOW + 500, NOW + 500]


@pytest.mark.parametrize(
    ("operation", "code"),
    [(sets("a"), "deadline"), (sets("there", etag="x"), "etag_mismatch"), (checks("never", exists=True), "deadline")],
)
def test_a_deadline_that_has_passed(operation: dict[str, Any], code: str) -> None:
    """It is refused for good, but for what leaves no record: a repeat is to be told the same."""
    rejection = refused(operation, deadline=NOW - 1)
    assert rejection.answer["error"]["code"] == code
    assert rejection.recorded is (code == "deadline")


def test_what_is_too_old_is_refused_before_anything_else() -> None:
    rejection = refused(sets("there", etag="x"), sent_at=NOW - FENCE_WINDOW_MS - 1)
    assert rejection.answer["error"]["code"] == "too_old"


def test_keys_come_once_and_in_order() -> None:
    assert keys_of(transact(sets("b"), drops("a"), checks("b", exists=True))) == ("b", "a")


def test_the_digest_is_of_all_that_is_meant() -> None:
    """Everything that changes the meaning changes the digest; what a retry may renew does not."""
    operations = [sets("a", {"x": 1, "y": 2}), drops("b", etag="e"), checks("c", exists=True)]
    base = transact(*operations, metadata={"a": "b"})
    same = transact(
        sets("a", {"y": 2, "x": 1}),
        *operations[1:],
        metadata={"a": "b"},
        sent_at=NOW,
        deadline=NOW,
        return_current=True,
    )
    assert digest_of_transaction(base) == digest_of_transaction(same)
    others = [
        transact(*reversed(operations), metadata={"a": "b"}),
        transact(*operations[:2], metadata={"a": "b"}),
        transact(*operations),
        transact(*operations, metadata={"a": "b"}, store="other"),
        transact(sets("a", {"x": 1, "y": 3}), *operations[1:], metadata={"a": "b"}),
        transact(sets("a", {"x": 1, "y": 2}, concurrency="first-write"), *operations[1:], metadata={"a": "b"}),
        transact(operations[0], drops("b"), operations[2], metadata={"a": "b"}),
        transact(*operations[:2], checks("c", exists=False), metadata={"a": "b"}),
        transact(*operations[:2], checks("c", etag="e"), metadata={"a": "b"}),
    ]
    digests = {digest_of_transaction(command) for command in (base, *others)}
    assert len(digests) == len(others) + 1
