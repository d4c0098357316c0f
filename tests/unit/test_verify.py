"""The rules of a log, each broken for itself, and the look that finds it."""

from collections.abc import Callable, Collection
from typing import Any

import orjson
import pytest
from store_records import deleted, refused, saved
from support.commands import save
from support.logs import KEYS, events_of, write_log

from holdfast.events import Event, Record, Refusal, digest_of, make_etag
from holdfast.rules import Fault, Identity, Rule, Succession, digest_fits
from holdfast.stores import Fence, Head, Malformed, MemoryStore, Place
from holdfast.verify import Report, verify


async def sound_log(commands: int = 300) -> MemoryStore:
    store = MemoryStore()
    await store.open()
    await write_log(store, commands=commands)
    return store


async def log_of(records: list[Record]) -> MemoryStore:
    store = MemoryStore()
    await store.open()
    for record in records:
        assert (await store.append([record])).fence is not None
    return store


async def test_what_an_engine_wrote_is_sound() -> None:
    store = await sound_log(2000)
    report = await verify(store, "default")
    records = [record async for record in store.scan()]
    events = [record for record in records if isinstance(record, Event)]
    heads = await store.heads(KEYS)
    assert report.faults == []
    assert report.sound
    assert (report.events, report.refusals) == (len(events), len(records) - len(events))
    assert (report.keys, report.present) == (len(KEYS), sum(head.exists for head in heads.values()))
    # All there is to be told apart was in it.
    answers = {
        (record.answer["status"], record.answer.get("error", {}).get("code"))
        for record in records
        if isinstance(record, Refusal)
    }
    assert answers == {
        ("ok", None),
        ("conflict", "exists"),
        ("conflict", "absent"),
        ("conflict", "no_value"),
        ("conflict", "test_failed"),
        ("conflict", "unpatchable"),
        ("conflict", "stripped"),
        ("expired", "deadline"),
    }
    assert {event.type for event in events} == {"saved", "deleted", "expired", "purged"}
    assert {(event.patch is None, event.expires is None) for event in events if event.exists} == {
        *((patched, expires) for patched in (True, False) for expires in (True, False)),
    }
    assert any(event.restored for event in events)
    assert len(events) > 500


async def test_a_digest_is_of_its_store() -> None:
    store = await sound_log()
    report = await verify(store, "other")
    assert set(report.broken) == {Rule.DIGEST}
    # What expired did so by no command to a store.
    expired = [event for event in await events_of(store) if event.type == "expired"]
    assert report.broken[Rule.DIGEST] == report.events - len(expired)
    other = MemoryStore()
    await other.open()
    await write_log(other, commands=100, store_name="other")
    assert (await verify(other, "other")).sound


Change = Callable[[dict[tuple[str, int], Event]], Event | tuple[str, int]]


def changed(rule: Rule, change: dict[str, Any], *, key: str = "user/1", version: int = 3, at: int | None = None) -> Any:
    return rule, key, version, change, version if at is None else at


@pytest.mark.parametrize(
    ("rule", "key", "version", "change", "at"),
    [
        changed(Rule.DIGEST, {"value": "another"}),
        changed(Rule.DIGEST, {"digest": b"\0\1\2\3\4\5\6\7"}),
        changed(Rule.DIGEST, {"metadata": {"why": "not"}}),
        changed(Rule.TIME, {"time": 1}),
        changed(Rule.VERSION, {"version": 1000}, at=4),
        changed(Rule.VERSION, {"version": 1000}, at=1000),
        changed(Rule.VERSION, {"key": "user/2"}, at=4),
    ],
)
async def test_a_changed_event(rule: Rule, key: str, version: int, change: dict[str, Any], at: int) -> None:
    records = [record async for record in (await sound_log()).scan()]
    place = next(
        index
        for index, record in enumerate(records)
        if isinstance(record, Event) and (record.key, record.version, record.type) == (key, version, "saved")
    )
    records[place] = records[place].model_copy(update=change)
    report = await verify(await log_of(records), "default")
    assert rule in report.broken
    assert any(fault.rule is rule and fault.version == at for fault in report.faults), report.faults


