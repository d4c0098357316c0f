"""The dispatcher: which calls share a message, when it leaves, and what becomes of calls when things go wrong."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pamqp.commands
import pytest
from aio_pika.exceptions import ConnectionClosed, DeliveryError
from aiormq.exceptions import ChannelAccessRefused
from support.loops import leaping, settle

from holdfast.client.calls import Call
from holdfast.client.dispatcher import MAX_COMMANDS, RESEND_AFTER, Dispatcher
from holdfast.events import ClosedError, DeniedError, ExpiredError, OutcomeUnknown, Reply, Unavailable, partition_of
from holdfast.events.limits import CLIENT_MESSAGE_BYTES

PARTITIONS = 4


class Sent:
    """One message in the broker's hands, not confirmed yet."""

    def __init__(self, partition: int, body: bytes) -> None:
        self.partition = partition
        self.body = body
        self.confirm: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def ids(self) -> list[str]:
        return [command["id"] for command in orjson.loads(self.body)]


class ScriptedLink:
    def __init__(self) -> None:
        self.up = True
        self.generation = 1
        self.sent: list[Sent] = []

    async def publish(self, partition: int, body: bytes) -> None:
        message = Sent(partition, body)
        self.sent.append(message)
        await message.confirm

    def lose(self, error: BaseException | None = None) -> None:
        self.up = False
        for message in self.sent:
            if not message.confirm.done():
                message.confirm.set_exception(error or ConnectionClosed(320, "scripted"))


class Bench:
    """A dispatcher on a scripted link, and calls in few words."""

    def __init__(self) -> None:
        self.link = ScriptedLink()
        self.epochs: list[int] = []
        self.dispatcher = Dispatcher(self.link, on_epoch=self.epochs.append)
        self.dispatcher.epoch = 1
        self.dispatcher.repartition(PARTITIONS)
        self._numbers = itertools.count(1)

    def call(
        self, key: str = "k", *, mutates: bool = True, timeout: float = 15, size: int = 0, id_: str | None = None
    ) -> Call:
        id_ = id_ or f"c{next(self._numbers)}"
        body = orjson.dumps({"id": id_, "pad": "x" * size})
        call = Call(id_, "default", key, body, mutates, asyncio.get_running_loop().create_future())
        # Nobody else waits for it in these tests, and an error that nobody has seen would be reported as lost.
        call.reply.add_done_callback(lambda reply: reply.cancelled() or reply.exception())
        self.dispatcher.submit(call, timeout)
        return call

    @property
    def sent(self) -> list[list[str]]:
        return [message.ids for message in self.link.sent]

    async def confirm(self, *numbers: int) -> None:
        for number in numbers:
            self.link.sent[number].confirm.set_result(None)
            await settle()

    async def refuse(self, number: int) -> None:
        self.link.sent[number].confirm.set_exception(DeliveryError(None, pamqp.commands.Basic.Nack(1)))
        await settle()

    def answer(self, *calls: Call, **fields: Any) -> None:
        self.dispatcher.on_replies([Reply(id=call.id, status="ok", **fields) for call in calls])

    async def reconnect(self, error: BaseException | None = None) -> None:
        self.link.lose(error)
        await settle()
        self.link.up, self.link.generation = True, self.link.generation + 1
        self.dispatcher.on_up()
        await settle()


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.dispatcher.close()


def keys_of(partition: int, count: int) -> list[str]:
    keys = (f"key-{number}" for number in itertools.count())
    return list(itertools.islice((key for key in keys if partition_of("default", key, PARTITIONS) == partition), count))


# What shares a message.


@leaping
async def test_calls_of_one_turn_share_one_message_per_partition() -> None:
    """Calls made in one turn of the event loop leave as one message for each partition, in order, without a delay."""
    async with bench() as it:
        calls = {partition: [it.call(key) for key in keys_of(partition, 3)] for partition in range(PARTITIONS)}

        await settle()

        assert {message.partition: message.ids for message in it.link.sent} == {
            partition: [call.id for call in made] for partition, made in calls.items()
        }
        assert asyncio.get_running_loop().time() == 0


