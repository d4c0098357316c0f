"""Replies to inserts, as servers gave them, and what they mean."""

from typing import Any

import pytest

from holdfast.stores.verdicts import Judgement, Verdict, judge

UNKNOWN = Judgement(0, Verdict.UNKNOWN)

# As MongoDB 6.0 writes them; times and signatures left out.
TIMED_OUT = {
    "code": 64,
    "codeName": "WriteConcernFailed",
    "errmsg": "waiting for replication timed out",
    "errInfo": {
        "wtimeout": True,
        "writeConcern": {"w": "majority", "j": True, "wtimeout": 270, "provenance": "clientSupplied"},
    },
}


def duplicate(index: int, **key: Any) -> dict[str, Any]:
    return {
        "index": index,
        "code": 11000,
        "errmsg": "E11000 duplicate key error collection: x.default.events index: …",
        "keyPattern": dict.fromkeys(key, 1),
        "keyValue": key,
    }


def same_id(index: int) -> dict[str, Any]:
    return duplicate(index, _id={"c": "1", "n": 0})


def same_version(index: int) -> dict[str, Any]:
    return duplicate(index, key="k", version=1)


def test_all_landed() -> None:
    """As many as were sent, and nothing else to say."""
    assert judge({"n": 3, "ok": 1.0}, 3) == (3, Verdict.DONE, "")


@pytest.mark.parametrize("landed", [0, 1, 2])
def test_duplicates(landed: int) -> None:
    """The index that was violated says which rule was broken; what stood before it has landed."""
    assert judge({"n": landed, "writeErrors": [same_id(landed)], "ok": 1.0}, 3) == (landed, Verdict.ID_TAKEN, "")
    assert judge({"n": landed, "writeErrors": [same_version(landed)], "ok": 1.0}, 3) == (
        landed,
        Verdict.VERSION_TAKEN,
        "",
    )


@pytest.mark.parametrize("error", [same_id(1), same_version(1)])
def test_a_duplicate_without_a_majority(error: dict[str, Any]) -> None:
    """The document that is in the way may be rolled back yet, and so may what landed before it."""
    assert judge({"n": 1, "writeErrors": [error], "writeConcernError": TIMED_OUT, "ok": 1.0}, 3) == UNKNOWN


@pytest.mark.parametrize(
    "reply",
    [
        {"n": 3, "writeConcernError": TIMED_OUT, "ok": 1.0},
        {"n": 3, "writeConcernErrors": [TIMED_OUT], "ok": 1.0},
        {"n": 2, "ok": 1.0},
        {"ok": 1.0},
        {"n": 3, "ok": 0.0},
        {"n": 3},
        {},
        {"n": 1, "writeErrors": [same_id(0)], "ok": 1.0},
        {"n": 0, "writeErrors": [same_id(1)], "ok": 1.0},
        {"n": 3, "writeErrors": [same_id(3)], "ok": 1.0},
        {"n": 0, "writeErrors": [same_id(0), same_id(1)], "ok": 1.0},
        {"n": 0, "writeErrors": [{"index": 0, "code": 11602, "errmsg": "interrupted"}], "ok": 1.0},
        {
            "n": 0,
            "writeErrors": [{"index": 0, "code": 50, "errmsg": "exceeded time limit"}],
            "writeConcernError": {"code": 50},
            "ok": 1.0,
        },
        {"n": 0, "writeErrors": [{"index": 0, "errmsg": "what"}], "ok": 1.0},
        {"n": 0, "writeErrors": [{"index": 0, "code": 11000, "errmsg": "which index?"}], "ok": 1.0},
    ],
    ids=repr,
)
def test_what_leaves_it_open(reply: dict[str, Any]) -> None:
    """No majority, no clear end, or a reply that an ordered insert cannot have: nobody knows."""
    assert judge(reply, 3) == UNKNOWN


@pytest.mark.parametrize("code", [2, 121, 10334])
def test_documents_that_are_never_taken(code: int) -> None:
    """Bad documents are told from bad times."""
    reply = {"n": 1, "writeErrors": [{"index": 1, "code": code, "errmsg": "…"}], "ok": 1.0}
    assert judge(reply, 3) == (1, Verdict.REFUSED, f"code {code}")


def test_an_index_that_is_not_ours() -> None:
    """A duplicate in another index is neither a repeat nor a version conflict."""
    judgement = judge({"n": 0, "writeErrors": [duplicate(0, **{"value.email": "x"})], "ok": 1.0}, 3)
    assert judgement.verdict is Verdict.REFUSED
    assert "value.email" in judgement.reason