@pytest.mark.parametrize(
    ("rule", "key", "of", "change"),
    [
        # Of what a patch made, its own digest and that of the value are kept.
        (Rule.DIGEST, "counter", {"patch": True}, {"value": {"n": 99}}),
        (Rule.DIGEST, "counter", {"patch": True}, {"patch": "0" * 32}),
        (Rule.DIGEST, "counter", {"patch": True}, {"patch": None}),
        (Rule.DIGEST, "counter", {"patch": True}, {"metadata": {"why": "not"}}),
        (Rule.DIGEST, "counter", {"patch": True}, {"digest": bytes(8)}),
        (Rule.DIGEST, "session", {"expires": True, "patch": False}, {"expires": 4_000_000_000_000_000}),
        (Rule.EXPIRY, "session", {"expires": True, "patch": False}, {"expires": 1}),
        (Rule.EXPIRY, "session", {"expires": True, "patch": False}, {"expires": None}),
        (Rule.EXPIRY, "session", {"type": "expired"}, {"time": 4_000_000_000_000}),
        (Rule.DIGEST, "session", {"type": "expired"}, {"digest": bytes(8)}),
        (Rule.EXPIRY, "session", {"type": "expired"}, {"type": "saved"}),
    ],
)
async def test_a_changed_event_of_a_patch_or_an_expiry(
    rule: Rule, key: str, of: dict[str, Any], change: dict[str, Any]
) -> None:
    records = [record async for record in (await sound_log()).scan()]
    places = [
        index
        for index, record in enumerate(records[:-1])
        if isinstance(record, Event)
        and record.key == key
        and record.type == of.get("type", "saved")
        and (record.patch is not None) is of.get("patch", False)
        and (record.expires is not None) is of.get("expires", False)
        # The one in front of an expiry, where it matters.
        and (change.get("expires", 1) is not None or _expires_next(record, records[index + 1 :]))
    ]
    records[places[0]] = records[places[0]].model_copy(update=change)
    report = await verify(await log_of(records), "default")
    assert rule in report.broken, report.faults


def _expires_next(record: Event, later: list[Record]) -> bool:
    following = next((one for one in later if isinstance(one, Event) and one.key == record.key), None)
    return following is not None and following.type == "expired"


async def test_an_expiry_that_is_missing() -> None:
    """What is written on a state that had expired follows an event that says so."""
    short = event(1, time=10, expires=1010)
    said = Event(id="e", key="k", version=2, type="expired", time=1010, digest=b"")
    assert broken(event(3, time=1010), said, short) == []
    assert broken(event(2, time=1009), short) == []
    assert broken(event(2, time=1010), short) == [(Rule.EXPIRY, 2, "c2")]
    assert broken(event(2, "deleted", time=1010), short) == [(Rule.EXPIRY, 2, "c2")]
    assert broken(said, event(1)) == [(Rule.EXPIRY, 2, "e")]
    assert broken(said.model_copy(update={"version": 3}), said, short) == [(Rule.EXPIRY, 3, "e")]
    assert broken(event(1, time=10, expires=1011)) == [(Rule.EXPIRY, 1, "c1")]
    assert broken(event(1, time=10, expires=10)) == [(Rule.EXPIRY, 1, "c1")]


@pytest.mark.parametrize("version", [1, 2, 5])
async def test_a_missing_event(version: int) -> None:
    records = [record async for record in (await sound_log()).scan()]
    gone = [one for one in records if isinstance(one, Event) and (one.key, one.version) == ("z", version)]
    assert len(gone) == 1
    report = await verify(await log_of([one for one in records if one not in gone]), "default")
    faults = [fault for fault in report.faults if fault.rule is Rule.VERSION]
    assert [(fault.key, fault.version) for fault in faults] == [("z", version + 1)]
    assert f"version {version} is missing before it" in faults[0].message


async def test_the_newest_event_of_a_key_is_missed_by_nobody() -> None:
    """What was never acknowledged as a whole leaves no trace. Only a history of calls can tell that it was there."""
    records = [record async for record in (await sound_log()).scan()]
    newest = max((one for one in records if isinstance(one, Event) and one.key == "z"), key=lambda one: one.version)
    assert (await verify(await log_of([one for one in records if one is not newest]), "default")).keys == len(KEYS)


def event(version: int, type_: str = "saved", *, time: int = 10, id_: str | None = None, **given: Any) -> Event:
    made = saved("k", version, command=id_ or f"c{version}", time=time)
    if type_ == "deleted":
        made = deleted("k", version, command=id_ or f"c{version}").model_copy(update={"time": time})
    return made.model_copy(update=given)


