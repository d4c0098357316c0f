"""What a worker remembers, and what a deposed primary says, may be behind the log: no answer may show it."""

import pytest
from support.commands import apply, brief, delete, first, one, read, request, save, wire
from support.engines import Clock, another_worker, engine_on
from support.scripted import ScriptedStore, away, lost_before, meanwhile

from holdfast.events import StoreUnavailable
from holdfast.worker import Batch, Engine


async def remembering(store: ScriptedStore, key: str = "k") -> Engine:
    """An engine that has saved the key once, and remembers that."""
    engine = engine_on(store)
    await one(engine, save(key, "old"))
    return engine


# -- strong reads


async def test_a_strong_read_sees_what_another_worker_wrote() -> None:
    """Given a worker that remembers a key, when another one writes it, then the first one's next read shows that."""
    store = await ScriptedStore.opened()
    engine = await remembering(store)
    await another_worker(store, save("k", "new"))()
    answer = await one(engine, read("k"))
    assert (answer["value"], answer["version"]) == ("new", 2)


async def test_a_strong_read_does_not_believe_a_deposed_primary() -> None:
    """Given a primary that has not noticed that it was replaced, when it is asked, then a strong read is not stale."""
    store = await ScriptedStore.opened()
    await store.fall_behind()
    await another_worker(store, save("k", "new"))()
    answer = await one(engine_on(store), read("k"))
    assert (answer["exists"], answer.get("value")) == (True, "new")


async def test_the_fence_of_a_strong_read_is_made_after_the_read_came_in() -> None:
    """Given a read in hand, when another worker's write is acknowledged before the fence, then the read shows it."""
    store = await ScriptedStore.opened()
    engine = await remembering(store)
    store.script("fence", meanwhile(another_worker(store, save("k", "new"))))
    assert (await one(engine, read("k")))["value"] == "new"
    assert store.finished


async def test_reads_of_a_batch_that_appends_need_no_fence_of_their_own() -> None:
    """Given a batch with a write and a read of another key, when it is applied, then the append is the fence."""
    store = await ScriptedStore.opened()
    await one(engine_on(store), save("other", "here"))
    store.calls.clear()
    answers = await apply(engine_on(store), save("k", 1), read("other"))
    assert answers[1]["value"] == "here"
    assert store.calls["fence"] == 0


