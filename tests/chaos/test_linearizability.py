"""The checker finds each way in which a history can be wrong, and accepts the right one beside it."""

from dataclasses import replace

import pytest
from support.histories import conflict, delete, read, refused, save, unknown

from chaos.history import HistoryError, Operation
from chaos.linearizability import Result, check, check_key
from chaos.model import State
from holdfast.events import make_etag


def verdict(history: list[Operation]) -> Result:
    return check_key("default", "k", history).result


def first_write(id: str, begin: int, end: int, version: int) -> Operation:  # noqa: A002 - the protocol's word
    return save(id, begin, end, version, concurrency="first-write")


def swap(id: str, begin: int, end: int, version: int, of: str) -> Operation:  # noqa: A002
    """A save with the etag of the version before, which the save ``of`` made."""
    return save(id, begin, end, version, etag=make_etag(version - 1, of))


#: Their etags differ by nothing but the version.
TWIN, OTHER_TWIN = "i56331", "i146663"

A1 = save("a", 0, 10, 1)
B2 = save("b", 20, 30, 2)

#: name: a history that is wrong, and one beside it that is right.
PAIRS: dict[str, tuple[list[Operation], list[Operation]]] = {
    "stale read": (
        [A1, B2, read(40, 50, "a", 1)],
        [A1, B2, read(25, 50, "a", 1)],
    ),
    "read of absence after a save": (
        [A1, read(20, 30, None)],
        [A1, read(5, 30, None)],
    ),
    "read that goes back": (
        [A1, save("b", 20, 90, 2), read(30, 40, "b", 2), read(50, 60, "a", 1)],
        [A1, save("b", 20, 90, 2), read(30, 40, "a", 1), read(50, 60, "b", 2)],
    ),
    "read before the save began": (
        [A1, read(12, 19, "b", 2), B2],
        [A1, read(12, 20, "b", 2), B2],
    ),
    "lost update": (
        [A1, swap("b", 20, 60, 2, "a"), swap("c", 21, 61, 2, "a")],
        [A1, swap("b", 20, 60, 2, "a"), conflict(swap("c", 21, 61, 2, "a"), "b", 2)],
    ),
    "update that nobody sees": (
        [A1, B2, save("c", 40, 50, 2)],
        [A1, B2, save("c", 40, 50, 3)],
    ),
    "double apply": (
        [A1, save("a", 12, 15, 2)],
        [A1, save("a", 12, 15, 1)],
    ),
    "double apply seen by a reader": (
        [A1, B2, read(40, 50, "a", 3)],
        [A1, B2, read(40, 50, "b", 2)],
    ),
    "resurrected key": (
        [A1, delete("d", 20, 30), read(40, 50, "a", 1)],
        [A1, delete("d", 20, 50), read(40, 50, "a", 1)],
    ),
    "resurrected by a stale swap": (
        [A1, delete("d", 20, 30), swap("b", 40, 50, 3, "a")],
        [A1, delete("d", 20, 30), conflict(swap("b", 40, 50, 3, "a"), None, 2)],
    ),
    "version that begins anew after a delete": (
        [A1, delete("d", 20, 30), save("b", 40, 50, 1)],
        [A1, delete("d", 20, 30), save("b", 40, 50, 3)],
    ),
    "false conflict": (
        [A1, conflict(swap("b", 20, 30, 2, "a"), "a", 1)],
        [A1, conflict(save("b", 20, 30, 2, etag=make_etag(1, "x")), "a", 1)],
    ),
    "false conflict of a first-write": (
        [A1, delete("d", 20, 30), conflict(first_write("b", 40, 50, 3), "a", 1)],
        [A1, delete("d", 20, 30), conflict(first_write("b", 25, 50, 3), "a", 1)],
    ),
    "conflict with a state to come": (
        [A1, conflict(first_write("c", 12, 15, 2), "b", 2), B2],
        [A1, conflict(first_write("c", 12, 15, 2), "a", 1), B2],
    ),
    "conflict without a condition": (
        [A1, conflict(save("b", 20, 30, 2), "a", 1)],
        [A1, conflict(first_write("b", 20, 30, 2), "a", 1)],
    ),
    "conflict of a delete without a condition": (
        [A1, conflict(delete("d", 20, 30), "a", 1)],
        [A1, conflict(delete("d", 20, 30, etag="7-x"), "a", 1)],
    ),
    "conflict of a delete that found nothing": (
        [conflict(delete("d", 20, 30), None, 0)],
        [conflict(delete("d", 20, 30, etag="7-x"), None, 0)],
    ),
    "repeat of a delete that conflicts with itself": (
        [
            A1,
            delete("d", 20, 30, etag=make_etag(1, "a")),
            conflict(delete("d", 40, 50, etag=make_etag(1, "a")), None, 2),
        ],
        [A1, delete("d", 20, 30, etag=make_etag(1, "a")), delete("d", 40, 50, etag=make_etag(1, "a"))],
    ),
    "delete that has to wait for an unknown one": (
        [
            A1,
            unknown("x", 12, op="delete", etag=make_etag(1, "b")),
            delete("d", 12, 100),
            save("b", 30, 40, 3),
            read(50, 60, "b", 3),
            read(105, 110, None),
        ],
        [
            A1,
            unknown("x", 12, op="delete", etag=make_etag(1, "a")),
            delete("d", 12, 100),
            save("b", 30, 40, 3),
            read(50, 60, "b", 3),
            read(105, 110, None),
        ],
    ),
    "two unknown ones whose etags are namesakes": (
        [A1, unknown(TWIN, 12), read(40, 50, TWIN, 2), save("b", 60, 70, 4)],
        [A1, unknown(TWIN, 12), unknown(OTHER_TWIN, 12), read(40, 50, TWIN, 2), save("b", 60, 70, 4)],
    ),
    "false ok of a stale swap": (
        [A1, B2, swap("c", 40, 50, 2, "a")],
        [A1, B2, swap("c", 40, 50, 3, "b")],
    ),
    "false ok of a stale swap at the next version": (
        [A1, B2, save("c", 40, 50, 3, etag=make_etag(1, "a"))],
        [A1, B2, save("c", 40, 50, 3, etag=make_etag(2, "b"))],
    ),
    "swap with the right version and another's etag": (
        [A1, save("c", 40, 50, 2, etag=make_etag(1, "x"))],
        [A1, save("c", 40, 50, 2, etag=make_etag(1, "a"))],
    ),
    "false ok of a stale delete": (
        [A1, B2, delete("d", 40, 50, etag=make_etag(1, "a"))],
        [A1, B2, delete("d", 40, 50, etag=make_etag(2, "b"))],
    ),
    "delete that says it did nothing": (
        [A1, delete("d", 20, 30, changed=False)],
        [A1, delete("d", 5, 30, changed=False)],
    ),
    "delete that says it did something": (
        [delete("d", 20, 30)],
        [delete("d", 20, 30, changed=False)],
    ),
    "two deletes of one state": (
        [A1, delete("d", 20, 30), delete("e", 21, 31)],
        [A1, delete("d", 20, 30), delete("e", 21, 31, changed=False)],
    ),
    "read of a value never written": (
        [A1, read(20, 30, "a", 1, answer_value="z")],
        [A1, read(20, 30, "a", 1)],
    ),
    "read of a value of another type": (
        [save("a", 0, 10, 1, value=1), read(20, 30, "a", 1, answer_value=True)],
        [save("a", 0, 10, 1, value=1), read(20, 30, "a", 1, answer_value=1)],
    ),
    "read of a state whose writer never was": (
        [A1, read(20, 30, "x", 2)],
        [A1, unknown("x", 20), read(20, 30, "x", 2)],
    ),
    "first-write that succeeded twice": (
        [first_write("a", 0, 50, 1), first_write("b", 1, 51, 2)],
        [first_write("a", 0, 50, 1), conflict(first_write("b", 1, 51, 2), "a", 1)],
    ),
    "refused that took effect": (
        [A1, refused("x", 20, 30), read(40, 50, "x", 2)],
        [A1, refused("x", 20, 30), read(40, 50, "a", 1)],
    ),
    "refused that made a version": (
        [A1, refused("x", 20, 30), save("b", 40, 50, 3)],
        [A1, unknown("x", 20, 30), save("b", 40, 50, 3)],
    ),
    "refused delete that took effect": (
        [A1, refused("x", 20, 30, op="delete"), read(40, 50, None)],
        [A1, unknown("x", 20, 30, op="delete"), read(40, 50, None)],
    ),
    "conflict that took effect": (
        [A1, conflict(first_write("x", 20, 30, 2), "a", 1), read(40, 50, "x", 2)],
        [A1, conflict(first_write("x", 20, 30, 2), "a", 1), read(40, 50, "a", 1)],
    ),
    "version reused": (
        [A1, save("b", 20, 60, 2), save("c", 21, 61, 2)],
        [A1, save("b", 20, 60, 2), save("c", 21, 61, 3)],
    ),
    "version gap": (
        [A1, save("b", 20, 30, 3)],
        [A1, unknown("x", 5), save("b", 20, 30, 3)],
    ),
    "version gap at the start": (
        [save("b", 20, 30, 2)],
        [unknown("x", 30), save("b", 20, 30, 2)],
    ),
    "gap that nothing can fill in time": (
        [A1, save("b", 20, 30, 3), unknown("x", 31)],
        [A1, save("b", 20, 30, 3), unknown("x", 30)],
    ),
    "gap that no condition lets be filled": (
        [A1, save("b", 20, 30, 3), unknown("x", 5, concurrency="first-write")],
        [A1, save("b", 20, 30, 4), unknown("x", 5, concurrency="first-write"), unknown("y", 5, op="delete")],
    ),
    "etag of another version": (
        [A1, save("b", 20, 30, 2, answer_etag=make_etag(3, "b"))],
        [A1, B2],
    ),
    "etag of another command": (
        [A1, save("b", 20, 30, 2, answer_etag=make_etag(2, "a"))],
        [A1, B2],
    ),
    "unknown delete that comes back after it was overwritten": (
        [A1, unknown("d", 12, op="delete"), read(20, 30, None), save("b", 40, 50, 3), read(60, 70, None)],
        [A1, unknown("d", 12, op="delete"), read(20, 30, "a", 1), save("b", 40, 50, 2), read(60, 70, None)],
    ),
    "delete that comes back": (
        [A1, delete("d", 20, 30), save("b", 40, 50, 3), read(60, 70, None)],
        [A1, delete("d", 20, 65), save("b", 40, 50, 2), read(60, 70, None)],
    ),
    "real time, one nanosecond": (
        [A1, read(11, 20, None)],
        [A1, read(10, 20, None)],
    ),
    "real time of two writes, one nanosecond": (
        [save("a", 0, 10, 2), save("b", 11, 20, 1)],
        [save("a", 0, 10, 2), save("b", 10, 20, 1)],
    ),
    "unknown that took effect twice": (
        [A1, unknown("x", 12), read(20, 30, "x", 2), save("b", 40, 50, 3), read(60, 70, "x", 4)],
        [A1, unknown("x", 12), read(20, 30, "x", 2), save("b", 40, 50, 3), read(60, 70, "b", 3)],
    ),
    "unknown that filled two gaps": (
        [A1, unknown("x", 12), save("b", 20, 30, 3), save("c", 40, 50, 5)],
        [A1, unknown("x", 12), save("b", 20, 30, 3), save("c", 40, 50, 4)],
    ),
    "unknown that was gone again": (
        [A1, unknown("x", 12), read(20, 30, "x", 2), save("b", 40, 50, 2)],
        [A1, unknown("x", 12), read(20, 30, "x", 2), save("b", 40, 50, 3)],
    ),
    "unknown before it was called": (
        [A1, read(20, 30, "x", 2), unknown("x", 31)],
        [A1, read(20, 30, "x", 2), unknown("x", 30)],
    ),
    "unknown swap that did not match": (
        [A1, B2, unknown("x", 12, etag=make_etag(1, "a")), read(40, 50, "x", 3)],
        [A1, B2, unknown("x", 12, etag=make_etag(2, "b")), read(40, 50, "x", 3)],
    ),
    "repeat with another version": (
        [A1, B2, save("b", 40, 50, 3)],
        [A1, B2, save("b", 40, 50, 2)],
    ),
    "repeat that is refused for good": (
        [A1, refused("a", 20, 30, error="ExpiredError")],
        [A1, refused("a", 20, 30, error="UnansweredError")],
    ),
    "repeat of what was refused for good": (
        [refused("a", 0, 10, error="ExpiredError"), save("a", 20, 30, 1)],
        [refused("a", 0, 10, error="Unavailable"), save("a", 20, 30, 1)],
    ),
    "refused for good after it took effect": (
        [A1, unknown("x", 12), refused("x", 20, 30, error="ExpiredError"), read(40, 50, "x", 2)],
        [A1, unknown("x", 12), refused("x", 20, 30, error="UnansweredError"), read(40, 50, "x", 2)],
    ),
    "repeat that conflicts with itself": (
        [A1, unknown("b", 12, etag=make_etag(1, "a")), conflict(swap("b", 40, 50, 2, "a"), "b", 2)],
        [A1, unknown("b", 12, etag=make_etag(1, "a")), swap("b", 40, 50, 2, "a"), read(60, 70, "b", 2)],
    ),
    "repeat of a conflict that succeeds": (
        [A1, conflict(first_write("b", 12, 15, 2), "a", 1), delete("d", 20, 30), first_write("b", 40, 50, 3)],
        [A1, conflict(first_write("b", 12, 15, 2), "a", 1), delete("d", 20, 30), first_write("c", 40, 50, 3)],
    ),
    "repeat of a recorded conflict with another answer": (
        [A1, conflict(first_write("c", 12, 15, 2), "a", 1), B2, conflict(first_write("c", 40, 50, 2), "b", 2)],
        [A1, conflict(first_write("c", 12, 15, 2), "a", 1), B2, conflict(first_write("c", 40, 50, 2), "a", 1)],
    ),
    "repeat of a mismatch that took effect": (
        [A1, conflict(save("c", 12, 15, 2, etag="9-x"), "a", 1), save("c", 40, 50, 2, etag="9-x")],
        [
            A1,
            conflict(save("c", 12, 15, 2, etag="9-x"), "a", 1),
            B2,
            conflict(save("c", 40, 50, 2, etag="9-x"), "b", 2),
        ],
    ),
    "repeat of a delete that did nothing": (
        [delete("d", 0, 5, changed=False), save("a", 10, 20, 1), delete("d", 30, 40)],
        [delete("d", 0, 5, changed=False), save("a", 10, 20, 1), delete("d", 30, 40, changed=False)],
    ),
    "false accusation of a reused id": (
        [A1, refused("a", 20, 30, error="IdReusedError:id_reused")],
        [A1, replace(refused("a", 20, 30, error="IdReusedError:id_reused"), value="other")],
    ),
    "first call after the effect": (
        [A1, read(20, 30, "x", 2), unknown("x", 40), save("x", 50, 60, 2)],
        [A1, read(20, 30, "x", 2), unknown("x", 25), save("x", 50, 60, 2)],
    ),
    "refused call, then the effect, then its repeat": (
        [A1, refused("x", 12, 15), read(20, 30, "x", 2), save("x", 50, 60, 2)],
        [A1, unknown("x", 12, 15), read(20, 30, "x", 2), save("x", 50, 60, 2)],
    ),
    "eventual read that is ahead": (
        [A1, read(12, 19, "b", 2, consistency="eventual"), B2],
        [A1, read(12, 20, "b", 2, consistency="eventual"), B2],
    ),
    "eventual read of a state that never was": (
        [A1, B2, read(40, 50, "a", 2, consistency="eventual")],
        [A1, B2, read(40, 50, "a", 1, consistency="eventual")],
    ),
    "eventual read of a refused write": (
        [A1, refused("x", 12, 15), read(40, 50, "x", 2, consistency="eventual")],
        [A1, unknown("x", 12, 15), read(40, 50, "x", 2, consistency="eventual")],
    ),
    "eventual read of another version of an unknown write": (
        [A1, unknown("x", 12), B2, read(40, 50, "x", 3), read(60, 70, "x", 4, consistency="eventual")],
        [A1, unknown("x", 12), B2, read(40, 50, "x", 3), read(60, 70, "b", 2, consistency="eventual")],
    ),
    "eventual absence where there was none": (
        [A1, B2, read(40, 50, None, 2, consistency="eventual")],
        [A1, B2, read(40, 50, None, 0, consistency="eventual")],
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_wrong_is_found(name: str) -> None:
    wrong, _ = PAIRS[name]
    found = check_key("default", "k", wrong)
    assert found.result is Result.VIOLATED
    assert "default/k" in found.explanation


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_right_beside_it_is_accepted(name: str) -> None:
    _, right = PAIRS[name]
    found = check_key("default", "k", right)
    assert found.result is Result.LINEARIZABLE
    assert found.explanation == ""


def test_the_namesakes_are_some() -> None:
    assert make_etag(2, TWIN) == make_etag(2, OTHER_TWIN)


def test_keys_and_stores_are_independent() -> None:
    history = [save("a", 0, 10, 1), save("b", 20, 30, 1, key="other"), save("c", 40, 50, 1, store="other")]
    assert [one.result for one in check(history)] == [Result.LINEARIZABLE] * 3
    wrong = [*history, save("d", 60, 70, 1, key="other")]
    assert [(one.store, one.key, one.result) for one in check(wrong)] == [
        ("default", "k", Result.LINEARIZABLE),
        ("default", "other", Result.VIOLATED),
        ("other", "k", Result.LINEARIZABLE),
    ]


def test_a_key_may_have_a_state_before() -> None:
    history = [read(0, 10, "a", 7), save("b", 20, 30, 8)]
    assert verdict(history) is Result.VIOLATED
    before = State(7, make_etag(7, "a"), b'"a"')
    assert check_key("default", "k", history, initial=before).result is Result.LINEARIZABLE


def test_nothing_is_linearizable() -> None:
    assert list(check([])) == []
    assert verdict([unknown("x", 0)]) is Result.LINEARIZABLE
    assert verdict([refused("x", 0, 5)]) is Result.LINEARIZABLE


def test_what_the_log_settled_has_a_place_after_its_caller_gave_up() -> None:
    late = replace(save("x", 0, None, 2), returned=None)
    assert verdict([late, save("a", 10, 20, 1)]) is Result.LINEARIZABLE
    assert verdict([late, save("a", 10, 20, 2)]) is Result.VIOLATED


def test_a_search_that_is_given_up_says_so() -> None:
    history = [save("a", 0, 10, 1), save("b", 5, 15, 2), read(20, 30, "b", 2)]
    found = check_key("default", "k", history, budget=1)
    assert found.result is Result.UNDECIDED
    assert "default/k: undecided" in found.explanation
    assert check_key("default", "k", history).result is Result.LINEARIZABLE


@pytest.mark.parametrize(
    "operation",
    [
        replace(save("a", 0, 10, 1), version=None),
        replace(save("a", 0, 10, 1), answer_etag=None),
        replace(delete("a", 0, 10), changed=None),
        replace(read(0, 10, None), exists=None),
        replace(read(0, 10, "a", 1), version=None),
        replace(read(0, 10, "a", 1), answer_etag=None),
        replace(conflict(save("a", 0, 10, 1), "b", 1), exists=None),
        replace(conflict(save("a", 0, 10, 1), "b", 1), version=None),
        replace(conflict(save("a", 0, 10, 1), "b", 1), answer_etag=None),
        replace(save("a", 0, 10, 1), op="patch"),
        replace(save("a", 0, 10, 1), returned=-1),
        replace(refused("a", 0, 10), returned=None),
    ],
)
def test_an_answer_that_cannot_be_checked_is_no_answer(operation: Operation) -> None:
    with pytest.raises(HistoryError):
        verdict([operation])


def test_one_id_for_two_commands_that_may_both_have_happened_is_no_history() -> None:
    with pytest.raises(HistoryError, match="several commands"):
        verdict([unknown("a", 0), unknown("a", 20, etag="1-x")])
    history = [unknown("a", 0), refused("a", 20, 30, error="IdReusedError:id_reused", etag="1-x")]
    assert verdict(history) is Result.LINEARIZABLE


def test_the_explanation_names_what_has_no_place_and_why() -> None:
    before = [save(f"s{n}", n * 10, n * 10 + 5, n + 1) for n in range(100)]
    wrong = [*before, read(1100, 1200, "s98", 99), *(read(2000 + n, 3000 + n, "s99", 100) for n in range(50))]
    told = check_key("default", "k", wrong).explanation
    assert "no order of the 151 operations" in told
    assert "The longest order has 100 of them" in told
    assert f"at etag {make_etag(100, 's99')}" in told
    assert "c-r1100-1200: read r1100-1200" in told
    assert "the right version would be 100" in told
    assert "that etag is of [" in told
    assert "c-s98: save s98" in told
    # It stays readable.
    assert len(told.splitlines()) < 40


def test_the_explanation_names_the_refused_call_that_took_effect() -> None:
    told = check_key("default", "k", [A1, refused("x", 20, 30), read(40, 50, "x", 2)]).explanation
    assert "save x" in told
    assert "refused, Unavailable" in told


def test_the_explanation_shows_the_calls_that_contradict_each_other() -> None:
    told = check_key("default", "k", [A1, save("a", 12, 15, 2)]).explanation
    assert "told a different version under the same id" in told
    assert told.count("c-a: save a") == 2


def test_a_reads_id_has_no_meaning() -> None:
    reads = [replace(read(20, 30, "a", 1), id="r"), replace(read(40, 50, "a", 1), id="r")]
    assert verdict([A1, *reads]) is Result.LINEARIZABLE
    assert verdict([A1, B2, *reads]) is Result.VIOLATED
