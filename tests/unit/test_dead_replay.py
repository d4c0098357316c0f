"""What a replay sends and what it does not, and that it never undoes what came later."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, cast

import pytest
from support.commands import NOW, apply, brief, delete, first, one, read, save, transact
from support.dead import EngineSender, letter
from support.engines import Clock, engine_on
from support.scripted import ScriptedStore

from holdfast.dead import DeadLetter, DeadLetterQueue, Filter, Outcome, Replayer, replay_letters
from holdfast.dead.queue import Held
from holdfast.dead.sender import NotInTheirNameError
from holdfast.events import Event, OutcomeUnknown, Refusal, Reply, Unavailable, make_etag
from holdfast.events.limits import FENCE_WINDOW_MS

#: When the commands of these tests were sent, if they say so: before anything is done here.
SENT = NOW - 60_000


def wire(command_id: str, key: str = "k", value: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"op": "save", "id": command_id, "key": key, "value": value, "sent_at": SENT, **fields}


def remove(command_id: str, key: str = "k", **fields: Any) -> dict[str, Any]:
    return {"op": "delete", "id": command_id, "key": key, "sent_at": SENT, **fields}


class Service:
    """An engine, a clock, and a replay of letters on it."""

    def __init__(self, store: ScriptedStore) -> None:
        self.store = store
        self.clock = Clock()
        self.engine = engine_on(store, self.clock)
        self.sender = EngineSender(self.engine)

    async def replay(self, *letters: DeadLetter, **options: Any) -> tuple[list[Outcome], list[bool]]:
        told: list[Outcome] = []
        replayer = Replayer(self.sender, **options)
        return told, await replayer.replay(letters, told=told.append)

    async def one(self, single: DeadLetter, **options: Any) -> Outcome:
        """The outcome of a letter of one command; whether it is removed has to fit."""
        (outcome,), (done,) = await self.replay(single, **options)
        assert done == outcome.ok == (outcome.status == "ok")
        return outcome

    async def value(self, key: str = "k") -> Any:
        return (await one(self.engine, read(key))).get("value")

    async def events(self) -> list[Event]:
        return [record for record in await self.store.log() if isinstance(record, Event)]


@pytest.fixture
async def service() -> Service:
    return Service(await ScriptedStore.opened())


# What is sent.


async def test_a_command_keeps_its_id_and_its_author(service: Service) -> None:
    """Given a letter, when it is replayed, then its command is applied under its id, in the name of its author."""
    outcome = await service.one(letter(wire("r1", value={"a": 1.0}, metadata={"why": "x"}), author="ada"))
    assert (outcome.letter, outcome.id, outcome.op, outcome.store, outcome.key) == (
        "00000000000000a1",
        "r1",
        "save",
        "default",
        "k",
    )
    (event,) = await service.events()
    assert (event.id, event.author, event.value, event.metadata) == ("r1", "ada", {"a": 1.0}, {"why": "x"})
    command, author, named = service.sender.asked[-1]
    assert (author, named) == ("ada", "00000000000000a1")
    assert command["sent_at"] == SENT


async def test_nobodys_command_stays_nobodys(service: Service) -> None:
    """Given a letter without an author, when it is replayed, then it is not sent in the operator's name."""
    await service.one(letter(wire("r1")))
    assert service.sender.asked[-1][1] is None
    assert [event.author for event in await service.events()] == [None]


async def test_the_operators_own_name_on_demand(service: Service) -> None:
    """Given a letter of somebody, when the operator says so, then it is sent in his own name."""
    await service.one(letter(wire("r1"), author="ada"), as_me=True)
    assert [event.author for event in await service.events()] == ["operator"]


async def test_looks_are_taken_in_the_operators_name(service: Service) -> None:
    """Given a letter of somebody, when the key is looked at first, then that is the operator's own right."""
    await service.one(letter(wire("r1"), author="ada"))
    assert [(command["op"], author) for command, author, _ in service.sender.asked] == [
        ("read", "operator"),
        ("save", "ada"),
    ]