async def test_one_fence_serves_all_reads_and_refusals_of_a_batch() -> None:
    """Given a batch of many reads and conflicts, when it is applied, then one fence and one query of a kind do."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await apply(engine, *(save(f"k{number}", number) for number in range(50)))
    store.calls.clear()
    commands = [read(f"k{number}") for number in range(50)]
    stale = [save(f"k{number}", "no", etag="1-00000000") for number in range(50)]
    answers = await apply(engine, *commands, *stale)
    assert [answer["value"] for answer in answers[:50]] == list(range(50))
    assert {brief(answer) for answer in answers[50:]} == {"conflict etag_mismatch"}
    assert store.calls == {"fence": 1, "versions": 1, "find": 1}


async def test_an_event_that_its_reader_cannot_see_yet_is_not_absent() -> None:
    """Given a version that was seen behind the fence, when its event is fetched, then from behind the fence too."""
    store = await ScriptedStore.opened()
    await store.fall_behind()
    await another_worker(store, save("k", 1), save("k", 2))()
    # The read of the old version and the write are decided on what another worker did, so nothing is remembered.
    answers = await apply(engine_on(store), read("k"), save("k", 3), read("k"))
    assert [brief(answer) for answer in answers] == ["ok v2", "ok v3", "ok v3"]
    assert answers[0]["value"] == 2


async def test_values_that_are_remembered_are_not_fetched_again() -> None:
    """Given a value that is remembered for its version, when the version still holds, then only versions are asked."""
    store = await ScriptedStore.opened()
    engine = await remembering(store)
    store.calls.clear()
    assert (await one(engine, read("k")))["value"] == "old"
    assert store.calls == {"fence": 1, "versions": 1}


# -- eventual reads


async def test_an_eventual_read_of_a_remembered_key_asks_nobody() -> None:
    """Given a key that is remembered, when it is read eventually, then no query is made, and it may be old."""
    store = await ScriptedStore.opened()
    engine = await remembering(store)
    await another_worker(store, save("k", "new"))()
    store.calls.clear()
    assert (await one(engine, read("k", consistency="eventual")))["value"] == "old"
    assert store.calls == {}


async def test_an_eventual_read_of_an_unknown_key_needs_no_fence() -> None:
    """Given a key that nothing is known of, when it is read eventually, then it is read without a fence."""
    store = await ScriptedStore.opened()
    await another_worker(store, save("k", "new"))()
    assert (await one(engine_on(store), read("k", consistency="eventual")))["value"] == "new"
    assert store.calls["fence"] == 0


async def test_an_eventual_read_never_shows_what_did_not_land() -> None:
    """Given an eventual read behind a save that lost against another worker, then it does not show what was lost."""
    store = await ScriptedStore.opened()
    engine = await remembering(store)
    store.script("append", meanwhile(another_worker(store, save("k", "theirs"))))
    answers = await apply(engine, save("k", "ours"), read("k", consistency="eventual"))
    assert [(answer["version"], answer.get("value")) for answer in answers] == [(3, None), (3, "ours")]


# -- conflicts


async def test_an_etag_that_matches_the_log_is_no_conflict() -> None:
    """A worker remembers version 1 of a key; another makes version 2; a save comes with the etag of version 2.

    It matched all the time from when it was sent, so it must not be refused.
    """
    store = await ScriptedStore.opened()
    engine = await remembering(store)
    other = await one(engine_on(store.inner), save("k", "new"))
    assert brief(await one(engine, save("k", "newer", etag=other["etag"]))) == "ok v3"


async def test_a_delete_with_an_etag_that_matches_the_log_is_no_conflict() -> None:
    """Given a worker that takes a key for absent, when another has saved it, then a delete with its etag applies."""
    store = await ScriptedStore.opened()
    engine = await remembering(store)
    await one(engine, delete("k"))
    other = await one(engine_on(store.inner), save("k", "again"))
    assert brief(await one(engine, delete("k", etag=other["etag"]))) == "ok v4"


async def test_a_conflict_tells_the_state_that_is_there_now() -> None:
    """Given a stale etag and a worker that is behind, when the save is refused, then with the etag that is there."""
    store = await ScriptedStore.opened()
    engine = await remembering(store)
    theirs = save("k", "new")
    other = await one(engine_on(store.inner), theirs)
    answer = await one(engine, save("k", "no", etag="7-00000000", return_current=True))
    error = answer["error"]
    assert (error["expected"], error["actual"], error["winner"]) == ("7-00000000", other["etag"], theirs.id)
    assert error["current"] == "new"


async def test_a_first_write_is_not_refused_for_a_key_that_has_gone() -> None:
    """Given a worker that remembers a key, when another has deleted it, then a first-write is applied."""
    store = await ScriptedStore.opened()
    engine = await remembering(store)
    await another_worker(store, delete("k"))()
    assert brief(await one(engine, first("k", "again"))) == "ok v3"


async def test_a_delete_is_not_told_that_nothing_was_there_when_something_was() -> None:
    """Given a worker that takes a key for absent, when another has saved it, then a delete deletes it."""
    store = await ScriptedStore.opened()
    engine = await remembering(store)
    await one(engine, delete("k"))
    await another_worker(store, save("k", "again"))()
    assert brief(await one(engine, delete("k"))) == "ok v4"


async def test_a_refusal_in_front_of_an_own_write_is_made_sure_of_before() -> None:
    """Given a delete of a key that seems absent and then a save of it, when another has saved it, then both apply.

    The save would meet the truth at its append, but the refusal in front of it would be in the log by then.
    """
    store = await ScriptedStore.opened()
    engine = await remembering(store)
    await one(engine, delete("k"))
    await another_worker(store, save("k", "again"))()
    answers = await apply(engine, delete("k"), save("k", "last"))
    assert [brief(answer) for answer in answers] == ["ok v4", "ok v5"]


async def test_refusals_stay_proven_when_time_passes_between_two_looks() -> None:
    """A save that makes a key is in time, and a first-write behind it would be refused for it.

    While another key is looked at, the save's deadline passes. Then the first-write must not be refused for what
    the worker remembers of the key, which nobody has made sure of.
    """
    store = await ScriptedStore.opened()
    clock = Clock()
    engine = engine_on(store, clock)
    await apply(engine, save("k", "old"), save("other", 1))
    await another_worker(store, delete("k"))()

    async def time_passes() -> None:
        clock.pass_(10)

    store.script("fence", meanwhile(time_passes))
    in_time = save("k", 1, deadline=clock.now() + 5000)
    answers = await apply(engine, in_time, first("k", 2), first("other", 2))
    assert store.finished
    assert [brief(answer) for answer in answers] == ["expired deadline", "ok v3", "conflict exists"]


async def test_a_command_that_is_decided_again_is_not_overtaken_by_a_read() -> None:
    """A worker is behind: it would refuse a save, and decides it again. A read of the key was sent behind the save.

    The read must not be answered in between, with the state from before the save.
    """
    store = await ScriptedStore.opened()
    engine = await remembering(store)
    other = await one(engine_on(store.inner), save("k", "theirs"))
    answers = await apply(engine, read("k"), save("k", "ours", etag=other["etag"]), read("k"))
    assert [brief(answer) for answer in answers] == ["ok v2", "ok v3", "ok v3"]
    assert answers[2]["value"] == "ours"


async def test_a_key_that_moves_after_the_look_leaves_the_refusal_right() -> None:
    """Given a first-write that was refused behind a fence, when the key goes away before the append, then it stands."""
    store = await ScriptedStore.opened()
    engine = await remembering(store)
    store.script("append", meanwhile(another_worker(store, delete("k"))))
    assert brief(await one(engine, first("k", 1))) == "conflict exists"


# -- a primary that stays behind


async def test_progress_on_a_primary_that_stays_behind() -> None:
    """Given a deposed primary that never catches up, when writes rest on what it says, then fences get them on.

    The first append fails at the index; from then on looks are taken behind a fence, and one more append is enough.
    """
    store = await ScriptedStore.opened()
    await store.fall_behind()
    await another_worker(store, save("k", 1), save("k", 2))()
    assert brief(await one(engine_on(store), save("k", 3))) == "ok v3"
    assert store.calls["append"] == 2


async def test_etags_on_a_primary_that_stays_behind() -> None:
    """Given a deposed primary that never catches up, when a save has the etag that the log has, then it applies."""
    store = await ScriptedStore.opened()
    await store.fall_behind()
    etag = (await one(engine_on(store.inner), save("k", 1)))["etag"]
    assert brief(await one(engine_on(store), save("k", 2, etag=etag))) == "ok v2"


async def test_repeats_on_a_primary_that_stays_behind() -> None:
    """Given a deposed primary that does not have a command's record, when it comes again, then its answer is found."""
    store = await ScriptedStore.opened()
    await store.fall_behind()
    event, refusal, created = save("a", 1), delete("b"), first("c", 1)
    before = await apply(engine_on(store.inner), event, refusal, created)
    again = [request(command, redelivered=True) for command in (event, refusal, created)]
    assert await apply(engine_on(store), *again) == before