def follow(*items: Event | Malformed) -> list[Fault]:
    """What is said of events, without a word on their digests, which are made up."""
    succession = Succession("default")
    faults = [fault for item in items for fault in succession.step(item)]
    faults += succession.finish()
    return [fault for fault in faults if fault.rule is not Rule.DIGEST]


def broken(*items: Event | Malformed) -> list[tuple[Rule, int | None, str | None]]:
    return [(fault.rule, fault.version, fault.id) for fault in follow(*items)]


def test_a_succession_that_is_right() -> None:
    assert broken(event(3), event(2, "deleted"), event(1)) == []
    assert broken() == []
    other = event(1).model_copy(update={"key": "l"})
    assert broken(event(2), event(1), other) == []


def test_versions() -> None:
    assert broken(event(2)) == [(Rule.VERSION, 2, "c2")]
    assert broken(event(9), event(1)) == [(Rule.VERSION, 9, "c9")]
    assert follow(event(9), event(1))[0].message == "versions 2 to 8 are missing before it"
    assert broken(event(2), event(1, id_="x"), event(1, id_="y")) == [(Rule.VERSION, 1, "y")]
    assert broken(event(3), event(2, id_="x"), event(2, id_="y"), event(1)) == [(Rule.VERSION, 2, "y")]


def test_times() -> None:
    assert broken(event(2, time=10), event(1, time=10)) == []
    assert broken(event(2, time=9), event(1, time=10)) == [(Rule.TIME, 2, "c2")]


def test_deletes() -> None:
    assert broken(event(1, "deleted")) == [(Rule.DELETE, 1, "c1")]
    assert broken(event(3, "deleted"), event(2, "deleted"), event(1)) == [(Rule.DELETE, 3, "c3")]


def test_a_malformed_event_is_a_version_and_nothing_more() -> None:
    """One fault is told once, and not again for everything beside it."""
    malformed = Malformed("c2", "k", 2, "why")
    assert broken(event(3, time=1), malformed, event(1)) == []
    assert broken(malformed, event(1)) == []
    assert broken(event(3, "deleted"), malformed, event(1)) == []
    assert broken(event(2), Malformed("x", None, None, "why"), event(1)) == []
    assert broken(event(4), malformed, event(1)) == [(Rule.VERSION, 4, "c4")]


@pytest.mark.parametrize("etag", [None, "now", "before", "other"])
@pytest.mark.parametrize("concurrency", ["first-write", "last-write"])
@pytest.mark.parametrize("there", [True, False])
def test_a_digest_fits_only_what_could_lead_there(etag: str | None, concurrency: str, there: bool) -> None:
    predecessor = event(4, "saved" if there else "deleted")
    etags = {"now": make_etag(4, "c4"), "before": make_etag(3, "c3"), "other": "x", None: None}
    command = save("k", 1, id="c5", etag=etags[etag], concurrency=concurrency)
    made = event(5, value=1, digest=digest_of(command)[0])
    allowed = etag == "now" if etag is not None else concurrency == "last-write" or not there
    assert digest_fits(made, predecessor, "default") is (allowed and (there or etag is None))


def test_ids() -> None:
    identity = Identity()
    assert list(identity.step([Place("a", 0, True), Place("b", 0, False)])) == []
    # The events of a transaction have one id and several positions.
    (first, second) = identity.step(
        [Place("b", 0, True), Place("c", 0, False), Place("c", 1, True), Place("c", 1, True), Place("d", 0, False)]
    )
    assert (first.rule, first.id) == (Rule.ID, "b")
    assert "an event and a refusal" in first.message
    assert (second.rule, second.id) == (Rule.ID, "c")
    assert "as events" in second.message


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "conflict", "version": 1, "error": {"winner": "c2", "actual": make_etag(1, "c2")}},
        {"status": "conflict", "version": 2, "error": {"winner": "c2", "actual": make_etag(1, "c2")}},
        {"status": "conflict", "version": 2, "error": {"winner": "nobody", "actual": make_etag(2, "nobody")}},
        {"status": "conflict", "version": 3, "error": {"winner": "c3", "actual": None}},
        {"status": "conflict", "version": 2, "error": {"winner": "other", "actual": make_etag(2, "other")}},
        {"status": "conflict", "version": 2},
        {"status": "conflict"},
        {"status": "conflict", "version": 2, "exists": False, "error": {"winner": "c2", "actual": None}},
        {"status": "conflict", "version": 3, "exists": False, "error": {"winner": "c3", "actual": make_etag(3, "c3")}},
        {"status": "conflict", "version": 1, "exists": False, "error": {"winner": None, "actual": None}},
        {"status": "ok", "version": 2, "changed": False},
        {"status": "ok", "version": 3, "changed": True},
        {"status": "ok", "version": 4, "changed": False},
        {"status": "ok"},
        {"status": "unknown"},
        {"status": "denied"},
    ],
)
async def test_a_recorded_answer_that_was_never_right(answer: dict[str, Any]) -> None:
    other = saved("l", 1, command="other")
    store = await log_of([event(1), event(2), event(3, "deleted"), other, refused("k", command="r", **answer)])
    faults = [fault for fault in (await verify(store, "default")).faults if fault.rule is not Rule.DIGEST]
    assert [(fault.rule, fault.key, fault.id) for fault in faults] == [(Rule.ANSWER, "k", "r")]