async def test_a_deadline_that_has_passed_plays_no_part(service: Service) -> None:
    """Given a command whose caller has left long ago, when it is replayed, then it is applied."""
    assert (await service.one(letter(wire("r1", deadline=SENT + 1000)))).ok
    assert "deadline" not in service.sender.asked[-1][0]


async def test_the_message_id_is_the_id_of_a_command_without_one(service: Service) -> None:
    """Given an object without an id, when its message had one, then that is what it is replayed under."""
    command = wire("-")
    del command["id"]
    assert (await service.one(letter(command, message_id="m-1"))).id == "m-1"
    assert [event.id for event in await service.events()] == ["m-1"]


async def test_reads_are_sent_too(service: Service) -> None:
    """Given letters of reads, when they are replayed, then an answer is all that it takes."""
    commands = [{"op": "read", "id": "1", "key": "k"}, {"op": "history", "id": "2", "key": "k"}]
    outcomes, done = await service.replay(letter(*commands), letter({"op": "describe", "id": "3"}, id="b" * 16))
    assert [outcome.status for outcome in outcomes] == ["ok"] * 3
    assert done == [True, True]


# What is newer.


async def test_what_was_there_when_it_was_sent_is_overwritten(service: Service) -> None:
    """Given a state from before the command was sent, when it is replayed, then it is applied."""
    service.clock.pass_(-120)
    await one(service.engine, save("k", "old"))
    service.clock.pass_(120)
    assert (await service.one(letter(wire("r1", value="replayed")))).note == "version 2"
    assert await service.value() == "replayed"


@pytest.mark.parametrize("command", [wire("r1", value="stale"), remove("r1")], ids=["save", "delete"])
async def test_what_came_later_is_not_undone(service: Service, command: dict[str, Any]) -> None:
    """Given a state from after the command was sent, when it is replayed, then it stays; and the id is not used up."""
    newer = save("k", "newer")
    await one(service.engine, newer)
    outcome = await service.one(letter(command))
    assert outcome.status == "newer"
    assert outcome.note == f"version 1, by command {newer.id}, came after this was sent; --force overwrites it"
    assert await service.value() == "newer"
    assert not [record for record in await service.store.log() if isinstance(record, Refusal)]
    assert (await service.one(letter(command), force=True)).ok
    assert await service.value() == ("stale" if command["op"] == "save" else None)


async def test_what_was_deleted_later_is_not_brought_back(service: Service) -> None:
    """Given a key that was deleted after the command was sent, when it is replayed, then the key stays absent."""
    service.clock.pass_(-120)
    await one(service.engine, save("k", "old"))
    service.clock.pass_(120)
    await one(service.engine, delete("k"))
    assert (await service.one(letter(wire("r1")))).status == "newer"
    assert await service.value() is None


async def test_what_was_deleted_before_is_saved_again(service: Service) -> None:
    """Given a key that was deleted before the command was sent, when it is replayed, then it is applied."""
    service.clock.pass_(-120)
    await apply(service.engine, save("k", "old"), delete("k"))
    service.clock.pass_(120)
    assert (await service.one(letter(wire("r1")))).note == "version 3"


async def test_the_same_moment_counts_as_later(service: Service) -> None:
    """Given a state of the very millisecond, when nobody can tell which was first, then it is not overwritten."""
    await one(service.engine, save("k", "maybe newer"))
    assert (await service.one(letter(wire("r1", sent_at=NOW)))).status == "newer"
    assert (await service.one(letter(wire("r2", sent_at=NOW + 1)))).ok


async def test_a_command_that_does_not_say_when_it_was_sent(service: Service) -> None:
    """Given a command of unknown age, when its key has a state, then that may be newer; a new key has none."""
    service.clock.pass_(-3600)
    await one(service.engine, save("k", "old"))
    service.clock.pass_(3600)
    outcome = await service.one(letter(wire("r1", sent_at=None)))
    assert outcome.status == "newer"
    assert "may be newer, since nobody knows when this was sent" in outcome.note
    assert (await service.one(letter(wire("r2", key="new", sent_at=None)))).ok


