"""The only module that knows which MongoDB driver is used.

Everything goes through ``command``, which Motor and PyMongo's own asyncio client have alike, because the replies
are needed as the server gave them: an insert's write errors and its write concern error stand side by side there.
A command sent that way is never tried again by the driver.
"""

import inspect
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from bson import CodecOptions, Timestamp
from bson.errors import BSONError, InvalidDocument
from bson.raw_bson import RawBSONDocument
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import WriteConcern
from pymongo.errors import (
    ConfigurationError,
    InvalidOperation,
    InvalidURI,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)

from ..events import ClosedError, StoreConfigError, StoreError, StoreUnavailable, mask_url
from ..events.urls import is_ambiguous
from ..reasons import reason_of

APP_NAME: Final = "holdfast"
DEFAULT_DATABASE: Final = "holdfast"

#: Unauthorized, AuthenticationFailed, and the same from Atlas.
ACCESS_CODES: Final = frozenset({13, 18, 8000})
#: The command itself is wrong, or a document in it, and trying again is of no use. The server finds these before it
#: writes, so that nothing of the document in question is in the log: BadValue, FailedToParse, TypeMismatch,
#: IllegalOperation, NamespaceNotFound, CommandNotFound, InvalidOptions, InvalidNamespace, IndexOptionsConflict,
#: IndexKeySpecsConflict, CommandNotSupported, DocumentValidationFailure, CommandNotSupportedOnView,
#: BSONObjectTooLarge, KeyTooLong, and unknown stages and fields.
PERMANENT_CODES: Final = frozenset(
    {2, 9, 14, 20, 26, 59, 72, 73, 85, 86, 115, 121, 166, 10334, 17280, 40324, 40415},
)

_NO_SUCH_TRANSACTION: Final = 251
#: What a command says that somebody's transaction is in the way of, or that has run out of its time: LockTimeout,
#: MaxTimeMSExpired, WriteConflict; and what it says if its own transaction was given up by the server.
BLOCKED_CODES: Final = frozenset({24, 50, 112, _NO_SUCH_TRANSACTION})

#: InvalidOptions. To a read behind a fence it says that the fence is in the future of the server's clock.
_IN_THE_FUTURE: Final = 72

#: What the driver raises: errors of its own, and, before it sends anything, those of what cannot be BSON.
_FAILURES: Final = (PyMongoError, BSONError, OverflowError, UnicodeEncodeError)

_RAW: Final = CodecOptions(document_class=RawBSONDocument)


#: Of Motor or of PyMongo's own client.
Session = Any