@pytest.mark.parametrize(
    "answer",
    [
        {"status": "conflict", "version": 2, "error": {"winner": "c2", "actual": make_etag(2, "c2")}},
        {"status": "conflict", "version": 3, "exists": False, "error": {"winner": "c3", "actual": None}},
        {"status": "conflict", "version": 0, "exists": False, "error": {"winner": None, "actual": None}},
        {"status": "ok", "version": 3, "changed": False},
        {"status": "ok", "version": 0, "changed": False},
        {"status": "expired", "error": {"code": "deadline"}},
    ],
)
async def test_a_recorded_answer_that_was_right(answer: dict[str, Any]) -> None:
    store = await log_of([event(1), event(2), event(3, "deleted"), refused("k", command="r", **answer)])
    assert set((await verify(store, "default")).broken) == {Rule.DIGEST}


class Lying(MemoryStore):
    """A store that looks things up wrongly."""

    def __init__(self, change: Callable[[dict[str, Head]], None], behind: int = 0) -> None:
        super().__init__()
        self._change = change
        self._behind = behind

    async def heads(self, keys: Collection[str], *, after: Fence | None = None) -> dict[str, Head]:
        heads = await super().heads(keys, after=after)
        self._change(heads)
        return heads

    async def versions(self, keys: Collection[str], *, after: Fence | None = None) -> dict[str, int]:
        return {key: version - self._behind for key, version in (await super().versions(keys, after=after)).items()}


def _to(**change: Any) -> Callable[[dict[str, Head]], None]:
    def apply(heads: dict[str, Head]) -> None:
        heads["z"] = heads["z"]._replace(**change)

    return apply


@pytest.mark.parametrize(
    ("change", "behind"),
    [
        (lambda heads: heads.pop("z"), 0),
        (_to(version=1), 0),
        (_to(id="another"), 0),
        (_to(time=1), 0),
        (_to(exists=None), 0),
        # It is ahead of what was looked at, but there is nothing there.
        (_to(version=1000), 0),
        (_to(), 1),
    ],
)
async def test_a_lookup_that_is_wrong(change: Callable[[dict[str, Head]], None], behind: int) -> None:
    store = Lying(change, behind)
    await store.open()
    async for record in (await sound_log()).scan():
        await store.append([record])
    report = await verify(store, "default")
    assert set(report.broken) == {Rule.CURRENT}
    newest = [one for one in await events_of(store) if one.key == "z"][-1]
    assert ("z", newest.version, newest.id) in {(fault.key, fault.version, fault.id) for fault in report.faults}


def test_a_report_keeps_the_first_faults_and_counts_all() -> None:
    report = Report("default", max_faults=3)
    report.add(Fault(Rule.VERSION, "gone", "k", number, "c") for number in range(10))
    report.add([Fault(Rule.DEFINITION, "no index")])
    assert not report.sound
    assert [fault.version for fault in report.faults] == [0, 1, 2]
    data = orjson.loads(orjson.dumps(report.to_json()))
    assert data["broken"] == {"version": 10, "definition": 1}
    assert data["sound"] is False
    assert data["faults"][0] == {"rule": "version", "message": "gone", "key": "k", "version": 0, "id": "c"}
    assert str(report.faults[1]) == "version: key 'k', version 1, id 'c': gone"
    assert str(Fault(Rule.DEFINITION, "no index")) == "definition: no index"


async def test_progress_ends_where_it_said_it_would() -> None:
    told: list[tuple[int, int]] = []
    store = await sound_log(3000)
    report = await verify(store, "default", progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    everything = 2 * (report.events + report.refusals)
    assert told[-1] == (everything, everything)