async def test_a_write_between_the_look_and_the_replay_wins(service: Service) -> None:
    """Given a key that was in order, when somebody writes it before the replay arrives, then that is not undone."""
    service.clock.pass_(-120)
    await one(service.engine, save("k", "old"))
    service.clock.pass_(120)
    service.sender.before["r1"] = lambda: one(service.engine, save("k", "just now"))
    assert (await service.one(letter(wire("r1", value="stale")))).status == "newer"
    assert await service.value() == "just now"


async def test_what_had_been_applied_is_done(service: Service) -> None:
    """Given a command that was applied before it became a letter, when others followed, then its replay is its answer.

    Nothing is undone by it, and the letter has done its part.
    """
    command = wire("r1", value="first")
    await service.one(letter(command))
    await one(service.engine, save("k", "second"))
    assert (await service.one(letter(command))).note == "version 1"
    assert await service.value() == "second"
    assert [event.version for event in await service.events()] == [1, 2]


async def test_a_limit_of_its_own_is_kept(service: Service) -> None:
    """Given a command that has a limit already, when it is replayed, then the smaller one counts, --force or not."""
    service.clock.pass_(-120)
    await apply(service.engine, save("k", 1), save("k", 2))
    service.clock.pass_(120)
    limited = letter(wire("r1", max_version=1))
    assert (await service.one(limited)).status == "newer"
    assert (await service.one(limited, force=True)).status == "conflict"


@pytest.mark.parametrize(
    "command",
    [
        wire("r1", etag=make_etag(1, "old")),
        wire("r1", concurrency="first-write"),
        remove("r1", etag="1-00000000"),
    ],
    ids=["etag", "first-write", "delete"],
)
async def test_what_has_a_condition_needs_no_other(service: Service, command: dict[str, Any]) -> None:
    """Given a command with a condition, when it is replayed, then it goes as it is, and a conflict is its answer."""
    await one(service.engine, save("k", "newer"))
    outcome = await service.one(letter(command))
    assert outcome.status == "conflict"
    ((sent, _, _),) = service.sender.asked
    assert sent == command


async def test_a_transaction_that_has_conditions(service: Service) -> None:
    """Given operations that all have conditions, when it is replayed, then it is applied once, or it is a conflict."""
    saved = await one(service.engine, save("k", 0, id="before"))
    whole = {
        "op": "transact",
        "id": "t1",
        "sent_at": SENT,
        "operations": [
            {"op": "save", "key": "k", "value": 1, "etag": saved["etag"]},
            {"op": "save", "key": "l", "value": 1, "concurrency": "first-write"},
            {"op": "check", "key": "m", "exists": False},
        ],
    }
    assert (await service.one(letter(whole))).status == "ok"
    assert (await service.one(letter(whole))).status == "ok"
    assert [(event.id, event.value) for event in await service.events()] == [("before", 0), ("t1", 1), ("t1", 1)]
    assert (await service.one(letter(whole | {"id": "t2"}))).status == "conflict"


async def test_a_transaction_without_conditions_needs_force(service: Service) -> None:
    """Given one operation that overwrites whatever is there, when it is replayed, then only with --force."""
    for operation in ({"op": "save", "key": "k", "value": 1}, {"op": "delete", "key": "k"}):
        whole = {"op": "transact", "id": f"t-{operation['op']}", "sent_at": SENT, "operations": [operation]}
        outcome = await service.one(letter(whole))
        assert outcome.status == "refused"
        assert outcome.key == "k"
        assert "--force" in outcome.note
        assert await service.events() == [] or operation["op"] == "delete"
        assert (await service.one(letter(whole), force=True)).status == "ok"


async def test_a_transaction_whose_messages_were_refused_is_applied(service: Service) -> None:
    """Given one without conditions, when its letter says that it is in the log, then it goes, and changes nothing."""
    operation = {"op": "save", "key": "k", "value": 1}
    message: dict[str, Any] = {"exchange": "orders", "routing_key": "", "body": None, "headers": {}}
    whole = {"op": "transact", "id": "t", "sent_at": SENT, "operations": [operation], "messages": [message]}
    await one(service.engine, transact(operation, id="t", sent_at=SENT, messages=[message]))
    await apply(service.engine, save("k", "newer"))
    assert (await service.one(letter(whole, reason="outbox_refused"))).status == "ok"
    assert await service.value() == "newer"


