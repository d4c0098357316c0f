"""What an insert's reply says about its documents. Pure, because a good part of it cannot be provoked at will."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from .driver import BLOCKED_CODES, PERMANENT_CODES

DUPLICATE_KEY: Final = 11000


class Verdict(Enum):
    """What stopped an ordered insert."""

    #: Nothing: all are on the journal of a majority.
    DONE = "done"
    #: The ``_id`` is in the log. Whether the version is taken too cannot be told.
    ID_TAKEN = "id taken"
    #: The (key, version) is in the log. Whether the ``_id`` is there too cannot be told.
    VERSION_TAKEN = "version taken"
    #: The database will never take this document.
    REFUSED = "refused"
    #: Somebody's transaction is in the way of this document, or the time has run out.
    BLOCKED = "blocked"
    #: It cannot be told what is in the log.
    UNKNOWN = "unknown"


class Judgement(NamedTuple):
    """``landed`` documents are on the journal of a majority; ``verdict`` says what became of the next one."""

    landed: int
    verdict: Verdict
    #: For REFUSED: the server's code and its name.
    reason: str = ""


def judge(reply: Mapping[str, Any], sent: int) -> Judgement:
    """Read the reply to an ordered insert of ``sent`` documents with a majority write concern.

    A write error and a write concern error can come together: a duplicate ``_id`` then is in the log of this
    server, but perhaps not for ever, and must not pass as applied.
    """
    unknown = Judgement(0, Verdict.UNKNOWN)
    if not reply.get("ok") or reply.get("writeConcernError") or reply.get("writeConcernErrors"):
        return unknown
    landed = reply.get("n")
    errors = reply.get("writeErrors")
    if not errors:
        return Judgement(sent, Verdict.DONE) if landed == sent else unknown
    error = errors[0]
    # An ordered insert stops at its first error. Anything else is a reply that we do not understand.
    if len(errors) != 1 or error.get("index") != landed or landed >= sent:
        return unknown
    code = error.get("code")
    if code == DUPLICATE_KEY:
        fields = list(error.get("keyPattern") or ())
        if fields == ["_id"]:
            return Judgement(landed, Verdict.ID_TAKEN)
        # The second one is the index on what begins a key.
        if fields in (["key", "version"], ["key"]):
            return Judgement(landed, Verdict.VERSION_TAKEN)
        if not fields:
            return unknown
        return Judgement(landed, Verdict.REFUSED, f"a unique index on {fields} that is not Holdfast's")
    if code in BLOCKED_CODES:
        return Judgement(landed, Verdict.BLOCKED)
    if code in PERMANENT_CODES:
        return Judgement(landed, Verdict.REFUSED, f"code {code}")
    return unknown