# -- knowledge is never ahead of the log


async def test_nothing_is_remembered_of_an_append_that_failed() -> None:
    """Given an append that stopped at a taken version, when it is decided again, then there is no hole."""
    store = await ScriptedStore.opened()
    engine = await remembering(store)
    store.script("append", meanwhile(another_worker(store, save("k", "theirs"))))
    batch = Batch.of([request(save("k", 1)), request(save("k", 2))])
    made = list(batch.pending)
    await engine.apply(batch)
    assert [brief(wire(each.answer)) for each in made] == ["ok v3", "ok v4"]
    assert await store.versions_of("k") == [1, 2, 3, 4]


async def test_nothing_is_remembered_of_an_append_that_never_arrived() -> None:
    """A worker decided version 2, but its append got lost. Whoever writes next makes version 2, not 3.

    A hole at 2 would let a stale save with the etag of version 1 slip in behind version 3.
    """
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    etag = (await one(engine, save("k", 1)))["etag"]
    store.script("append", lost_before)
    with pytest.raises(StoreUnavailable):
        await one(engine, save("k", "lost"))
    assert brief(await one(engine, save("k", 2))) == "ok v2"
    assert brief(await one(engine, save("k", 3, etag=etag))) == "conflict etag_mismatch"
    assert await store.versions_of("k") == [1, 2]


@pytest.mark.parametrize("method", ["append", "fence", "versions", "find"])
async def test_an_error_drops_what_is_remembered_of_the_keys(method: str) -> None:
    """Given a worker that remembers keys, when a batch of theirs fails anywhere, then it looks at them anew."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await apply(engine, save("k", 1), save("refused", 1), save("bystander", 1))
    store.script(method, lost_before if method == "append" else away)
    with pytest.raises(StoreUnavailable):
        await apply(engine, save("k", 2), save("refused", 2, etag="1-00000000"), uncertain=method == "fence")
    assert (engine.knowledge.head("k"), engine.knowledge.head("refused")) == (None, None)
    assert engine.knowledge.head("bystander") is not None


async def test_a_refusal_does_not_wait_for_a_key_that_moves_all_the_time() -> None:
    """Given a key that another worker writes before every look, when a stale save comes, then it is refused.

    What was true at one moment while the command was in hand is an answer; it need not be true for ever.
    """
    store = await ScriptedStore.opened()
    engine = await remembering(store)

    async def move() -> None:
        await another_worker(store, save("k", "theirs"))()

    await move()
    store.always("versions", meanwhile(move))
    assert brief(await one(engine, save("k", "no", etag="1-00000000"))) == "conflict etag_mismatch"
    assert store.calls["versions"] <= 2


async def test_a_refusal_for_ever_does_not_believe_a_deposed_primary() -> None:
    """Given a deposed primary that still has a key which is gone, or misses one which is there, then no refusal rests
    on what it says.
    """
    store = await ScriptedStore.opened()
    await one(engine_on(store), save("gone", 1))
    await store.fall_behind()
    await another_worker(store, delete("gone"), save("there", 1))()
    answers = await apply(engine_on(store), first("gone", 2), delete("there"))
    assert [brief(answer) for answer in answers] == ["ok v3", "ok v2"]
