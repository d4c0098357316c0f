"""Nothing happens twice: whatever is delivered again, however late, gets the answer that it got the first time."""

import pytest
from support.commands import Operation, apply, brief, delete, first, one, read, request, save, wire
from support.engines import Clock, another_worker, engine_on
from support.scripted import ScriptedStore, away, lost_after, meanwhile

from holdfast.events import StoreUnavailable
from holdfast.worker import Batch


@pytest.mark.parametrize("redelivered", [True, False])
async def test_a_repeated_save_changes_nothing(redelivered: bool) -> None:
    """Given an applied save, when it comes again, by the broker or by its sender, then the answer is the first one."""
    store = await ScriptedStore.opened()
    command = save("k", {"n": 1})
    before = await one(engine_on(store), command)
    after = await one(engine_on(store), request(command, redelivered=redelivered))
    assert after == before
    assert await store.versions_of("k") == [1]


async def test_a_repeat_after_later_writes_still_has_its_own_answer() -> None:
    """Given a save that others followed, when it comes again, then its answer names the version that it made."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    early = save("k", 1)
    before = await one(engine, early)
    await apply(engine, save("k", 2), delete("k"), save("k", 3))
    assert await one(engine, early) == before
    assert await store.versions_of("k") == [1, 2, 3, 4]


async def test_a_copy_of_a_delete_of_nothing_deletes_nothing_later() -> None:
    """A delete found nothing and said so; then the key was saved; then a copy of the delete arrives.

    It must not delete what was saved after its sender had been answered.
    """
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    command = delete("k")
    before = await one(engine, command)
    assert brief(before) == "unchanged"
    await one(engine, save("k", "precious"))
    assert await one(engine, command) == before
    assert await one(engine, request(command, redelivered=True)) == before
    assert (await one(engine, read("k")))["value"] == "precious"


async def test_a_copy_of_a_refused_first_write_creates_nothing_later() -> None:
    """A first-write met a key and was refused; then the key was deleted; then a copy of the first-write arrives.

    Somebody saw the refusal, so it has to stay one.
    """
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", 1))
    command = first("k", 2)
    before = await one(engine, command)
    assert brief(before) == "conflict exists"
    await one(engine, delete("k"))
    assert await one(engine, command) == before
    assert await one(engine_on(store), request(command, redelivered=True)) == before
    assert brief(await one(engine, read("k"))) == "absent"


async def test_a_repeated_delete_still_says_that_it_deleted() -> None:
    """A delete was applied and its reply was lost; its retry finds the key absent, but its answer is the first one."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", 1))
    command = delete("k")
    before = await one(engine, command)
    assert brief(before) == "ok v2"
    assert before["changed"] is True
    assert await one(engine, command) == before
    assert await store.versions_of("k") == [1, 2]


async def test_a_refusal_is_in_the_log_before_it_is_answered() -> None:
    """Given an array of writes and refusals, when the worker dies before it answers, then the next one repeats all.

    The refusals stand in the log beside the events, so that one acknowledgement is right for all of them.
    """
    store = await ScriptedStore.opened()
    await one(engine_on(store), save("here", 0))
    commands: list[Operation] = [save("a", 1), first("here", 1), delete("nothing"), save("b", 2)]
    before = await apply(engine_on(store), *commands)
    assert [brief(answer) for answer in before] == ["ok v1", "conflict exists", "unchanged", "ok v1"]
    await one(engine_on(store), delete("here"))
    await one(engine_on(store), save("nothing", 1))
    after = await apply(engine_on(store), *(request(command, redelivered=True) for command in commands))
    assert after == before


async def test_two_workers_with_one_refusal_agree() -> None:
    """A first-write is delivered to a paused owner and to the new one; between them the key goes away.

    Whoever writes its outcome into the log first has decided it for both.
    """
    store = await ScriptedStore.opened()
    await one(engine_on(store), save("k", 1))
    command = first("k", 2)
    # The paused owner has looked and found the key; before it records its refusal, the key is deleted and the
    # new owner applies the same command.
    store.script("append", meanwhile(another_worker(store, delete("k"), command)))
    answer = await one(engine_on(store), command)
    assert brief(answer) == "ok v3"
    assert await store.versions_of("k") == [1, 2, 3]


async def test_the_retry_of_a_first_write_in_the_same_batch_gets_its_success() -> None:
    """A worker died; the queue holds a first-write and its sender's retry, and one batch takes both.

    The retry must not get a conflict for its own success.
    """
    store = await ScriptedStore.opened()
    command = first("k", 1)
    answers = await apply(engine_on(store), request(command, redelivered=True), command)
    assert [brief(answer) for answer in answers] == ["ok v1", "ok v1"]
    assert answers[0] == answers[1]
    assert await store.versions_of("k") == [1]


