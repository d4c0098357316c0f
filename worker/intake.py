"""The intake: from a message's bytes to requests on the right lanes. It reads and sorts; it decides nothing."""

import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import uuid_utils

from ..events import (
    BadCommand,
    ChangesCommand,
    DeleteCommand,
    DescribeCommand,
    HistoryCommand,
    InvalidError,
    KeyCommand,
    KeysCommand,
    Mutation,
    PatchCommand,
    PurgeCommand,
    QueryCommand,
    ReadCommand,
    RestoreCommand,
    SaveCommand,
    Status,
    TooLargeError,
    TransactCommand,
    WatchCommand,
    decode_commands,
    digest_of,
    digest_of_transaction,
    partition_of,
)
from ..events.codec import Decoded, parse_json
from ..events.outbox import messages_size
from ..events.records import value_text
from ..events.replies import error
from ..events.topology import SWEEP_HEADER
from ..stores import KeyScope, unsupported
from ..stores.scopes import EVERYTHING
from .access import Access
from .away import AwayLane
from .batch import Request
from .delivery import Delivery
from .feed import NO_OUTBOX, OutboxConfig
from .lane import Lane
from .outbox import Outbox, Wire
from .sources import RESTORE_BYTES
from .sweep import requests_of
from .transaction import keys_of
from .watching import Watched

log = logging.getLogger(__name__)

#: Whether a key may be read; None if every one may.
Readable = Callable[[str], bool] | None

#: Writes that may carry messages.
Carrying = SaveCommand | DeleteCommand | PatchCommand | TransactCommand

#: Why nothing is done with a message whose answer would go to one of these.
RESERVED_ADDRESS = "reply_to names one of Holdfast's own queues"


@dataclass(slots=True)
class Elsewhere:
    """Commands that belong to another partition, as they came."""

    delivery: Delivery
    #: By partition, in order.
    parts: dict[int, list[Any]]


def carrying_of(command: Mutation | TransactCommand) -> Carrying | None:
    """The command, if it carries messages."""
    if type(command) is RestoreCommand or type(command) is PurgeCommand:
        return None
    return command if command.messages else None


def decode(delivery: Delivery) -> Decoded | InvalidError:
    """Read a message's body, or say why it cannot be read. Touches nothing else, and so may be done in a thread."""
    try:
        return decode_commands(delivery.body, message_id=delivery.message_id or str(uuid_utils.uuid7()))
    except InvalidError as fault:
        return fault