async def test_a_condition_that_still_holds(service: Service) -> None:
    """Given a command with the etag of what is there, when it is replayed, then it is applied, whenever that was."""
    there = await one(service.engine, save("k", "old"))
    assert (await service.one(letter(wire("r1", etag=there["etag"])))).ok


async def test_who_may_not_look_may_not_overwrite(service: Service) -> None:
    """Given an operator without the right to read, when a letter is replayed, then it is not sent."""
    denied = Reply.model_validate({"status": "denied", "error": {"code": "denied", "message": "you may not read"}})
    service.sender.instead["state"] = denied
    outcome = await service.one(letter(wire("r1")))
    assert (outcome.status, service.sender.sent) == ("denied", [])
    assert "what is there now cannot be read" in outcome.note


async def test_an_author_who_may_not_read_learns_nothing_and_overwrites_nothing(service: Service) -> None:
    """Given an author without the right to read, when his command meets what is newer, then it stays a letter."""
    hidden = {"status": "conflict", "error": {"code": "hidden", "message": "not told"}}
    service.sender.instead["r1"] = Reply.model_validate(hidden)
    outcome = await service.one(letter(wire("r1")))
    assert outcome.status == "newer"
    assert outcome.note.startswith("what is there, ")


async def test_a_deletion_that_cannot_be_dated_counts_as_newer(service: Service) -> None:
    """Given a key whose deletion no history shows yet, when a letter is replayed, then it is not brought back."""
    service.clock.pass_(-120)
    await apply(service.engine, save("k", "old"), delete("k"))
    service.clock.pass_(120)
    service.sender.instead["deleted"] = Reply.model_validate({"status": "ok", "events": []})
    assert (await service.one(letter(wire("r1")))).status == "newer"


# Several letters on one key.


async def test_letters_on_one_key_follow_each_other(service: Service) -> None:
    """Given two saves of one key, when both are replayed, then the one that was sent last is there in the end.

    That the first is newer than the second, now, is the replay's own doing. In which order the letters stand in the
    queue plays no part.
    """
    early = letter(wire("r1", value="early"), id="a" * 16)
    late = letter(wire("r2", value="late", sent_at=SENT + 1), id="b" * 16)
    outcomes, done = await service.replay(late, early)
    assert [(outcome.id, outcome.note) for outcome in outcomes] == [("r1", "version 1"), ("r2", "version 2")]
    assert done == [True, True]
    assert await service.value() == "late"


async def test_a_letter_that_is_replayed_later_does_not_undo_a_later_one(service: Service) -> None:
    """Given two saves of one key, when the later one is replayed first, then the earlier one is too late."""
    await service.one(letter(wire("r2", value="late", sent_at=SENT + 1)))
    assert (await service.one(letter(wire("r1", value="early")))).status == "newer"


async def test_a_write_between_two_letters_is_not_undone(service: Service) -> None:
    """Given two saves of one key, when somebody writes it between their replays, then the second does not follow."""
    service.sender.before["r2"] = lambda: one(service.engine, save("k", "just now"))
    letters = [letter(wire("r1"), id="a" * 16), letter(wire("r2", sent_at=SENT + 1), id="b" * 16)]
    outcomes, done = await service.replay(*letters)
    assert [outcome.status for outcome in outcomes] == ["ok", "newer"]
    assert done == [True, False]
    assert await service.value() == "just now"


async def test_an_earlier_letter_on_a_later_page_is_too_late(service: Service) -> None:
    """Given one replay, when the earlier save of a key comes on a later page, then it does not undo the later save."""
    late = letter(wire("r2", value="late", sent_at=SENT + 1), id="b" * 16)
    queue, statuses = await replay_pages(service, [late], [letter(wire("r1", value="early"))])
    assert statuses == ["ok", "newer"]
    assert queue.removed == ["b" * 16]
    assert await service.value() == "late"


