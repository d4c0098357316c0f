"""The table of what a write means, cell by cell, as plain functions: no log, no clock."""

from typing import Any

import pytest
from support.commands import NOW, Operation, delete, first, read, request, save, wire

from holdfast.events import Event, Mutation, Refusal, make_etag
from holdfast.events.limits import FENCE_WINDOW_MS
from holdfast.stores import Head
from holdfast.worker.decide import (
    NEVER,
    Rejection,
    answer_again,
    answer_to,
    decide,
    expiry,
    head_of,
    refusal,
)

LIVE = Head(version=3, exists=True, id="writer", time=NOW - 5000)
DELETED = Head(version=4, exists=False, id="deleter", time=NOW - 5000)
MATCHING = make_etag(3, "writer")

#: Etags that match nothing: an older version's, the version with another command's hash, the number alone, and worse.
STALE = [
    make_etag(2, "writer"),
    make_etag(3, "other"),
    make_etag(4, "writer"),
    "3",
    "",
    " ",
    "null",
    "3-",
    MATCHING + " ",
]


def outcome(command: Mutation, head: Head, now: int = NOW) -> Event | Rejection:
    return decide(command, head, now=now, author="ada", digest=b"digest")


def event(command: Mutation, head: Head) -> Event:
    made = outcome(command, head)
    assert isinstance(made, Event)
    return made


def rejection(command: Mutation, head: Head, now: int = NOW) -> Rejection:
    made = outcome(command, head, now)
    assert isinstance(made, Rejection)
    return made


ABSENT = pytest.mark.parametrize("head", [NEVER, DELETED], ids=["never", "deleted"])


@ABSENT
def test_a_plain_save_creates(head: Head) -> None:
    """Given an absent key, when it is saved without etag, then it gets the next version."""
    assert event(save("k", 1), head).version == head.version + 1


@ABSENT
def test_a_first_write_creates(head: Head) -> None:
    """Given an absent key, when it is saved on condition that it is absent, then it gets the next version."""
    assert event(first("k", 1), head).version == head.version + 1


@ABSENT
@pytest.mark.parametrize("etag", [MATCHING, make_etag(4, "deleter"), make_etag(0, ""), *STALE])
@pytest.mark.parametrize("concurrency", ["first-write", "last-write"])
def test_no_etag_creates(head: Head, etag: str, concurrency: Any) -> None:
    """Given an absent key, when it is saved with any etag, then that is a conflict which nothing can reverse."""
    refused = rejection(save("k", 1, etag=etag, concurrency=concurrency), head)
    assert refused.answer["status"] == "conflict"
    assert (refused.answer["error"]["code"], refused.answer["error"]["expected"]) == ("absent", etag)
    assert refused.answer["error"]["actual"] is None
    assert (refused.recorded, refused.about_key) == (False, True)


@ABSENT
def test_a_plain_delete_of_nothing(head: Head) -> None:
    """Given an absent key, when it is deleted, then that is fine, changes nothing, and has to be recorded."""
    refused = rejection(delete("k"), head)
    assert wire(refused.answer) == {
        "status": "ok",
        "exists": False,
        "changed": False,
        "etag": None,
        "version": head.version,
    }
    assert (refused.recorded, refused.about_key) == (True, True)


@ABSENT
@pytest.mark.parametrize("etag", [MATCHING, *STALE])
def test_a_delete_with_an_etag_of_nothing(head: Head, etag: str) -> None:
    """Given an absent key, when it is deleted with any etag, then that is a conflict."""
    refused = rejection(delete("k", etag=etag), head)
    assert (refused.answer["status"], refused.answer["error"]["code"]) == ("conflict", "absent")
    assert not refused.recorded


def test_a_plain_save_goes_on() -> None:
    """Given a live key, when it is saved without etag, then it gets the next version."""
    made = event(save("k", {"n": 1}), LIVE)
    assert (made.type, made.version, made.value) == ("saved", 4, {"n": 1})


