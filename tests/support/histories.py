"""Histories written by hand, and made at random."""

from dataclasses import replace
from typing import Any

from chaos.history import Operation, Outcome
from holdfast.events import make_etag

OK, CONFLICT, REFUSED, UNKNOWN = Outcome.OK, Outcome.CONFLICT, Outcome.REFUSED, Outcome.UNKNOWN


def save(
    id: str,  # noqa: A002 - the protocol's word
    begin: int,
    end: int | None,
    version: int | None = None,
    *,
    outcome: Outcome = OK,
    value: Any = None,
    **given: Any,
) -> Operation:
    """A save of the value ``id``, told ``ok`` and its version unless something else is given."""
    if outcome is OK:
        assert version is not None
        given.setdefault("answer_etag", make_etag(version, id))
    return _operation(id, "save", begin, end, outcome, version=version, value=id if value is None else value, **given)


def unknown(id: str, begin: int, end: int | None = None, *, op: str = "save", **given: Any) -> Operation:  # noqa: A002
    """A save or delete of which nobody knows what became of it."""
    return _operation(id, op, begin, end, UNKNOWN, value=id if op == "save" else None, **given)


def refused(id: str, begin: int, end: int, *, op: str = "save", error: str = "Unavailable", **given: Any) -> Operation:  # noqa: A002
    """A save or delete that was certainly not applied."""
    return _operation(id, op, begin, end, REFUSED, value=id if op == "save" else None, error=error, **given)


def delete(id: str, begin: int, end: int | None, *, changed: bool = True, **given: Any) -> Operation:  # noqa: A002
    """A delete that was told ``ok``."""
    return _operation(id, "delete", begin, end, OK, changed=changed, **given)


def read(begin: int, end: int, of: str | None, version: int | None = None, **given: Any) -> Operation:
    """A read that was told of the state that the save ``of`` made at a version; None: that the key is absent."""
    if of is not None:
        assert version is not None
        given = {"answer_etag": make_etag(version, of), "answer_value": of, **given}
    return _operation(f"r{begin}-{end}", "read", begin, end, OK, exists=of is not None, version=version, **given)


def conflict(of: Operation, winner: str | None, version: int) -> Operation:
    """The same call, told that it met the state that the save ``winner`` made; None: that the key is absent."""
    etag = None if winner is None else make_etag(version, winner)
    code = (
        "etag_mismatch" if winner is not None and of.etag is not None else "exists" if winner is not None else "absent"
    )
    return replace(
        of,
        outcome=CONFLICT,
        exists=winner is not None,
        version=version,
        answer_etag=etag,
        answer_value=None,
        changed=None,
        error=f"ConflictError:{code}",
    )


def _operation(
    id: str,  # noqa: A002
    op: str,
    begin: int,
    end: int | None,
    outcome: Outcome,
    **given: Any,
) -> Operation:
    return Operation(
        **{"client": f"c-{id}", "key": "k", **given},
        id=id,
        op=op,
        invoked=begin,
        returned=end,
        outcome=outcome,
    )