async def test_a_write_between_two_pages_is_not_undone(service: Service) -> None:
    """Given one replay, when somebody writes a key between two pages, then its second letter does not follow that."""
    service.sender.before["r3"] = lambda: one(service.engine, save("k", "just now"))
    pages = [[letter(wire("r1"))], [letter(wire("r3", "other"))], [letter(wire("r2", sent_at=SENT + 1), id="b" * 16)]]
    _, statuses = await replay_pages(service, *pages)
    assert statuses == ["ok", "ok", "newer"]
    assert await service.value() == "just now"


async def test_letters_without_times_keep_the_order_of_the_queue(service: Service) -> None:
    """Given saves that do not say when they were sent, when all are replayed, then in the order of the letters."""
    letters = [letter(wire(f"r{n}", value=n, sent_at=None), id=f"{n:016x}", time=NOW - 1000) for n in range(5)]
    outcomes, _ = await service.replay(*letters)
    assert [outcome.note for outcome in outcomes] == [f"version {n + 1}" for n in range(5)]
    assert await service.value() == 4


async def test_what_is_on_its_way_is_not_overtaken(service: Service) -> None:
    """Given a command without an answer, when another on its key is to follow, then it is not sent; others are."""
    service.sender.instead["r1"] = OutcomeUnknown("no answer", id="r1")
    letters = [
        letter(wire("r1"), id="a" * 16),
        letter(wire("r2", sent_at=SENT + 1), id="b" * 16),
        letter(wire("r3", key="other"), id="c" * 16),
    ]
    outcomes, done = await service.replay(*letters)
    assert {outcome.id: outcome.status for outcome in outcomes} == {"r1": "unknown", "r2": "refused", "r3": "ok"}
    assert done == [False, False, True]
    assert "r2" not in service.sender.sent


async def test_keys_do_not_wait_for_each_other(service: Service) -> None:
    """Given letters on many keys, when one has to wait for its answer, then the others are answered meanwhile."""
    others = asyncio.Event()
    service.sender.before["r0"] = others.wait
    told: list[str | None] = []

    def tell(outcome: Outcome) -> None:
        told.append(outcome.id)
        if len(told) == 9:
            others.set()

    letters = [letter(wire(f"r{n}", key=f"k{n}"), id=f"{n:016x}") for n in range(10)]
    async with asyncio.timeout(10):
        await Replayer(service.sender).replay(letters, told=tell)
    assert told[-1] == "r0"


# Arrays.


async def test_an_array_is_done_when_all_of_it_is(service: Service) -> None:
    """Given an array with one command that fails, when it is replayed, then the others are applied, and it stays."""
    service.sender.instead["r2"] = Reply.model_validate(
        {"status": "internal", "error": {"code": "internal", "message": "no"}}
    )
    whole = letter(*(wire(f"r{n}", key=f"k{n}") for n in range(4)))
    outcomes, done = await service.replay(whole)
    assert {outcome.id: outcome.status for outcome in outcomes} == {
        "r0": "ok",
        "r1": "ok",
        "r2": "internal",
        "r3": "ok",
    }
    assert done == [False]
    del service.sender.instead["r2"]
    outcomes, done = await service.replay(whole)
    assert {outcome.note for outcome in outcomes} == {"version 1"}
    assert done == [True]
    assert len(await service.events()) == 4


async def test_a_bad_command_in_an_array_keeps_the_letter(service: Service) -> None:
    """Given an array with a command that breaks a rule, when it is replayed, then the good one is applied."""
    outcomes, done = await service.replay(letter(wire("r1"), {"op": "save", "id": "r2"}, 7))
    assert [(outcome.id, outcome.status) for outcome in outcomes] == [
        ("r2", "refused"),
        (None, "refused"),
        ("r1", "ok"),
    ]
    assert outcomes[0].note == "missing_field: key: is required"
    assert done == [False]


# What is not sent.


