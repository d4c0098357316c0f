"""A command that may not follow a version later than one that its sender knows of: what is sent again late."""

from typing import Any

import pytest
from support.commands import NOW, apply, brief, delete, first, one, read, request, requests, save
from support.engines import another_worker, engine_on
from support.scripted import ScriptedStore, meanwhile

from holdfast.events import Event, Mutation, Refusal, digest_of, make_etag
from holdfast.events.limits import MAX_INT
from holdfast.stores import Head
from holdfast.worker import Batch
from holdfast.worker.decide import NEVER, Rejection, decide

LIVE = Head(version=3, exists=True, id="writer", time=NOW - 5000)
DELETED = Head(version=4, exists=False, id="deleter", time=NOW - 5000)
HEADS = pytest.mark.parametrize("head", [NEVER, LIVE, DELETED], ids=["never", "live", "deleted"])


def outcome(command: Mutation, head: Head) -> Event | Rejection:
    return decide(command, head, now=NOW, author="ada", digest=b"digest")


@HEADS
@pytest.mark.parametrize("command", [save, delete])
def test_up_to_that_version_it_means_what_it_meant(head: Head, command: Any) -> None:
    """Given a key at the version or before it, when a command has the limit, then it is decided as without it."""
    without = outcome(command("k", id="x"), head)
    for limit in (head.version, head.version + 1, MAX_INT):
        assert outcome(command("k", id="x", max_version=limit), head) == without


@pytest.mark.parametrize("head", [LIVE, DELETED], ids=["live", "deleted"])
@pytest.mark.parametrize(
    "command",
    [save("k"), first("k"), delete("k"), save("k", etag=make_etag(3, "writer")), save("k", deadline=NOW - 1)],
    ids=["save", "first-write", "delete", "etag", "late"],
)
def test_a_key_that_has_moved_on_is_a_conflict(head: Head, command: Mutation) -> None:
    """Given a key past the version, when any write may not follow that, then it is a conflict, for good."""
    for limit in (0, head.version - 1):
        refused = outcome(command.model_copy(update={"max_version": limit}), head)
        assert isinstance(refused, Rejection)
        assert (refused.answer["status"], refused.answer["error"]["code"]) == ("conflict", "newer")
        assert refused.answer["error"]["winner"] == head.id
        assert (refused.answer["exists"], refused.answer["version"]) == (head.exists, head.version)
        assert (refused.recorded, refused.about_key) == (False, True)


def test_the_limit_is_no_part_of_what_an_id_stands_for() -> None:
    """Given one command with and without the limit, when their digests are taken, then they are the same."""
    for command in (save("k", 1), delete("k")):
        assert digest_of(command) == digest_of(command.model_copy(update={"max_version": 7}))


async def test_a_worker_that_is_behind_does_not_let_it_overwrite() -> None:
    """A worker remembers version 1 of a key; another makes version 2; then a save may not follow more than 1."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", "old"))
    await one(engine_on(store.inner), save("k", "new"))
    assert brief(await one(engine, save("k", "stale", max_version=1))) == "conflict newer"
    assert (await one(engine, read("k")))["value"] == "new"
    assert await store.versions_of("k") == [1, 2]


async def test_a_write_in_the_last_moment_wins() -> None:
    """Given a command that was decided to be in order, when another's write lands before it does, then it loses."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", "old"))
    store.script("append", meanwhile(another_worker(store, save("k", "new"))))
    assert brief(await one(engine, save("k", "stale", max_version=1))) == "conflict newer"
    assert (await one(engine, read("k")))["value"] == "new"


@pytest.mark.parametrize("redelivered", [True, False])
async def test_what_was_applied_already_is_no_conflict(redelivered: bool) -> None:
    """Given an applied save that others followed, when it comes again with the limit, then the answer is its own."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    command = save("k", 1)
    before = await one(engine, command)
    await one(engine, save("k", 2))
    again = request(command.model_copy(update={"max_version": 0}), redelivered=redelivered)
    assert await one(engine, again) == before
    assert await store.versions_of("k") == [1, 2]


async def test_a_refusal_leaves_the_id_to_be_used() -> None:
    """Given a command refused for its limit, when its sender sends it without one, then it is applied: the same id."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await apply(engine, save("k", 1), save("k", 2))
    command = save("k", 3)
    assert brief(await one(engine, command.model_copy(update={"max_version": 1}))) == "conflict newer"
    assert not [record for record in await store.log() if isinstance(record, Refusal)]
    assert brief(await one(engine, command)) == "ok v3"


def test_a_repeat_without_the_limit_does_not_share_its_answer() -> None:
    """Given a replay with the limit and a client's own retry, when they meet, then each is answered for itself."""
    guarded, retry = requests(save("k", 1, id="x", max_version=1), save("k", 1, id="x"))
    assert Batch.of([guarded, retry]).pending == [guarded, retry]