@leaping
async def test_a_second_message_of_a_partition_leaves_after_the_confirm_of_the_first() -> None:
    """While a message is not confirmed its partition collects, and another partition does not wait for it."""
    one, other = keys_of(0, 1)[0], keys_of(1, 1)[0]
    async with bench() as it:
        first = it.call(one)
        await settle()

        later = [it.call(one), it.call(one)]
        await settle()
        elsewhere = it.call(other)
        await settle()

        assert it.sent == [[first.id], [elsewhere.id]]

        await it.confirm(0)

        assert it.sent[2:] == [[call.id for call in later]]


@leaping
async def test_messages_are_bounded_in_bytes_and_commands() -> None:
    """A message ends before the byte limit and at the command limit; one value above the byte limit goes alone."""
    async with bench() as it:
        half = CLIENT_MESSAGE_BYTES // 2
        big = [it.call(size=size) for size in (half, half, 2 * CLIENT_MESSAGE_BYTES, 0)]
        small = [it.call() for _ in range(MAX_COMMANDS + 1)]

        for number in range(5):
            await settle()
            await it.confirm(number)

        assert it.sent == [
            [big[0].id],
            [big[1].id],
            [big[2].id],
            [big[3].id, *(call.id for call in small[: MAX_COMMANDS - 1])],
            [call.id for call in small[MAX_COMMANDS - 1 :]],
        ]
        sizes = [len(message.body) for message in it.link.sent]
        assert sizes[0] <= CLIENT_MESSAGE_BYTES + 2
        assert sizes[3] <= CLIENT_MESSAGE_BYTES + 2


@leaping
async def test_a_call_that_ended_while_it_waited_is_not_sent() -> None:
    """What was cancelled or timed out before its message left does not go into the message."""
    async with bench() as it:
        it.call()
        await settle()
        gone, late, living = it.call(), it.call(timeout=1), it.call()
        gone.reply.cancel()
        it.dispatcher.forget(gone)
        await asyncio.sleep(1.5)

        await it.confirm(0)

        assert it.sent[1:] == [[living.id]]
        assert isinstance(late.reply.exception(), ExpiredError)


# Replies.


@leaping
async def test_replies_are_matched_by_id_and_strangers_are_passed_over() -> None:
    """Each call gets the reply of its id, in whatever order; replies for nobody, and unreadable ones, do no harm."""
    async with bench() as it:
        one, other = it.call(), it.call()
        await settle()

        it.dispatcher.on_replies(
            [
                Reply(id=None, status="invalid"),
                Reply(id="a stranger", status="ok"),
                Reply(id=other.id, status="ok", version=2),
                Reply(id=one.id, status="ok", version=1),
                Reply(id=one.id, status="invalid"),
            ]
        )

        assert (one.reply.result().version, other.reply.result().version) == (1, 2)
        assert it.dispatcher.in_flight == 0


@leaping
async def test_an_epoch_that_is_not_known_is_told_until_it_is() -> None:
    """Every reply with another epoch tells it, because asking about it may fail; the known one is not told."""
    async with bench() as it:
        calls = [it.call() for _ in range(4)]
        await settle()

        it.answer(calls[0], epoch=1)
        it.answer(calls[1], epoch=2)
        it.answer(calls[2], epoch=2)
        it.dispatcher.epoch = 2
        it.answer(calls[3], epoch=2)

        assert it.epochs == [2, 2]