def test_a_first_write_meets_a_live_key() -> None:
    """Given a live key, when a save demands that it is absent, then that is a conflict, and has to be recorded."""
    command = first("k", 1)
    refused = rejection(command, LIVE)
    assert wire(refused.answer) == {
        "status": "conflict",
        "exists": True,
        "version": 3,
        "error": {
            "code": "exists",
            "message": "the key exists, and a first-write save demands that it does not",
            "expected": None,
            "actual": MATCHING,
            "winner": "writer",
        },
    }
    assert (refused.recorded, refused.about_key) == (True, True)


@pytest.mark.parametrize("concurrency", ["first-write", "last-write"])
def test_a_save_with_the_etag_goes_on(concurrency: Any) -> None:
    """Given a live key, when it is saved with its etag, then it gets the next version, whatever the concurrency."""
    assert event(save("k", 1, etag=MATCHING, concurrency=concurrency), LIVE).version == 4


@pytest.mark.parametrize("etag", STALE)
@pytest.mark.parametrize("concurrency", ["first-write", "last-write"])
def test_a_save_with_another_etag_is_a_conflict(etag: str, concurrency: Any) -> None:
    """Given a live key, when it is saved with an etag that is not its own, then that is a conflict for ever."""
    refused = rejection(save("k", 1, etag=etag, concurrency=concurrency), LIVE)
    error = refused.answer["error"]
    assert (refused.answer["status"], error["code"]) == ("conflict", "etag_mismatch")
    assert (error["expected"], error["actual"], error["winner"]) == (etag, MATCHING, "writer")
    assert (refused.recorded, refused.about_key) == (False, True)


@pytest.mark.parametrize("etag", [None, MATCHING])
def test_a_delete_goes_on(etag: str | None) -> None:
    """Given a live key, when it is deleted without etag or with its own, then a deleted event is its next version."""
    made = event(delete("k", etag=etag), LIVE)
    assert (made.type, made.version, made.value, made.exists) == ("deleted", 4, None, False)


@pytest.mark.parametrize("etag", STALE)
def test_a_delete_with_another_etag_is_a_conflict(etag: str) -> None:
    """Given a live key, when it is deleted with an etag that is not its own, then that is a conflict for ever."""
    refused = rejection(delete("k", etag=etag), LIVE)
    assert refused.answer["error"]["code"] == "etag_mismatch"
    assert not refused.recorded


def test_what_an_event_carries() -> None:
    """Given a save, when it makes an event, then the event has its id, author, digest, metadata and time."""
    command = save("k", 1, metadata={"why": "test"})
    made = event(command, LIVE)
    assert (made.id, made.key, made.author, made.digest, made.metadata, made.time) == (
        command.id,
        "k",
        "ada",
        b"digest",
        {"why": "test"},
        NOW,
    )


def test_an_event_is_never_older_than_the_one_before_it() -> None:
    """Given a head from a clock that was ahead, when the next event is made, then it is not older."""
    assert event(save("k", 1), LIVE._replace(time=NOW + 5000)).time == NOW + 5000


@pytest.mark.parametrize("command", [save, first, delete])
@pytest.mark.parametrize("head", [NEVER, LIVE, DELETED], ids=["never", "live", "deleted"])
@pytest.mark.parametrize(
    ("times", "code"),
    [
        ({"deadline": NOW - 1}, "deadline"),
        ({"sent_at": NOW - FENCE_WINDOW_MS - 1}, "too_old"),
        ({"deadline": NOW - 1, "sent_at": NOW - FENCE_WINDOW_MS - 1}, "too_old"),
    ],
)
def test_what_comes_too_late_is_refused_for_good(command: Any, head: Head, times: dict[str, int], code: str) -> None:
    """Given a write past its deadline or the fence window, when it is decided, then it is refused, and recorded."""
    refused = rejection(command("k", **times), head)
    assert (refused.answer["status"], refused.answer["error"]["code"]) == ("expired", code)
    assert (refused.recorded, refused.about_key) == (True, False)


