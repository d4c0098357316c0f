"""Inputs through the real queue, as many as it takes, and what comes of each compared with what may."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from .commands import is_fresh
from .control import Control
from .generate import Input, Reply, Route
from .line import Confirm, Delivery, Line, Return, publication, wait
from .oracle import judge
from .properties import decode, encode, read_table
from .sent import Sent

#: Inputs that may wait for what is to come of them, and their bytes.
WINDOW = 1500
WINDOW_BYTES = 24 << 20
#: Inputs after which it is made sure that nothing more comes of any of them.
CHUNK = 5000
#: Inputs to one round of control commands.
CONTROL = 50
#: Queues for answers that only one input at a time uses.
OWN_QUEUES = 64

_DEAD = "holdfast.dead"
_RESERVED = (b"holdfast.dead", b"holdfast.ingress", b"holdfast.commands.0", b"holdfast.", b"holdfast.nothing")


@dataclass
class Failure:
    """Something that must not be."""

    what: str
    #: None if no input can be named.
    input: Input | None = None

    def __str__(self) -> str:
        if self.input is None:
            return self.what
        made = self.input
        return (
            f"input {made.number} ({made.family}; {made.route}, reply {made.reply.value}, {made.properties!r:.500}) "
            f"{made.body[:1000]!r}{'…' if len(made.body) > 1000 else ''}\n    {self.what}"
        )


@dataclass
class Report:
    """What a campaign saw."""

    inputs: int = 0
    commands: int = 0
    body_bytes: int = 0
    answers: int = 0
    letters: int = 0
    buried_by_broker: int = 0
    controls: int = 0
    seconds: float = 0.0
    families: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)


class _StuckError(Exception):
    """Something that has to come does not come."""


class Campaign:
    """One publisher and one collector on a service. Nobody else may read its dead letters meanwhile."""

    def __init__(
        self,
        amqp_url: str,
        *,
        partitions: int,
        give_up_after: int = 10,
        patience: float = 120.0,
        tell: Callable[[Failure], None] = lambda _: None,
        on_stuck: Callable[[], None] = lambda: None,
    ) -> None:
        """Connect.

        :param give_up_after: failures.
        :param patience: seconds without any news after which something is stuck.
        :param tell: is called with each failure at once.
        :param on_stuck: is called when something is, while everything is still as it is.
        """
        self._tell = tell
        self._on_stuck = on_stuck
        self._patience = patience
        self.report = Report()
        self._partitions = partitions
        self._give_up_after = give_up_after
        self._publisher = Line(amqp_url, confirms=True)
        self._collector = Line(amqp_url)
        self._shared = self._collector.declare()
        self._own = deque(self._collector.declare() for _ in range(OWN_QUEUES))
        self._from = {self._collector.consume(queue): queue for queue in (self._shared, *self._own, _DEAD)}
        self._from[self._publisher.consume("amq.rabbitmq.reply-to")] = "direct"
        self._control = Control(partitions)
        self._published = self._confirmed = 0
        self._ahead: set[int] = set()
        #: Of the present chunk.
        self._sent: dict[int, Sent] = {}
        self._waiting: dict[int, Sent] = {}
        self._waiting_bytes = 0
        self._by_queue: dict[str, Sent] = {}
        self._queues: dict[int, str] = {}
        self._by_body: defaultdict[bytes, list[Sent]] = defaultdict(list)

    def run(self, inputs: Iterable[Input]) -> Report:
        """Send all of them and wait for what comes of them, until too much is wrong."""
        began = time.monotonic()
        with suppress(_StuckError):
            self._run(inputs)
        self.report.controls = self._control.answered
        self.report.seconds += time.monotonic() - began
        return self.report

    def _run(self, inputs: Iterable[Input]) -> None:
        for made in inputs:
            self._send(made)
            if self.report.inputs % CONTROL == 0:
                self._ask_in_order(self.report.inputs // CONTROL % self._partitions)
            if self.report.inputs % CHUNK == 0:
                self._finish_chunk()
            if len(self.report.failures) >= self._give_up_after:
                break
        self._finish_chunk()

    def close(self) -> None:
        """Hang up."""
        self._publisher.close()
        self._collector.close()

    # Sending.

    def _publish(self, route: Route, properties: dict[str, bytes], body: bytes) -> None:
        self._published += 1
        self._publisher.write(
            publication(route.exchange, route.key, encode(properties), body, self._publisher.frame_max)
        )

    def _ask_in_order(self, partition: int) -> None:
        """Commands on one key, close behind one another: were they to change places, an answer would tell."""
        for make in (
            self._control.save,
            self._control.read,
            self._control.save,
            self._control.save,
            self._control.read,
        ):
            self._ask(*make(partition), partition)

    def _ask(self, correlation_id: str, body: bytes, partition: int, *, by_ingress: bool = False) -> None:
        properties = {"correlation_id": correlation_id.encode(), "reply_to": self._shared.encode()}
        route = Route("", b"holdfast.ingress") if by_ingress else Route("holdfast.commands", str(partition).encode())
        self._publish(route, properties, body)

    def _send(self, made: Input) -> None:
        while len(self._waiting) >= WINDOW or self._waiting_bytes > WINDOW_BYTES or self._publisher.unsent > 1 << 20:
            self._pump()
        report = self.report
        report.inputs += 1
        report.families[made.family] += 1
        report.body_bytes += len(made.body)
        properties = dict(made.properties)
        reply = made.reply
        if reply is Reply.SHARED and "correlation_id" in properties:
            reply = Reply.OWN
        if reply is Reply.OWN and not self._own:
            reply = Reply.NONE
        queue = self._address(made, reply, properties)
        address = properties.get("reply_to")
        judgements = judge(
            made.body,
            message_id=properties.get("message_id"),
            correlation_id=properties.get("correlation_id"),
            reply_to=address,
            now=time.time_ns() // 1_000_000,
            is_fresh=is_fresh,
            split=made.route.split,
        )
        is_answered = "reply_to" not in made.properties and reply in (Reply.SHARED, Reply.OWN, Reply.DIRECT)
        sent = Sent(made, judgements, is_answered=is_answered, is_silent=not address)
        report.commands += len(sent.judgement.fates)
        self._sent[made.number] = sent
        if queue is not None:
            self._by_queue[queue] = sent
            self._queues[made.number] = queue
        if not self._is_tagged(made.number, properties) or sent.judgement.buried_for == "bad_properties":
            self._by_body[made.body].append(sent)
        if sent.missing:
            self._waiting[made.number] = sent
            self._waiting_bytes += len(made.body)
        self._publish(made.route, properties, made.body)
        if report.inputs % 16 == 0:
            self._pump(wait_for_news=False)

    def _address(self, made: Input, reply: Reply, properties: dict[str, bytes]) -> str | None:
        """Put reply_to and correlation_id among the properties. Gives back the queue that is this input's alone."""
        number = made.number
        if reply in (Reply.SHARED, Reply.DIRECT) or (number % 2 and reply is not Reply.OWN):
            properties.setdefault("correlation_id", b"c%d" % number)
        silent = not properties["reply_to"] if "reply_to" in properties else reply is Reply.NONE
        if silent and made.body.lstrip(b" \r\n\t\xef\xbb\xbf").startswith(b"[") and _is_readable(properties):
            # Parts of an array among the dead letters have nothing else to be known by.
            properties["correlation_id"] = b"c%d" % number
        if "reply_to" in properties:
            return None
        if reply is Reply.SHARED:
            properties["reply_to"] = self._shared.encode()
        elif reply is Reply.DIRECT:
            properties["reply_to"] = b"amq.rabbitmq.reply-to"
            properties["correlation_id"] = b"c%d" % number
        elif reply is Reply.GONE:
            properties["reply_to"] = b"nowhere-%d" % number
        elif reply is Reply.RESERVED:
            properties["reply_to"] = _RESERVED[number % len(_RESERVED)]
        elif reply is Reply.OWN:
            queue = self._own.popleft()
            properties["reply_to"] = queue.encode()
            return queue
        return None

    @staticmethod
    def _is_tagged(number: int, properties: dict[str, bytes]) -> bool:
        return properties.get("correlation_id") == b"c%d" % number or properties.get("message_id") == b"m%d" % number

    # Collecting.

    def _pump(self, *, wait_for_news: bool = True) -> None:
        """Send and receive.

        :raises _StuckError: if nothing comes any more.
        """
        deadline = time.monotonic() + self._patience
        while True:
            events = self._publisher.pump() + self._collector.pump()
            for event in events:
                if isinstance(event, Confirm):
                    self._confirm(event)
                elif isinstance(event, Return):
                    self._fail(f"a message was returned: {event.body[:200]!r}")
                else:
                    self._deliver(event)
            if events or not wait_for_news:
                return
            if time.monotonic() > deadline:
                unconfirmed = self._published - self._confirmed - len(self._ahead)
                waiting = f"{len(self._waiting)} inputs, {self._control.waiting} controls, {unconfirmed} confirms"
                self._fail(f"nothing has come for {self._patience:g} s: {waiting} are waited for")
                for sent in list(self._waiting.values())[:5]:
                    which = f"{sent.missing_commands()!r:.1000}"
                    what = "dead letters, since nobody is told," if sent.is_silent else "answers or dead letters"
                    self._fail(f"{sent.missing} {what} are missing, of {which}", sent)
                self._on_stuck()
                raise _StuckError
            wait([self._publisher, self._collector], 1.0)

    def _confirm(self, confirm: Confirm) -> None:
        if not confirm.ok:
            self._fail("the broker did not take a message")
        if confirm.multiple:
            self._confirmed = max(self._confirmed, confirm.tag)
            self._ahead = {tag for tag in self._ahead if tag > self._confirmed}
        else:
            self._ahead.add(confirm.tag)
        while self._confirmed + 1 in self._ahead:
            self._confirmed += 1
            self._ahead.discard(self._confirmed)

    def _deliver(self, delivery: Delivery) -> None:
        queue = self._from[delivery.consumer]
        properties = decode(delivery.properties)
        if queue == _DEAD:
            self._take_letter(properties, delivery.body)
            return
        correlation_id = properties.get("correlation_id", b"").decode()
        if queue in (self._shared, "direct"):
            if correlation_id.startswith("s"):
                wrong = self._control.answer(correlation_id, delivery.body)
                if wrong is not None:
                    self._fail(wrong)
                return
            sent = self._sent.get(int(correlation_id[1:]) if correlation_id[1:].isdigit() else -1)
        else:
            sent = self._by_queue.get(queue)
        self.report.answers += 1
        if sent is None:
            self._fail(f"an answer to nothing that waits: {correlation_id} {delivery.body[:300]!r}")
            return
        self._look_at(sent, sent.answer(delivery.body))

    def _take_letter(self, properties: dict[str, bytes], body: bytes) -> None:
        self.report.letters += 1
        headers = read_table(properties.get("headers", b""))
        # What the broker buries keeps the headers that it came with, whatever they are. A worker writes its own.
        by_broker = b"x-first-death-reason" in headers
        reason = "" if by_broker else headers.get(b"x-holdfast-reason", b"").decode()
        message_id = headers.get(b"x-holdfast-message-id") or properties.get("message_id", b"")
        sent = self._sent_by(properties.get("correlation_id", b""), message_id)
        if sent is None:
            # Others with the same body may wait for answers, and one that expired may have had none to wait for.
            candidates = self._by_body.get(body, [])
            likeliest = ((each.may_be_buried_for(reason), each.missing > 0) for each in candidates)
            sent = max(zip(likeliest, candidates, strict=True), key=lambda one: one[0], default=(None, None))[1]
        if sent is None:
            self._fail(f"a dead letter of nothing that was sent: {reason} {body[:300]!r} {headers!r:.500}")
            return
        if reason and len(properties.get("headers", b"")) > 8192:
            self._fail(f"a dead letter with {len(properties['headers'])} bytes of headers", sent)
        if reason:
            wrong = sent.bury(body, reason)
        else:
            wrong = (
                None if sent.input.may_expire and body == sent.input.body else f"buried by the broker: {headers!r:.300}"
            )
            sent.expired += 1
            self.report.buried_by_broker += 1
        self._look_at(sent, wrong)

    def _sent_by(self, correlation_id: bytes, message_id: bytes) -> Sent | None:
        for tag, letter in ((correlation_id, b"c"), (message_id, b"m")):
            if tag.startswith(letter) and tag[1:].isdigit() and int(tag[1:]) in self._sent:
                return self._sent[int(tag[1:])]
        return None

    def _look_at(self, sent: Sent, wrong: str | None) -> None:
        if wrong is not None:
            self._fail(wrong, sent)
        if wrong is not None or sent.missing == 0:
            if self._waiting.pop(sent.input.number, None) is not None:
                self._waiting_bytes -= len(sent.input.body)
            queue = self._queues.pop(sent.input.number, None)
            if queue is not None:
                del self._by_queue[queue]
                self._own.append(queue)

    # The end of a chunk.

    def _finish_chunk(self) -> None:
        """Make sure that all has come of all inputs, and that no more does.

        What a worker does with a message before a control command on its way is done when that is answered; what it
        tells the dead letter queue then goes before the next answers. What comes by the ingress comes to a partition
        afterwards, and what came to a wrong one goes on to another.
        """
        while self._waiting or self._confirmed < self._published:
            self._pump()
        for round_ in range(4):
            for partition in range(self._partitions):
                self._ask(*self._control.read(partition), partition, by_ingress=round_ == 0)
            while self._control.waiting:
                self._pump()
        self._pump(wait_for_news=False)
        self._sent.clear()
        self._by_body.clear()
        self._own.extend(self._by_queue)
        self._by_queue.clear()
        self._queues.clear()

    def _fail(self, what: str, sent: Sent | None = None) -> None:
        failure = Failure(what, sent.input if sent is not None else None)
        self.report.failures.append(failure)
        self._tell(failure)


def _is_readable(properties: dict[str, bytes]) -> bool:
    try:
        for name in ("correlation_id", "message_id", "reply_to"):
            properties.get(name, b"").decode()
    except UnicodeDecodeError:
        return False
    return True