@leaping
async def test_new_partitions_take_over_what_waits() -> None:
    """After a change of partitions, calls that wait are sent where they belong now, and none twice."""
    async with bench() as it:
        keys = [f"key-{number}" for number in range(8)]
        it.call(keys[0])
        it.link.up = False
        calls = [it.call(key) for key in keys]
        await settle()
        sent = len(it.link.sent)
        it.link.up = True

        it.dispatcher.repartition(16)
        await settle()

        by_id = {call.id: call.key for call in calls}
        placed = {
            by_id[id_]: message.partition for message in it.link.sent[sent:] for id_ in message.ids if id_ in by_id
        }
        assert placed == {key: partition_of("default", key, 16) for key in keys}


# Lost connections.


@leaping
async def test_after_a_reconnect_everything_without_an_answer_is_sent_again_in_order() -> None:
    """Confirmed, unconfirmed and waiting calls all go again under their ids, in their original order."""
    async with bench() as it:
        confirmed = it.call()
        await settle()
        await it.confirm(0)
        unconfirmed = it.call()
        await settle()
        answered = it.call()
        waiting = it.call()
        it.answer(answered)

        await it.reconnect()

        assert it.sent == [[confirmed.id], [unconfirmed.id], [confirmed.id, unconfirmed.id, waiting.id]]
        assert [call.attempts for call in (confirmed, unconfirmed, waiting)] == [2, 2, 1]


@pytest.mark.parametrize("error", [ConnectionClosed(320, "x"), RuntimeError("closed"), Exception(), OSError()])
def test_whatever_the_driver_raises_when_a_connection_goes_is_survived(error: Exception) -> None:
    """No error of a publish but a refusal ends a call, or leaves a task's exception behind."""

    @leaping
    async def test() -> None:
        async with bench() as it:
            call = it.call()
            await settle()

            await it.reconnect(error)

            assert it.sent == [[call.id], [call.id]]
            assert not call.reply.done()

    test()


@leaping
async def test_a_driver_that_cancels_its_publishes_is_survived() -> None:
    """A connection that the driver finds dead raises CancelledError in the publish, and the call still goes again."""
    async with bench() as it:
        call = it.call()
        await settle()

        await it.reconnect(asyncio.CancelledError())
        await it.confirm(1)
        it.answer(call)

        assert (await call.reply).status == "ok"


@leaping
async def test_a_publish_of_an_earlier_connection_does_not_free_the_lane_of_the_present_one() -> None:
    """When an old publish comes to its end late, its partition still has one unconfirmed message at most."""
    async with bench() as it:
        old = it.call()
        await settle()
        straggler = it.link.sent[0].confirm
        it.link.generation += 1
        it.dispatcher.on_up()
        await settle()
        following = it.call()

        straggler.set_result(None)
        await settle()

        assert it.sent == [[old.id], [old.id]]

        await it.confirm(1)

        assert it.sent[2:] == [[following.id]]


@leaping
async def test_a_late_refusal_of_an_earlier_connection_does_not_end_a_call_that_was_sent_again() -> None:
    """A negative confirm of an old message does not speak for the message that repeats it."""
    async with bench() as it:
        call = it.call()
        await settle()
        it.link.generation += 1
        it.dispatcher.on_up()
        await settle()

        await it.refuse(0)

        assert not call.reply.done()