@pytest.mark.parametrize(
    ("body", "note"),
    [
        (b"\xff", "malformed: not JSON"),
        (b"[]", "there is no command in it"),
        (b"7", "malformed: a message is a command or an array of commands"),
        (b'{"op": "sav", "id": "r1"}', "bad_op: op: must be one of"),
        (b'{"op": "save", "id": "r1", "key": "k", "value": 1, "colour": 2}', "unknown_field: colour: is"),
        (b" " * (4 * 1024 * 1024 + 1), "too_large: "),
    ],
)
async def test_what_is_no_command_is_not_sent(service: Service, body: bytes, note: str) -> None:
    """Given a letter that no worker would take, when it is replayed, then it is told why not, force or not."""
    for force in (False, True):
        outcome = await service.one(letter(body=body), force=force)
        assert outcome.status == "refused"
        assert outcome.note.startswith(note)
    assert service.sender.asked == []


async def test_a_letter_of_an_unknown_sender_is_sent_in_nobodys_name(service: Service) -> None:
    """Given properties that could not be read, when the letter is replayed, then only in the operator's own name."""
    lost = letter(wire("r1"), readable=False)
    outcome = await service.one(lost, force=True)
    assert (outcome.status, outcome.id) == ("refused", "r1")
    assert service.sender.asked == []
    assert (await service.one(lost, as_me=True)).ok
    assert [event.author for event in await service.events()] == ["operator"]


@pytest.mark.parametrize("force", [False, True])
async def test_what_is_older_than_seven_days_is_never_sent_again(service: Service, force: bool) -> None:
    """Given a command from before the fence window, when it is replayed, then that is said, and no refusal recorded."""
    outcome = await service.one(letter(wire("r1", sent_at=NOW - FENCE_WINDOW_MS - 1)), force=force)
    assert outcome.status == "expired"
    assert "sent more than 7 days ago" in outcome.note
    assert (await service.one(letter(wire("r2", sent_at=NOW - FENCE_WINDOW_MS)), force=force)).ok
    assert [record.id for record in await service.store.log()] == ["r2"]


@pytest.mark.parametrize("time", [None, NOW - FENCE_WINDOW_MS - 1])
async def test_what_may_be_older_than_seven_days_needs_force(service: Service, time: int | None) -> None:
    """Given a command of unknown age in an old letter, when it is replayed, then only by force."""
    old = letter(wire("r1", sent_at=None), time=time)
    assert "--force sends it" in (await service.one(old)).note
    assert service.sender.asked == []
    assert (await service.one(old, force=True)).ok


async def test_a_command_without_an_id_needs_force_and_is_then_sent_once(service: Service) -> None:
    """Given a command that has no id, when it is replayed by force, and again, then it is applied once."""
    command = wire("-")
    del command["id"]
    nameless = letter(command)
    assert "it has no id" in (await service.one(nameless)).note
    assert service.sender.asked == []
    for _ in range(2):
        assert (await service.one(nameless, force=True)).note == "version 1"
    assert len(await service.events()) == 1


# Page by page.


class Pages:
    """A queue of letters that stand on pages."""

    def __init__(self, *pages: list[DeadLetter]) -> None:
        self.left = [[Held(n, each) for n, each in enumerate(page)] for page in pages]
        self.removed: list[str] = []

    async def chosen(self, _: Any) -> AsyncIterator[list[Held]]:
        while self.left:
            yield self.left.pop(0)

    async def remove(self, letters: Iterable[Held]) -> None:
        self.removed += [held.letter.id for held in letters]


async def replay_pages(service: Service, *pages: list[DeadLetter]) -> tuple[Pages, list[str]]:
    queue, told = Pages(*pages), list[Outcome]()
    await replay_letters(cast("DeadLetterQueue", queue), Replayer(service.sender), Filter(), told=told.append)
    return queue, [outcome.status for outcome in told]


async def test_each_page_is_removed_before_the_next_is_sent(service: Service) -> None:
    """Given two pages, when they are replayed, then what is done is removed page by page, and nothing else."""
    bad = letter(body=b"no JSON", id="b" * 16)
    pages = [[letter(wire("r1")), bad], [letter(wire("r2", "other"), id="c" * 16)]]
    queue, statuses = await replay_pages(service, *pages)
    assert statuses == ["refused", "ok", "ok"]
    assert queue.removed == ["00000000000000a1", "c" * 16]