async def test_the_retry_of_a_save_in_the_same_batch_disturbs_nothing() -> None:
    """Given a save, another one, and the retry of the first in one batch, then each applies once, in one append."""
    store = await ScriptedStore.opened()
    command, other = save("k", 1), save("k", 2)
    answers = await apply(engine_on(store), command, other, command)
    assert [brief(answer) for answer in answers] == ["ok v1", "ok v2", "ok v1"]
    assert store.calls["append"] == 1


async def test_the_retry_of_a_refused_command_in_the_same_batch_is_refused_alike() -> None:
    """Given refused commands and their retries in one batch, though the key changes between, no retry applies."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", 1))
    create, stale = first("k", 2), save("k", 3, etag="9-00000000")
    answers = await apply(engine, create, stale, delete("k"), create, stale)
    assert [brief(answer) for answer in answers] == [
        "conflict exists",
        "conflict etag_mismatch",
        "ok v2",
        "conflict exists",
        "conflict etag_mismatch",
    ]
    assert answers[0] == answers[3]
    assert answers[1] == answers[4]


async def test_the_repeat_of_an_etag_save_is_no_conflict() -> None:
    """Given an applied save with an etag, when it comes again, then its etag no longer matches, but its id counts."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    etag = (await one(engine, save("k", 1)))["etag"]
    command = save("k", 2, etag=etag)
    before = await one(engine, command)
    assert brief(before) == "ok v2"
    assert await one(engine, command) == before
    assert await one(engine_on(store), request(command, redelivered=True)) == before


@pytest.mark.parametrize(
    ("other", "author"),
    [
        (save("k", 2, id="x"), "ada"),
        (save("other", 1, id="x"), "ada"),
        (delete("k", id="x"), "ada"),
        (first("k", 1, id="x"), "ada"),
        (save("k", 1, id="x", metadata={"why": "not"}), "ada"),
        (save("k", 1, id="x"), "bob"),
        (save("k", 1, id="x"), None),
    ],
    ids=["value", "key", "op", "condition", "metadata", "author", "no author"],
)
@pytest.mark.parametrize("together", [True, False], ids=["one batch", "later"])
async def test_an_id_belongs_to_one_command(other: object, author: str | None, together: bool) -> None:
    """Given an applied command, when another command or author uses its id, then it is told so and nothing happens."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    original = request(save("k", 1, id="x"), author="ada")
    intruder = request(other, author=author)  # type: ignore[arg-type]
    if together:
        answers = await apply(engine, original, intruder, save("k", 3))
        assert [brief(answer) for answer in answers] == ["ok v1", "invalid id_reused", "ok v2"]
    else:
        await apply(engine, original)
        answers = await apply(engine, intruder, save("k", 3))
        assert [brief(answer) for answer in answers] == ["invalid id_reused", "ok v2"]
    assert await store.versions_of("k") == [1, 2]
    assert await store.versions_of("other") == []


async def test_an_id_that_is_reused_in_front_of_its_owner_takes_nothing_from_it() -> None:
    """Given an applied command, when an intruder under its id comes with its repeat, then the repeat has its answer."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    original = save("k", 1, id="x")
    before = await one(engine, original)
    answers = await apply(engine_on(store), save("k", 2, id="x"), request(original, redelivered=True))
    assert brief(answers[0]) == "invalid id_reused"
    assert answers[1] == before


async def test_many_commands_under_one_id_cost_one_look() -> None:
    """Given a sender that gives all its commands one id, when they meet, then one look tells them all."""
    store = await ScriptedStore.opened()
    answers = await apply(engine_on(store), *(save(f"k{number}", number, id="x") for number in range(500)))
    assert [brief(answer) for answer in answers] == ["ok v1"] + ["invalid id_reused"] * 499
    assert store.calls["append"] == 1
    assert store.calls["find"] == 1


async def test_a_refused_id_cannot_be_used_again() -> None:
    """Given a recorded refusal, when another command uses its id, then the id is taken, though nothing was changed."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, delete("nothing", id="x"))
    assert brief(await one(engine, save("k", 1, id="x"))) == "invalid id_reused"
    assert await store.versions_of("k") == []


async def test_a_mismatch_leaves_no_trace() -> None:
    """Given a save with an etag that can never match, when it is refused, then nothing of it is kept."""
    store = await ScriptedStore.opened()
    answer = await one(engine_on(store), save("k", 1, etag="1-00000000"))
    assert brief(answer) == "conflict absent"
    assert await store.log() == []


async def test_an_id_counts_for_one_store_only() -> None:
    """Given two stores, when one id is used in both, then it is two commands."""
    one_store, other_store = await ScriptedStore.opened(), await ScriptedStore.opened()
    for store in (one_store, other_store):
        assert brief(await one(engine_on(store), save("k", 1, id="x"))) == "ok v1"


async def test_an_intruder_behind_a_conflict_learns_nothing_of_the_owner() -> None:
    """Given an applied command, when somebody else's save with a bad etag uses its id, then only the reuse is told."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await apply(engine, request(save("k", "secret", id="x"), author="ada"))
    answers = await apply(engine, request(save("k", 2, id="x", etag="nonsense", return_current=True), author="bob"))
    assert brief(answers[0]) == "invalid id_reused"
    assert "current" not in answers[0]["error"]


