"""The sequential model says what the table in docs/protocol.md says, and what the product's own decision says."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.commands import canonical
from chaos.history import Outcome
from chaos.model import NEVER, Answer, State, apply
from holdfast.events import DeleteCommand, Event, SaveCommand, make_etag
from holdfast.worker.decide import NEVER as NO_HEAD
from holdfast.worker.decide import Rejection, answer_to, decide, head_of


class Asked(NamedTuple):
    id: str = "i"
    op: str = "save"
    value: bytes = b'"new"'
    etag: str | None = None
    concurrency: str = "last-write"
    demands: bool | None = None


DELETED = State(7, None, None)
THERE = State(7, make_etag(7, "w"), b'"old"')
SAVED = State(8, make_etag(8, "i"), b'"new"')
GONE = State(8, None, None)

#: Of a state and what was asked: the outcome, the state from then on, and whether there is a new version.
TABLE = [
    (NEVER, Asked(), Outcome.OK, State(1, make_etag(1, "i"), b'"new"'), True),
    (DELETED, Asked(), Outcome.OK, SAVED, True),
    (THERE, Asked(), Outcome.OK, SAVED, True),
    (DELETED, Asked(concurrency="first-write"), Outcome.OK, SAVED, True),
    (THERE, Asked(concurrency="first-write"), Outcome.CONFLICT, THERE, None),
    (DELETED, Asked(etag=THERE.etag), Outcome.CONFLICT, DELETED, None),
    (DELETED, Asked(etag=THERE.etag, concurrency="first-write"), Outcome.CONFLICT, DELETED, None),
    (THERE, Asked(etag=THERE.etag), Outcome.OK, SAVED, True),
    (THERE, Asked(etag=THERE.etag, concurrency="first-write"), Outcome.OK, SAVED, True),
    (THERE, Asked(etag=make_etag(6, "w")), Outcome.CONFLICT, THERE, None),
    (THERE, Asked(etag=""), Outcome.CONFLICT, THERE, None),
    (NEVER, Asked(op="delete"), Outcome.OK, NEVER, False),
    (DELETED, Asked(op="delete"), Outcome.OK, DELETED, False),
    (THERE, Asked(op="delete"), Outcome.OK, GONE, True),
    (DELETED, Asked(op="delete", etag=THERE.etag), Outcome.CONFLICT, DELETED, None),
    (THERE, Asked(op="delete", etag=THERE.etag), Outcome.OK, GONE, True),
    (THERE, Asked(op="delete", etag=make_etag(7, "x")), Outcome.CONFLICT, THERE, None),
    (NEVER, Asked(op="read"), Outcome.OK, NEVER, None),
    (DELETED, Asked(op="read"), Outcome.OK, DELETED, None),
    (THERE, Asked(op="read"), Outcome.OK, THERE, None),
    (NEVER, Asked(op="check", demands=False), Outcome.OK, NEVER, None),
    (DELETED, Asked(op="check", demands=True), Outcome.CONFLICT, DELETED, None),
    (DELETED, Asked(op="check", etag=THERE.etag), Outcome.CONFLICT, DELETED, None),
    (THERE, Asked(op="check", demands=True), Outcome.OK, THERE, None),
    (THERE, Asked(op="check", demands=False), Outcome.CONFLICT, THERE, None),
    (THERE, Asked(op="check", etag=THERE.etag), Outcome.OK, THERE, None),
    (THERE, Asked(op="check", etag=make_etag(7, "x")), Outcome.CONFLICT, THERE, None),
]


@pytest.mark.parametrize(("state", "asked", "outcome", "after", "changed"), TABLE)
def test_the_table(state: State, asked: Asked, outcome: Outcome, after: State, changed: bool | None) -> None:
    # What is answered is the state that was met by what changed nothing, and else the one that was made.
    assert apply(state, asked) == (Answer(outcome, after.etag is not None, *after, changed), after)


def test_what_the_model_does_not_know_is_no_operation() -> None:
    with pytest.raises(ValueError, match="patch"):
        apply(NEVER, Asked(op="patch"))


#: Few enough of each that conditions are often met.
WRITES = st.lists(
    st.tuples(
        st.sampled_from(["save", "delete"]),
        st.sampled_from([None, "now", "before", "never", ""]),
        st.sampled_from(["first-write", "last-write"]),
    ),
    max_size=20,
)


@given(WRITES)
def test_the_model_is_what_the_product_decides(writes: list[tuple[str, str | None, str]]) -> None:
    state, before, head = NEVER, NEVER, NO_HEAD
    for number, (op, condition, concurrency) in enumerate(writes):
        etag = (
            {"now": state.etag, "before": before.etag, "never": "9-x", "": ""}[condition]
            if condition is not None
            else None
        )
        asked = Asked(f"i{number}", op, canonical(number), etag, concurrency)
        answer, after = apply(state, asked)
        common = {"id": asked.id, "key": "k", "etag": etag}
        command = (
            SaveCommand.model_validate({"op": "save", "value": number, "concurrency": concurrency, **common})
            if op == "save"
            else DeleteCommand.model_validate({"op": "delete", **common})
        )
        decided = decide(command, head, now=0, author=None, digest=b"")
        told = decided.answer if isinstance(decided, Rejection) else answer_to(decided)
        assert told["status"] == answer.outcome.value
        assert (told["exists"], told["version"]) == (answer.exists, answer.version)
        assert told.get("changed") == answer.changed
        if answer.outcome is Outcome.CONFLICT:
            assert told["error"]["actual"] == answer.etag
        else:
            assert told["etag"] == answer.etag
        if isinstance(decided, Event):
            head = head_of(decided)
            before = state
        assert (head.version, head.exists) == (after.version, after.etag is not None)
        state = after