async def test_nobody_waits_for_page_after_page_when_no_worker_answers(service: Service) -> None:
    """Given a worker that has gone, when a page has no answer at all, then the next one is not tried."""
    service.sender.instead["r1"] = OutcomeUnknown("no answer")
    silent = [letter(wire("r1")), letter(wire("r2", sent_at=SENT + 1)), letter(body=b"no JSON")]
    with pytest.raises(Unavailable, match="no worker answers any more"):
        await replay_pages(service, silent, [letter(wire("r3"))])
    assert service.sender.sent == ["r1"]
    # Pages on which nothing is to be sent, or something is answered, are no reason to stop; nor is the last one.
    answered = [letter(wire("r1")), letter(wire("r4", "other"))]
    queue, _ = await replay_pages(service, [letter(body=b"no JSON")], answered, silent)
    assert queue.left == []


# What fails.


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (NotInTheirNameError("not as ada"), "refused", "--as-me"),
        (Unavailable("its queue is full"), "unavailable", "its queue is full"),
        (OutcomeUnknown("no answer"), "unknown", "Replay it again to know"),
    ],
)
async def test_what_gets_no_answer_stays(service: Service, fault: Exception, status: str, said: str) -> None:
    """Given a command that gets no answer, when it is replayed, then its letter stays, and it is told why."""
    service.sender.instead["r1"] = fault
    outcome = await service.one(letter(wire("r1")))
    assert outcome.status == status
    assert said in outcome.note


@pytest.mark.parametrize("status", ["internal", "invalid", "denied", "unknown_store", "too_large", "expired", "new"])
async def test_what_is_refused_stays(service: Service, status: str) -> None:
    """Given a command that fails again, when it is replayed, then its letter stays, with the worker's words."""
    reply = {"status": status, "error": {"code": "code", "message": "why"}}
    service.sender.instead["r1"] = Reply.model_validate(reply)
    outcome = await service.one(letter(wire("r1")))
    assert (outcome.status, outcome.note) == (status, "code: why")


async def test_a_first_write_that_was_refused_stays_refused(service: Service) -> None:
    """Given a first-write that lost, when it is replayed after the key has gone, then its answer is the same."""
    await one(service.engine, save("k", 1))
    command = first("k", 2, id="r1")
    assert brief(await one(service.engine, command)) == "conflict exists"
    await one(service.engine, delete("k"))
    outcome = await service.one(letter(command.model_dump(exclude_unset=True)))
    assert outcome.status == "conflict"


# Patches.


def change(command_id: str, kind: str, patch: Any, **fields: Any) -> dict[str, Any]:
    return {"op": "patch", "id": command_id, "key": "k", "kind": kind, "patch": patch, "sent_at": SENT, **fields}


async def test_an_increment_adds_to_what_came_later(service: Service) -> None:
    """Given a counter that went on, when an increment is replayed, then it counts on top; and once, however often."""
    await one(service.engine, save("k", 10))
    for _ in range(2):
        assert (await service.one(letter(change("r1", "increment", {"": 1})))).ok
    assert await service.value() == 11


@pytest.mark.parametrize(
    ("kind", "patch"), [("merge", {"a": 1}), ("json-patch", [{"op": "add", "path": "/a", "value": 1}])]
)
async def test_other_patches_do_not_undo_what_came_later(service: Service, kind: str, patch: Any) -> None:
    """Given a value that was saved after a patch was sent, when that is replayed, then only by force."""
    await one(service.engine, save("k", {"a": 2}))
    assert (await service.one(letter(change("r1", kind, patch)))).status == "newer"
    assert (await service.one(letter(change("r1", kind, patch)), force=True)).ok
    assert await service.value() == {"a": 1}


async def test_a_patch_from_before_the_fence_window_is_never_sent(service: Service) -> None:
    """Given a patch whose repeat nobody would recognise any more, when it is replayed, then it is not."""
    old = change("r1", "increment", {"": 1}) | {"sent_at": NOW - FENCE_WINDOW_MS - 1}
    assert (await service.one(letter(old))).status == "expired"
    assert await service.events() == []