class Driver:
    """A connection pool to one database of one deployment. Belongs to the event loop that first uses it.

    :raises StoreConfigError: if the URL cannot be used.
    """

    def __init__(self, url: str, database: str | None, *, timeout_seconds: float) -> None:
        self.place = mask_url(url)
        millis = round(timeout_seconds * 1000)
        selection = min(millis, 4000)
        if is_ambiguous(url):
            raise _not_usable(self.place, "more than one @")
        try:
            with warnings.catch_warnings():
                # The driver warns of an option that it does not know, or whose value it does not like, and leaves it
                # out. With options such as tls that is no way to go on.
                warnings.simplefilter("error", UserWarning)
                self._client: AsyncIOMotorClient[Any] = AsyncIOMotorClient(
                    url,
                    appname=APP_NAME,
                    # The engine looks ids up before it tries again; a driver that tries behind its back hides that.
                    retryWrites=False,
                    retryReads=False,
                    serverSelectionTimeoutMS=selection,
                    connectTimeoutMS=selection,
                    waitQueueTimeoutMS=selection,
                    # After an error the driver holds a server for unknown until it has heard of it again, and the
                    # server answers as often as this if nothing has changed for it. The default is ten seconds.
                    heartbeatFrequencyMS=1000,
                    # The server is told to give up first (maxTimeMS), because then it says so.
                    socketTimeoutMS=millis + 1000,
                )
            name = database or self._client.get_default_database(DEFAULT_DATABASE).name
            self._database = self._client[name]
        except (InvalidURI, ConfigurationError, ValueError, TypeError, UserWarning) as error:
            # Not its message: it quotes the URL's parts, and one of them may be the password.
            raise _not_usable(self.place, type(error).__name__) from None
        except OSError as error:
            reason = reason_of(error) or type(error).__name__
            raise StoreConfigError(f"MongoDB at {self.place} cannot be connected to: {reason}") from None
        self.max_time_ms = millis

    async def command(
        self, command: dict[str, Any], *, tolerate: Sequence[int] = (), session: Session | None = None
    ) -> dict[str, Any]:
        """Run a command on the primary and give its reply, as the server gave it; a failure too, if its code is one
        of those to tolerate.

        :param session: one with a transaction, which the command is to be part of.
        :raises Blocked: if it ran out of time, or a transaction is in the way.
        :raises StoreUnavailable: if there is no answer, or one that leaves open what happened.
        :raises StoreError: if the command was refused for good.
        """
        command.setdefault("maxTimeMS", self.max_time_ms)
        try:
            reply: dict[str, Any] = await self._database.command(command, allowable_errors=tolerate, session=session)
        except _FAILURES as error:
            raise self._translate(error, command) from None
        return reply

    async def raw_command(self, command: dict[str, Any], *, tolerate: Sequence[int] = (), session: Any = None) -> bytes:
        """As ``command``, but the reply as BSON.

        :param session: of ``session``: a cursor can be read from only in that in which it was made.
        """
        command.setdefault("maxTimeMS", self.max_time_ms)
        try:
            reply: RawBSONDocument = await self._database.command(
                command, codec_options=_RAW, allowable_errors=tolerate, session=session
            )
        except _FAILURES as error:
            raise self._translate(error, command) from None
        return bytes(reply.raw)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A session that lasts over several commands.

        :raises StoreUnavailable: if the server cannot be reached.
        """
        try:
            # Motor makes it by a coroutine, PyMongo's own client at once.
            made: Any = self._client.start_session()
            session: Session = await made if inspect.isawaitable(made) else made
        except _FAILURES as error:
            raise self._translate(error, {}) from None
        try:
            yield session
        finally:
            ended = session.end_session()
            if inspect.isawaitable(ended):
                await ended

    @asynccontextmanager
    async def transaction(self, write_concern: Mapping[str, Any]) -> AsyncIterator[Session]:
        """A session with a transaction that has begun. What is not committed in it is aborted at its end.

        :raises StoreUnavailable: if the server cannot be reached.
        """
        async with self.session() as session:
            session.start_transaction(write_concern=WriteConcern(**write_concern), max_commit_time_ms=self.max_time_ms)
            yield session

    async def commit(self, session: Session) -> Timestamp:
        """Commit the session's transaction. Gives back its time in the log.

        The driver tries once more if the answer is lost, which the server knows from a second transaction.

        :raises Blocked: if the server has given the transaction up.
        :raises StoreUnavailable: if it is not known whether it is committed on a majority.
        """
        try:
            await session.commit_transaction()
        except OperationFailure as error:
            name = code_name(error.code, error.details)
            if error.code == _NO_SUCH_TRANSACTION and error.has_error_label("TransientTransactionError"):
                raise Blocked(f"MongoDB at {self.place} had given up a transaction: {name}") from None
            raise StoreUnavailable(f"MongoDB at {self.place} has not confirmed a transaction: {name}") from None
        except _FAILURES as error:
            raise self._translate(error, {}) from None
        time: Timestamp = session.operation_time
        return time

    async def close(self) -> None:
        # Motor closes at once, PyMongo's own client gives something to wait for.
        client: Any = self._client
        closed = client.close()
        if inspect.isawaitable(closed):
            await closed

    def _translate(self, error: Exception, command: Mapping[str, Any]) -> StoreError | ClosedError:
        if isinstance(error, InvalidOperation):
            return ClosedError(f"the store at {self.place} was closed")
        if isinstance(error, InvalidDocument | OverflowError | UnicodeEncodeError):
            return StoreError(f"MongoDB at {self.place} was not asked: the command is too large or cannot be BSON")
        if isinstance(error, NotPrimaryError):
            details = error.details if isinstance(error.details, Mapping) else {}
            name = code_name(details.get("code"), details)
            return StoreUnavailable(f"MongoDB at {self.place} is not the primary, or is no longer: {name}")
        if not isinstance(error, OperationFailure):
            # The first part tells what happened where; the rest is the driver's settings and state.
            what = str(error).partition(" (configured timeouts")[0].partition(", Timeout:")[0]
            return StoreUnavailable(f"MongoDB at {self.place} did not answer: {type(error).__name__}: {what}")
        name = code_name(error.code, error.details)
        if error.code in ACCESS_CODES:
            return AccessRefused(
                f"MongoDB at {self.place} refused access ({name}): check the user, its password and its rights; "
                f"it needs readWrite and dbAdmin on the database {self._database.name!r}"
            )
        # Not the server's message: it may quote the command, and with it what users have stored.
        early = error.code == _IN_THE_FUTURE and "afterClusterTime" in command.get("readConcern", {})
        if error.code in PERMANENT_CODES and not early:
            return StoreError(f"MongoDB at {self.place} refused the command: {name}")
        if error.code in BLOCKED_CODES:
            return Blocked(f"MongoDB at {self.place} gave up: {name}")
        return StoreUnavailable(f"MongoDB at {self.place} could not do it now: {name}")


def _not_usable(place: str, why: str) -> StoreConfigError:
    return StoreConfigError(
        f"not a usable MongoDB URL: {place} ({why}); see that special characters in user and password are "
        "percent-encoded, and that the options' names and values are right"
    )


class Blocked(StoreUnavailable):
    """The command ran out of its time, or met a transaction that is open; it is over, whatever it did."""


class AccessRefused(StoreUnavailable):
    """The user may not do that. At the start it is a fault of the configuration; later it is like an outage: what
    is in the queue waits until somebody has given the rights back.
    """


def code_name(code: int | None, details: Mapping[str, Any] | None) -> str:
    """A server error's name and number."""
    name = (details or {}).get("codeName")
    return f"{name}, code {code}" if name else f"code {code}"