@pytest.mark.parametrize("times", [{"deadline": NOW}, {"sent_at": NOW - FENCE_WINDOW_MS}, {"sent_at": NOW + 10**9}])
def test_what_comes_just_in_time_is_not_refused(times: dict[str, int]) -> None:
    """Given a write at the last moment, when it is decided, then it is in time; a sender's fast clock is no harm."""
    assert event(save("k", 1, **times), LIVE).version == 4


def test_a_mismatch_goes_before_the_deadline_but_not_before_the_fence_window() -> None:
    """Given a stale etag and a passed deadline, when it is decided, then it is the conflict that it was in time."""
    late = rejection(save("k", 1, etag="1-00000000", deadline=NOW - 1), LIVE)
    assert late.answer["status"] == "conflict"
    old = rejection(save("k", 1, etag="1-00000000", sent_at=NOW - FENCE_WINDOW_MS - 1), LIVE)
    assert (old.answer["status"], old.recorded) == ("expired", True)


def test_reads_expire_too() -> None:
    """Given reads in time, past their deadline and from before the window, when asked, then the last two expired."""
    assert expiry(read("k", deadline=NOW), NOW) is None
    assert wire(expiry(read("k", deadline=NOW - 1), NOW))["error"]["code"] == "deadline"
    assert wire(expiry(read("k", sent_at=0), NOW))["error"]["code"] == "too_old"


def test_a_refusal_keeps_the_answer() -> None:
    """Given a rejection, when it is made a record, then it has no version, and the answer word for word."""
    command = first("k", 1)
    refused = rejection(command, LIVE)
    record = refusal(command, refused, now=NOW, author="ada", digest=b"digest")
    assert (record.id, record.key, record.time, record.type) == (command.id, "k", NOW, "refused")
    assert record.answer == refused.answer


def test_answers_and_heads_of_events() -> None:
    """Given a saved and a deleted event, when asked, then answers and heads tell what they made of the key."""
    saved, deleted = event(save("k", 1), LIVE), event(delete("k"), LIVE)
    assert wire(answer_to(saved)) == {
        "status": "ok",
        "exists": True,
        "changed": True,
        "etag": saved.etag,
        "version": 4,
        "updated_at": NOW,
    }
    assert wire(answer_to(deleted))["etag"] is None
    assert wire(answer_to(deleted))["exists"] is False
    assert head_of(saved) == Head(4, True, saved.id, NOW)
    assert head_of(deleted) == Head(4, False, deleted.id, NOW)


def test_a_repeat_gets_the_answer_of_the_record() -> None:
    """Given a record of an event or of a refusal, when its command comes again, then the answer is the first one."""
    command = first("k", 1)
    original = request(command, author="ada")
    made = decide(command, NEVER, now=NOW, author="ada", digest=original.digest)
    assert isinstance(made, Event)
    assert answer_again(made, command, author="ada", digest=original.digest) == answer_to(made)
    refused = Refusal(id=command.id, key="k", time=1, author="ada", digest=original.digest, answer={"status": "x"})
    assert answer_again(refused, command, author="ada", digest=original.digest) == {"status": "x"}


@pytest.mark.parametrize(
    "stored",
    [{"key": "other"}, {"author": None}, {"author": "bob"}, {"digest": b"another."}],
    ids=["key", "no author", "author", "content"],
)
def test_another_command_under_the_id_learns_nothing(stored: dict[str, Any]) -> None:
    """Given a record of another key, author or content, when a command has its id, then only the reuse is told."""
    command: Operation = save("k", 1)
    original = request(command, author="ada")
    fields: dict[str, Any] = {"key": "k", "author": "ada", "digest": original.digest} | stored
    record = Event(id=command.id, version=1, type="saved", value="secret", time=NOW, **fields)
    answer = wire(answer_again(record, save("k", 1), author="ada", digest=original.digest))
    assert (answer["status"], answer["error"]["code"]) == ("invalid", "id_reused")
    assert set(answer) == {"status", "error"}