class Intake:
    """Takes messages of partition queues."""

    def __init__(
        self,
        *,
        lanes: Mapping[str, Lane | AwayLane],
        outbox: Outbox,
        partitions: int,
        max_value_bytes: int,
        describe: Callable[[], Wire],
        forward: Callable[[Elsewhere], None],
        history: Callable[[Delivery, HistoryCommand | ReadCommand], None],
        keys: Callable[[Delivery, KeysCommand, KeyScope, Readable], None],
        query: Callable[[Delivery, QueryCommand, KeyScope], None],
        access: Access | None = None,
        lacking: Mapping[str, Collection[str]] | None = None,
        watch: Callable[[Delivery, Watched], None],
        outbox_rules: OutboxConfig = NO_OUTBOX,
        account: str | None = None,
    ) -> None:
        """Make an intake.

        :param lanes: of each store.
        :param forward: takes commands that belong elsewhere; it answers for them.
        :param history: takes what is about the past, and too slow for the commit loop; it answers for it.
        :param keys: likewise, with the keys that the sender may know of, and which of these he may read.
        :param query: likewise; it is told which keys the sender may see.
        :param watch: the same, of those who follow the change feed.
        :param outbox_rules: where messages may be published that writes carry.
        :param access: who may do what; None lets everybody do everything.
        :param lacking: of each store that cannot serve all operations, those that it cannot.
        :param account: the workers' user, who alone may tell which keys have expired.
        """
        self._lanes = lanes
        self._outbox = outbox
        self._partitions = partitions
        self._max_value_bytes = max_value_bytes
        self._describe = describe
        self._forward = forward
        self._history = history
        self._keys = keys
        self._query = query
        self._watch = watch
        self._outbox_rules = outbox_rules
        self._access = access
        self._lacking = lacking or {}
        self._account = account

    def take(self, delivery: Delivery, partition: int) -> None:
        """Take one message from the queue of a partition. Its body may have been read before."""
        outbox, letters = self._outbox, _Letters(delivery)
        if delivery.unreadable is not None:
            outbox.bury_whole(delivery, reason="bad_properties", detail=delivery.unreadable)
            return
        if delivery.reply_address_is_reserved:
            outbox.bury_whole(delivery, reason="bad_reply_to", detail=RESERVED_ADDRESS)
            return
        if SWEEP_HEADER in delivery.headers:
            self._take_sweep(delivery)
            return
        # Let go of it, so that what came of a large message does not stay as long as its commands are in hand.
        decoded, delivery.decoded = delivery.decoded or decode(delivery), None
        if isinstance(decoded, InvalidError):
            outbox.expect(delivery, 1)
            self._refuse(letters, None, decoded, None)
            letters.send(outbox)
            return
        delivery.is_array = decoded.is_array
        outbox.expect(delivery, len(decoded.commands))
        access, author = self._access, delivery.author
        requests: dict[str, list[Request]] = {}
        elsewhere: list[Any] = []
        for number, command in enumerate(decoded.commands):
            if type(command) is BadCommand:
                self._refuse(letters, command.id, command.error, command.raw)
                continue
            if type(command) is DescribeCommand:
                outbox.answer(delivery, {"id": command.id, **self._describe()})
                continue
            if type(command) is QueryCommand:
                self._take_query(letters, command)
                continue
            if type(command) is WatchCommand or type(command) is ChangesCommand:
                self._take_watch(letters, delivery, command)
                continue
            if type(command) is KeysCommand:
                self._take_keys(letters, command)
                continue
            store = command.store
            # What was is told to whom a history is told.
            is_past = type(command) is HistoryCommand or (
                type(command) is ReadCommand and not (command.at_version is None and command.at_time is None)
            )
            op = "history" if is_past else command.op
            # Before anything else is done with it, so that nothing can be learned from how long it takes.
            if access is not None and (denial := access.judge(author, command, op)) is not None:
                self._refuse_with(letters, command.id, denial, command.model_dump(exclude_unset=True))
                continue
            if not delivery.hopped and partition_of(store, command.key, self._partitions) != partition:
                elsewhere.append((partition_of(store, command.key, self._partitions), number))
                continue
            if store not in self._lanes:
                self._refuse_store(letters, command)
                continue
            if self._lacking and command.op in self._lacking.get(store, ()):
                answer = unsupported(store, f"the operation {command.op!r}")
                self._refuse_with(letters, command.id, answer, command.model_dump(exclude_unset=True))
                continue
            if type(command) is HistoryCommand or (is_past and type(command) is ReadCommand):
                self._history(delivery, command)
                continue
            request = Request(
                command,
                author=author,
                redelivered=delivery.redelivered,
                suspect=delivery.suspect,
                apart=delivery.apart,
                origin=delivery,
            )
            if type(command) is ReadCommand:
                requests.setdefault(store, []).append(request)
                continue
            carrying = carrying_of(command)
            if carrying is not None:
                refused = self._refusal_of_messages(author, carrying)
                if refused is not None:
                    self._refuse_with(letters, command.id, refused, command.model_dump(exclude_unset=True))
                    continue
            if type(command) is TransactCommand:
                wrong = self._prepare_transaction(request, command)
                if wrong is not None:
                    self._refuse(letters, command.id, wrong, command.model_dump(exclude_unset=True))
                    continue
            else:
                if access is not None and not access.allows(author, "read", store, command.key):
                    request.blind = True
                    # What is not going to be told is not looked up, so that the time it takes tells nothing either.
                    request.command = command.model_copy(update={"return_current": False})
                request.digest, request.size = digest_of(command)
                if request.size > self._max_value_bytes:
                    too_large = TooLargeError(
                        f"is limited to {self._max_value_bytes} bytes of JSON, not {request.size}",
                        field="patch" if type(command) is PatchCommand else "value",
                    )
                    self._refuse(letters, command.id, too_large, command.model_dump(exclude_unset=True))
                    continue
                if type(command) is RestoreCommand:
                    # It is going to hold a value, and nobody knows yet how large that is.
                    request.size = RESTORE_BYTES
                elif carrying is not None:
                    request.size += messages_size(carrying.messages or ())
            requests.setdefault(store, []).append(request)
        for store, group in requests.items():
            self._lanes[store].add(group)
        letters.send(outbox)
        if elsewhere:
            self._send_elsewhere(delivery, elsewhere)

    def _take_query(self, letters: "_Letters", command: QueryCommand) -> None:
        """A query is about no one key: wherever it lands, it is answered."""
        delivery, store = letters.delivery, command.store
        scope = EVERYTHING
        if self._access is not None:
            # Values are shown by it, and where they match, something is told of them: that is reading.
            scope = self._access.scope(delivery.author, ("query", "read"), store) & KeyScope.of(
                prefixes=[command.prefix]
            )
            if not scope:
                denial = self._access.denial(delivery.author, "query", store, f"{command.prefix}*")
                self._refuse_with(letters, command.id, denial, command.model_dump(exclude_unset=True))
                return
        if store not in self._lanes:
            self._refuse_store(letters, command)
            return
        self._query(delivery, command, scope)

    def _prepare_transaction(self, request: Request, command: TransactCommand) -> InvalidError | None:
        """Complete the request of a transaction, or say what is wrong with it."""
        sizes = [len(value_text(one.value)) if one.op == "save" else 0 for one in command.operations]
        for number, size in enumerate(sizes):
            if size > self._max_value_bytes:
                message = f"is limited to {self._max_value_bytes} bytes of JSON, not {size}"
                return TooLargeError(message, field=f"operations[{number}].value")
        request.keys = keys_of(command)
        request.digest, request.size = digest_of_transaction(command), sum(sizes)
        if command.messages:
            request.size += messages_size(command.messages)
        if self._access is not None:
            request.hidden = self._access.hidden(request.author, command)
            request.blind = bool(request.hidden)
        return None

    def _take_watch(self, letters: "_Letters", delivery: Delivery, command: Watched) -> None:
        """Any worker can answer these, whatever the partition: they are read behind a fence."""
        access, store = self._access, command.store
        allowed = True
        if access is not None and isinstance(command, WatchCommand):
            allowed = access.allows_watch(delivery.author, store, command.prefix, below=True)
        elif access is not None and isinstance(command, ChangesCommand):
            allowed = access.allows_watch(delivery.author, store, command.key)
        if access is not None and not allowed:
            what = f"{command.prefix}*" if isinstance(command, WatchCommand) else command.key
            denial = access.denial(delivery.author, "watch", store, what)
            self._refuse_with(letters, command.id, denial, command.model_dump(exclude_unset=True))
        elif store not in self._lanes:
            answer = error(Status.UNKNOWN_STORE, "unknown_store", f"no store {store!r} is configured")
            self._refuse_with(letters, command.id, answer, command.model_dump(exclude_unset=True))
        else:
            self._watch(delivery, command)

    def _refusal_of_messages(self, author: str | None, command: Carrying) -> Wire | None:
        """Why a write may not carry its messages; None if it may. Those of a transaction are of its first key."""
        access = self._access
        if access is not None and not access.allows(author, "publish", command.store, command.key):
            return access.denial(author, "publish", command.store, command.key)
        for message in command.messages or ():
            objection = self._outbox_rules.objection(message)
            if objection is not None:
                return error(Status.DENIED, "denied", objection, field="messages")
        return None

    def _take_keys(self, letters: "_Letters", command: KeysCommand) -> None:
        """So is a list of keys. What is told of each beyond its name takes the right to read it."""
        access, author, store = self._access, letters.delivery.author, command.store
        scope, readable = KeyScope.of(prefixes=[command.prefix]), None
        if access is not None:
            scope &= access.scope(author, ("keys",), store)

            def readable(key: str) -> bool:
                return access.allows(author, "read", store, key)

            if not scope:
                denial = access.denial(author, "keys", store, f"{command.prefix}*")
                self._refuse_with(letters, command.id, denial, command.model_dump(exclude_unset=True))
                return
        if store not in self._lanes:
            self._refuse_store(letters, command)
        else:
            self._keys(letters.delivery, command, scope, readable)

    def _refuse_store(
        self, letters: "_Letters", command: KeyCommand | TransactCommand | KeysCommand | QueryCommand
    ) -> None:
        answer = error(Status.UNKNOWN_STORE, "unknown_store", f"no store {command.store!r} is configured")
        self._refuse_with(letters, command.id, answer, command.model_dump(exclude_unset=True))

    def _take_sweep(self, delivery: Delivery) -> None:
        """Take keys that are to be looked at. They are no commands of anybody, so that there is nobody to be told."""
        store = str(delivery.headers[SWEEP_HEADER])
        lane = self._lanes.get(store)
        requests: list[Request] = []
        if delivery.author is None or delivery.author != self._account:
            log.warning("a message of another account names expired keys: it is passed over")
        elif lane is not None:
            try:
                requests = requests_of(delivery, store)
            except InvalidError as fault:
                log.warning("a message that names expired keys is passed over: %s", fault)
        delivery.reply_to = None
        self._outbox.expect(delivery, len(requests))
        if lane is not None and requests:
            lane.add(requests)

    def _send_elsewhere(self, delivery: Delivery, places: list[tuple[int, int]]) -> None:
        data = parse_json(delivery.body)
        items = data if delivery.is_array else [data]
        parts: dict[int, list[Any]] = {}
        for partition, number in places:
            parts.setdefault(partition, []).append(items[number])
        self._forward(Elsewhere(delivery, parts))

    def _refuse(self, letters: "_Letters", command_id: str | None, fault: InvalidError, raw: Any) -> None:
        status = Status.TOO_LARGE if isinstance(fault, TooLargeError) else Status.INVALID
        details = {"field": fault.field} if fault.field else {}
        self._refuse_with(letters, command_id, error(status, fault.code, str(fault), **details), raw)

    def _refuse_with(self, letters: "_Letters", command_id: str | None, answer: Wire, raw: Any) -> None:
        """Tell the sender, or, where there is nobody to tell, the operator by way of the dead letter queue."""
        if letters.delivery.reply_to is None:
            letters.add(answer["error"]["code"], answer["error"]["message"], raw)
        self._outbox.answer(letters.delivery, {"id": command_id, **answer})


class _Letters:
    """What of one message goes to the dead letter queue: one letter for each reason, however many commands it has."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self._details: dict[str, str] = {}
        self._commands: dict[str, list[Any]] = {}

    def add(self, reason: str, detail: str, command: Any) -> None:
        self._details.setdefault(reason, detail)
        self._commands.setdefault(reason, []).append(command)

    def send(self, outbox: Outbox) -> None:
        """Hand them to the outbox. In the turn of the event loop in which the commands are answered."""
        for reason, commands in self._commands.items():
            part = _write_again(commands) if self.delivery.is_array else None
            others = f"; and {len(commands) - 1} more" if len(commands) > 1 else ""
            detail = f"{self._details[reason]}{others}"
            outbox.bury(self.delivery, part or self.delivery.body, reason=reason, detail=detail)
            if part is None:
                break  # it was the whole


def _write_again(commands: list[Any]) -> bytes | None:
    """Commands as they came; None if they are nested too deeply for that."""
    try:
        return orjson.dumps(commands)
    except TypeError:
        pass
    try:
        # For integers beyond 64 bits.
        return json.dumps(commands, separators=(",", ":"), ensure_ascii=False).encode()
    except RecursionError:
        return None