async def test_many_repeats_take_one_query() -> None:
    """Given a worker that died after a large append, when all of it comes again, then one query answers everything."""
    store = await ScriptedStore.opened()
    commands = [save(f"k{number}", number) for number in range(500)]
    before = await apply(engine_on(store), *commands)
    store.calls.clear()
    after = await apply(engine_on(store), *(request(command, redelivered=True) for command in commands))
    assert after == before
    assert store.calls == {"find": 1}


async def test_many_repeats_that_nobody_announced_take_few_queries() -> None:
    """Given clients that send a batch again by themselves, when the first repeat is found, then all are looked up."""
    store = await ScriptedStore.opened()
    commands = [save(f"k{number}", number) for number in range(500)]
    before = await apply(engine_on(store), *commands)
    store.calls.clear()
    assert await apply(engine_on(store), *commands, save("new", 1)) != before
    assert store.calls["append"] == 2
    assert store.calls["find"] == 1


async def test_a_command_that_came_too_late_stays_refused() -> None:
    """Given a save past its deadline, when it is sent again with a new deadline, then it stays refused."""
    store = await ScriptedStore.opened()
    clock = Clock()
    engine = engine_on(store, clock)
    late = await one(engine, save("k", 1, id="x", deadline=clock.now() - 1))
    assert brief(late) == "expired deadline"
    assert await one(engine, save("k", 1, id="x", deadline=clock.now() + 60_000)) == late
    assert await store.versions_of("k") == []


async def test_an_applied_command_is_not_late_when_it_comes_again() -> None:
    """Given an applied save, when its copy arrives past the deadline, at another worker, then it says ``ok`` still."""
    store = await ScriptedStore.opened()
    clock = Clock()
    command = save("k", 1, deadline=clock.now() + 1000)
    before = await one(engine_on(store, clock), command)
    clock.pass_(10)
    assert await one(engine_on(store, clock), command) == before
    assert await one(engine_on(store, clock), request(command, redelivered=True)) == before


async def test_a_batch_that_is_applied_again_keeps_the_answers_that_it_has() -> None:
    """Given a batch whose reads failed after its append, when it is applied again, then nothing is appended twice."""
    store = await ScriptedStore.opened()
    await one(engine_on(store), save("other", "here"))
    batch = Batch.of([request(save("k", 1)), request(read("other"))])
    writing, reading = batch.pending
    store.script("versions", away)
    engine = engine_on(store)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    assert brief(wire(writing.answer)) == "ok v1"
    assert batch.pending == [reading]
    await engine.apply(batch)
    assert wire(reading.answer)["value"] == "here"
    assert await store.versions_of("k") == [1]


async def test_a_repeat_of_a_conflict_has_the_value_that_the_first_met() -> None:
    """Given a refused first-write that asked for the current value, when it comes again, then it gets that value."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", "met"))
    command = first("k", 2, return_current=True)
    before = await one(engine, command)
    assert before["error"]["current"] == "met"
    await one(engine, save("k", "later"))
    assert await one(engine, command) == before
    assert await one(engine_on(store), request(command, redelivered=True)) == before


async def test_a_conflict_without_its_value_is_not_given_out() -> None:
    """Given a refused first-write that asks for the value, when fetching that fails, then it has no answer yet."""
    store = await ScriptedStore.opened()
    await one(engine_on(store), save("k", "met"))
    batch = Batch.of([request(first("k", 2, return_current=True))])
    asking = batch.pending[0]
    store.script("events", away)
    engine = engine_on(store)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    assert asking.answer is None
    await engine.apply(batch)
    assert wire(asking.answer)["error"]["current"] == "met"


async def test_a_lost_answer_to_an_append_is_found_in_the_log() -> None:
    """Given an append that landed without an answer, when the batch is applied again, then the log answers it."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    store.script("append", lost_after)
    batch = Batch.of([request(save("a", 1)), request(delete("b"))])
    made = list(batch.pending)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    assert [each.answer for each in made] == [None, None]
    await engine.apply(batch)
    assert [brief(wire(each.answer)) for each in made] == ["ok v1", "unchanged"]
    assert store.calls["append"] == 1