@leaping
async def test_no_message_holds_an_id_twice_when_a_repeat_is_due_while_calls_wait() -> None:
    """Calls that wait for their turn after a reconnect are not put behind themselves by the repetition of old calls.

    A worker refuses the second command of an array under one id, and that refusal overtakes the first's answer.
    """
    async with bench() as it:
        await asyncio.sleep(1)
        calls = [it.call(size=CLIENT_MESSAGE_BYTES // 3, timeout=60) for _ in range(3)]
        await settle()
        await it.confirm(0, 1)
        await asyncio.sleep(RESEND_AFTER - 1)
        await it.reconnect()

        await asyncio.sleep(3 * RESEND_AFTER)
        await it.confirm(2)

        assert it.sent[2:4] == [[call.id for call in calls[:2]], [calls[2].id, *it.sent[3][1:]]]
        assert all(len(set(ids)) == len(ids) for ids in it.sent)


# Lost answers.


@leaping
async def test_a_call_without_an_answer_is_sent_again_less_and_less_often() -> None:
    """A confirmed call whose answer does not come is repeated after a while, then after twice as long."""
    async with bench() as it:
        call = it.call(timeout=60)
        await settle()
        await it.confirm(0)
        times = [0.0]

        while not call.reply.done():
            await asyncio.sleep(0.5)
            if len(it.sent) > len(times):
                times.append(asyncio.get_running_loop().time())
                await it.confirm(len(it.sent) - 1)

        assert it.sent == [[call.id]] * len(times)
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert len(pauses) == 3
        for number, pause in enumerate(pauses):
            assert RESEND_AFTER * 2**number <= pause <= RESEND_AFTER * 2**number + RESEND_AFTER
        assert isinstance(call.reply.exception(), OutcomeUnknown)


@leaping
async def test_while_answers_take_long_calls_are_repeated_later() -> None:
    """A service that answers after twelve seconds is behind: its callers ask again later, until it is quick again."""
    async with bench() as it:
        first = it.call(timeout=60)
        await settle()
        await it.confirm(0)
        await asyncio.sleep(3 * RESEND_AFTER)
        repeats = len(it.sent)
        for number in range(1, repeats):
            await it.confirm(number)
        it.answer(first)
        await asyncio.sleep(RESEND_AFTER / 2)

        late = it.call(timeout=60)
        await settle()
        await it.confirm(repeats)
        await asyncio.sleep(3 * RESEND_AFTER)
        it.answer(late)
        assert len(it.sent) == repeats + 1

        # What takes no time is not remembered for ever.
        for _ in range(20):
            quick = it.call(timeout=60)
            await settle()
            await it.confirm(len(it.sent) - 1)
            it.answer(quick)
            await asyncio.sleep(RESEND_AFTER)
        before = len(it.sent)
        lost = it.call(timeout=60)
        await settle()
        await it.confirm(before)
        await asyncio.sleep(2 * RESEND_AFTER)
        assert it.sent[before:] == [[lost.id], [lost.id]]


@leaping
async def test_a_refused_repeat_of_a_confirmed_message_goes_on_waiting() -> None:
    """If the queue is full when a call is repeated, the message that it took before will still be answered."""
    async with bench() as it:
        call = it.call()
        await settle()
        await it.confirm(0)
        await asyncio.sleep(2 * RESEND_AFTER)
        assert it.sent == [[call.id], [call.id]]

        await it.refuse(1)

        assert not call.reply.done()
        it.answer(call)
        assert call.reply.result().status == "ok"


# Refusals and time.


@leaping
async def test_a_refusal_of_the_first_attempt_means_not_applied() -> None:
    """A negative confirm of the only attempt is Unavailable, and ends the call's timer with it."""
    async with bench() as it:
        call = it.call(timeout=5)
        await settle()

        await it.refuse(0)

        assert type(call.reply.exception()) is Unavailable
        again = it.call(id_=call.id)
        await asyncio.sleep(6)
        assert not again.reply.done()
        it.answer(again)
        assert again.reply.result().status == "ok"


@leaping
async def test_a_refusal_after_an_unconfirmed_attempt_leaves_the_outcome_open() -> None:
    """If an earlier attempt may be on its way, a refused write is OutcomeUnknown; a read is Unavailable still."""
    async with bench() as it:
        write, read = it.call(), it.call(mutates=False)
        await settle()
        await it.reconnect()

        await it.refuse(1)

        error = write.reply.exception()
        assert isinstance(error, OutcomeUnknown)
        assert error.id == write.id
        assert type(read.reply.exception()) is Unavailable


@leaping
async def test_a_user_who_may_not_publish_is_told() -> None:
    """An access refusal ends reads as DeniedError; writes, of which some may have been let through, go on trying."""
    async with bench() as it:
        write, read = it.call(timeout=5), it.call(mutates=False)
        await settle()

        await it.reconnect(ChannelAccessRefused("ACCESS_REFUSED"))

        assert isinstance(read.reply.exception(), DeniedError)
        assert it.sent[1:] == [[write.id]]
        await asyncio.sleep(6)
        assert isinstance(write.reply.exception(), OutcomeUnknown)


@leaping
async def test_after_a_refusal_the_partition_goes_on() -> None:
    """What waited behind a refused message is sent."""
    async with bench() as it:
        it.call()
        await settle()
        following = it.call()

        await it.refuse(0)

        assert it.sent[1:] == [[following.id]]


@leaping
async def test_what_was_never_sent_is_not_applied_when_its_time_is_over() -> None:
    """Without a connection a call ends as ExpiredError, which is both Unavailable and a TimeoutError, write or not."""
    async with bench() as it:
        it.link.up = False
        calls = [it.call(timeout=3), it.call(timeout=3, mutates=False)]

        await asyncio.sleep(3.5)

        for call in calls:
            error = call.reply.exception()
            assert isinstance(error, ExpiredError)
            assert isinstance(error, Unavailable)
            assert isinstance(error, TimeoutError)
            assert "not sent within 3 s" in str(error)
        assert it.dispatcher.in_flight == 0


@leaping
async def test_a_write_that_was_sent_has_an_unknown_outcome_when_its_time_is_over() -> None:
    """A sent write without an answer is OutcomeUnknown with its id, also a TimeoutError; a read is ExpiredError."""
    async with bench() as it:
        write, read = it.call(timeout=3), it.call(timeout=3, mutates=False)

        await asyncio.sleep(3.5)

        unknown, expired = write.reply.exception(), read.reply.exception()
        assert isinstance(unknown, OutcomeUnknown)
        assert isinstance(unknown, TimeoutError)
        assert not isinstance(unknown, Unavailable)
        assert unknown.id == write.id
        assert isinstance(expired, ExpiredError)


# Two calls under one id.


@leaping
async def test_calls_under_one_id_take_turns() -> None:
    """A second call under an id that is in flight is sent when the first has its answer, and gets one of its own."""
    async with bench() as it:
        first, second, third = (it.call(id_="same") for _ in range(3))
        await settle()
        await it.confirm(0)
        assert it.sent == [["same"]]
        third.reply.cancel()
        it.dispatcher.forget(third)

        it.answer(first, version=1)
        await settle()
        await it.confirm(1)
        it.answer(second, version=1)

        assert it.sent == [["same"], ["same"]]
        assert first.reply.result() == second.reply.result()
        assert it.dispatcher.in_flight == 0


@leaping
async def test_a_call_behind_another_of_its_id_ends_in_its_own_time() -> None:
    """Waiting for the first one does not prolong the second's timeout, and the first is not disturbed by its end."""
    async with bench() as it:
        first, second = it.call(id_="same", timeout=9), it.call(id_="same", timeout=1)

        await asyncio.sleep(2)

        assert isinstance(second.reply.exception(), ExpiredError)
        it.answer(first)
        assert first.reply.result().status == "ok"


# The end.


@leaping
async def test_closing_ends_every_call_honestly() -> None:
    """Closed before the answer, a sent write is OutcomeUnknown and all else ClosedError; nothing goes on afterwards."""
    async with bench() as it:
        sent, read = it.call(), it.call(mutates=False)
        await settle()
        waiting, behind = it.call(), it.call(id_=sent.id)

        await it.dispatcher.close()

        error = sent.reply.exception()
        assert isinstance(error, OutcomeUnknown)
        assert error.id == sent.id
        assert [type(call.reply.exception()) for call in (read, waiting, behind)] == [ClosedError] * 3
        with pytest.raises(ClosedError):
            it.call()
        await asyncio.sleep(60)
        assert it.sent == [[sent.id, read.id]]
