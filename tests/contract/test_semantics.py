"""What a write means: one table, which holds on every way to a log.

The ways are an engine on a store in memory, an engine on MongoDB, and a client by way of RabbitMQ and a worker.
"""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.paths import Path, Told, Write, client_path, engine_path
from support.service import running_worker

from holdfast.events import PatchKind, make_etag
from holdfast.local import MongoReplicaSet, RabbitServer
from holdfast.stores import MemoryStore, MongoStore

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=["memory", "mongo", "rabbit"])
def path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """One way to a log, shared by the tests: each has keys of its own."""
    with ExitStack() as stack:
        match request.param:
            case "memory":
                yield stack.enter_context(engine_path(MemoryStore()))
            case "mongo":
                mongo: MongoReplicaSet = request.getfixturevalue("mongo")
                yield stack.enter_context(engine_path(MongoStore(mongo.url("semantics"))))
            case _:
                rabbit: RabbitServer = request.getfixturevalue("rabbit")
                mongo = request.getfixturevalue("mongo")
                rabbit.create_vhosts(["semantics"])
                stack.enter_context(running_worker(rabbit.url("semantics"), mongo.url("semantics_by_rabbit")))
                yield stack.enter_context(client_path(rabbit.url("semantics")))


@pytest.fixture
def key() -> str:
    """A key that no other test has."""
    return f"key/{next(_numbers)}"


def new_id() -> str:
    return f"semantics-{next(_numbers)}"


def save(path: Path, key: str, value: object = "v") -> Told:
    return path.write(key, Write("save", value), id=new_id())


def delete(path: Path, key: str) -> Told:
    return path.write(key, Write("delete"), id=new_id())


ETAGS = ["none", "current", "older", "next", "other hash", "empty", "garbage"]


def etag_of(kind: str, etags: list[str]) -> str | None:
    """What a command may carry as etag, by the etags that the key has had; the last one is the newest."""
    match kind:
        case "none":
            return None
        case "current":
            return etags[-1] if etags else make_etag(1, "nobody")
        case "older":
            return etags[-2] if len(etags) > 1 else make_etag(1, "nobody")
        case "next":
            return make_etag(len(etags) + 1, "nobody")
        case "other hash":
            return make_etag(len(etags), "nobody")
        case _:
            return "" if kind == "empty" else "not an etag"


#: Events that make each state; the etags of all of them are known to the tests.
STATES: dict[str, list[str]] = {
    "absent": [],
    "deleted": ["save", "save", "delete"],
    "live": ["save", "delete", "save", "save"],
}

OK, UNCHANGED = "ok", "ok, nothing changed"
EXISTS, MISMATCH, ABSENT = "conflict: exists", "conflict: etag_mismatch", "conflict: absent"

#: (operation, etag, state) to what it means.
TABLE: dict[tuple[str, str, str], str] = {
    # without an etag
    ("save", "none", "absent"): OK,
    ("save", "none", "deleted"): OK,
    ("save", "none", "live"): OK,
    ("first-write", "none", "absent"): OK,
    ("first-write", "none", "deleted"): OK,
    ("first-write", "none", "live"): EXISTS,
    ("delete", "none", "absent"): UNCHANGED,
    ("delete", "none", "deleted"): UNCHANGED,
    ("delete", "none", "live"): OK,
    # with an etag, which always wins over the concurrency
    **{
        (operation, etag, state): OK
        if (etag, state) == ("current", "live")
        else MISMATCH
        if state == "live"
        else ABSENT
        for operation in ("save", "first-write", "delete")
        for etag in ETAGS
        if etag != "none"
        for state in STATES
    },
}


@pytest.mark.parametrize(("operation", "etag", "state"), TABLE)
def test_what_a_write_means(path: Path, key: str, operation: str, etag: str, state: str) -> None:
    """Given a key in a state, when it is written, then as the table says: in the answer, the history and the read.

    Whatever it was told, it is told again when it is sent again under its id after the key has moved on.
    """
    ids = [new_id() for _ in STATES[state]]
    for event, command_id in zip(STATES[state], ids, strict=True):
        assert path.write(key, Write(event, "before"), id=command_id).status == "ok"
    etags = [make_etag(version, command_id) for version, command_id in enumerate(ids, start=1)]
    # The newest etag of a deleted key is that of its last value: a deleted one has none.
    etags = etags[:-1] if state == "deleted" else etags
    before, history = path.read(key), path.history(key)
    assert before.etag == (etags[-1] if state == "live" else None)

    write = Write(
        "delete" if operation == "delete" else "save",
        None if operation == "delete" else "written",
        etag=etag_of(etag, etags),
        first_write=operation == "first-write",
    )
    command_id = new_id()
    told = path.write(key, write, id=command_id)

    expected = TABLE[operation, etag, state]
    if expected == OK:
        written = operation != "delete"
        made = make_etag(len(history) + 1, command_id) if written else None
        assert told == Told("ok", exists=written, etag=made, changed=True)
        kind = "saved" if written else "deleted"
        assert path.history(key) == [*history, (len(history) + 1, kind, write.value)]
        assert path.read(key) == Told("ok", exists=written, value=write.value, etag=made)
    else:
        if expected == UNCHANGED:
            assert told == Told("ok", exists=False, changed=False)
        else:
            code = expected.partition(": ")[2]
            winner = ids[-1] if ids else None
            assert told == Told("conflict", code, expected=write.etag, actual=before.etag, winner=winner)
        assert path.history(key) == history
        assert path.read(key) == before

    # The key moves on, into the opposite state …
    assert (delete(path, key) if path.read(key).exists else save(path, key)).status == "ok"
    moved = path.history(key)
    again = path.write(key, write, id=command_id)
    # … and the answer is the same; of a mismatch, which leaves no record, only the details may move on.
    assert again.status == told.status
    if expected in (OK, UNCHANGED, EXISTS):
        assert again == told
    assert path.history(key) == moved


MISFIT, UNFIT = "conflict: test_failed", "conflict: unpatchable"
#: A patch of a key whose value is {"n": 1}, if it is there: kind, patch, and what comes of it without and with a value.
PATCHES: dict[str, tuple[PatchKind, object, object, object]] = {
    "merge": ("merge", {"m": {"x": 2, "y": None}}, {"m": {"x": 2}}, {"n": 1, "m": {"x": 2}}),
    "merge that replaces": ("merge", [1], [1], [1]),
    "merge of nothing": ("merge", {}, {}, {"n": 1}),
    "increment": ("increment", {"/n": 2}, {"n": 2}, {"n": 3}),
    "increment of what is missing": ("increment", {"/a/b": 0.5}, {"a": {"b": 0.5}}, {"n": 1, "a": {"b": 0.5}}),
    "increment of the whole": ("increment", {"": 1}, 1, UNFIT),
    "increment beyond 64 bits": ("increment", {"/n": 2**63 - 1}, {"n": 2**63 - 1}, UNFIT),
    "json-patch": ("json-patch", [{"op": "replace", "path": "/n", "value": None}], ABSENT, {"n": None}),
    "json-patch without a path": ("json-patch", [{"op": "remove", "path": "/x"}], ABSENT, UNFIT),
    "json-patch with a test": ("json-patch", [{"op": "test", "path": "/n", "value": 1.0}], ABSENT, {"n": 1}),
    "json-patch with a failing test": ("json-patch", [{"op": "test", "path": "/n", "value": True}], ABSENT, MISFIT),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("case", "etag"),
    [(case, "none") for case in PATCHES]
    + [(case, etag) for case in ("increment", "json-patch", "json-patch with a failing test") for etag in ETAGS[1:3]],
)
def test_what_a_patch_means(path: Path, key: str, case: str, state: str, etag: str) -> None:
    """Given a key in a state, when it is patched, then as the table says: in the answer, the history and the read.

    Whatever it was told, it is told again when it is sent again under its id after the key has moved on.
    """
    ids = [new_id() for _ in STATES[state]]
    for event, command_id in zip(STATES[state], ids, strict=True):
        path.write(key, Write(event, {"n": 1} if event == "save" else None), id=command_id)
    etags = [make_etag(version, command_id) for version, command_id in enumerate(ids, start=1)]
    before, history = path.read(key), path.history(key)
    kind, patch, without, on_value = PATCHES[case]
    expected = on_value if state == "live" else without
    if etag == "current" and state != "live":
        expected = ABSENT
    elif etag == "older":
        expected = MISMATCH if state == "live" else ABSENT
    write = Write("patch", patch, kind=kind, etag=etag_of(etag, etags))
    command_id = new_id()
    told = path.write(key, write, id=command_id, return_current=True)

    if isinstance(expected, str):
        code = expected.partition(": ")[2]
        winner, current = ids[-1] if ids else None, before.value
        assert told == Told("conflict", code, expected=write.etag, actual=before.etag, winner=winner, current=current)
        assert (path.history(key), path.read(key)) == (history, before)
    else:
        made = make_etag(len(history) + 1, command_id)
        assert told == Told("ok", exists=True, value=expected, etag=made, changed=True)
        assert path.history(key) == [*history, (len(history) + 1, "saved", expected)]
        assert path.read(key) == Told("ok", exists=True, value=expected, etag=made)

    moved_on = {"n": 1, "x": 1} if path.read(key).value == {"n": 1} else {"n": True, "x": 1}
    assert save(path, key, moved_on).status == "ok"
    moved = path.history(key)
    again = path.write(key, write, id=command_id, return_current=True)
    assert again.status == told.status
    if write.etag is None or told.status == "ok":
        # What was current then is told as it was then, unless nothing was there.
        assert again == told
    assert path.history(key) == moved


def test_the_table_is_whole() -> None:
    """Given all operations, etags and states, when they are combined, then the table says something of each."""
    assert set(TABLE) == set(itertools.product(["save", "first-write", "delete"], ETAGS, STATES))


def test_versions_go_on_through_deletes(path: Path, key: str) -> None:
    """Given a key that comes and goes, when it is written on, then its versions are never reused."""
    for _ in range(2):
        save(path, key)
        delete(path, key)
    save(path, key)
    assert [(version, kind) for version, kind, _ in path.history(key)] == [
        (1, "saved"),
        (2, "deleted"),
        (3, "saved"),
        (4, "deleted"),
        (5, "saved"),
    ]


def test_the_same_value_again_is_a_new_version(path: Path, key: str) -> None:
    """Given a value, when it is saved again unchanged, then it is a new version with another etag."""
    one, two = save(path, key, {"n": 1}), save(path, key, {"n": 1})
    assert one.etag != two.etag
    assert [version for version, _, _ in path.history(key)] == [1, 2]


def test_null_is_a_value(path: Path, key: str) -> None:
    """Given a key saved as null, when it is read, then it is there."""
    told = save(path, key, None)
    assert path.read(key) == Told("ok", exists=True, value=None, etag=told.etag)


def test_a_deleted_key_reads_as_absent(path: Path, key: str) -> None:
    """Given a deleted key, when it is read, then it is absent and has no etag, like one that never was."""
    never = path.read(key)
    save(path, key)
    delete(path, key)
    assert path.read(key) == never == Told("ok", exists=False)


@pytest.mark.parametrize(
    ("write", "state"),
    [
        (Write("save", "new", etag="1-00000000"), "live"),
        (Write("save", "new", first_write=True), "live"),
        (Write("delete", etag="1-00000000"), "live"),
        (Write("save", "new", etag="1-00000000"), "deleted"),
        (Write("delete", etag="1-00000000"), "absent"),
    ],
)
@pytest.mark.parametrize("asked", [True, False], ids=["asked", "not asked"])
def test_a_conflict_brings_the_current_value_if_asked(
    path: Path, key: str, write: Write, state: str, asked: bool
) -> None:
    """Given a conflict, when the current value was asked for and there is one, then it comes along."""
    for event in STATES[state]:
        path.write(key, Write(event, {"the": "current"} if event == "save" else None), id=new_id())
    told = path.write(key, write, id=new_id(), return_current=asked)
    assert told.status == "conflict"
    assert told.current == ({"the": "current"} if asked and state == "live" else None)


def test_a_used_id_is_refused(path: Path, key: str) -> None:
    """Given a used id, when something else is sent under it, then that is told, and nothing happens."""
    command_id = new_id()
    path.write(key, Write("save", 1), id=command_id)
    assert path.write(key, Write("save", 2), id=command_id) == Told("invalid", "id_reused")
    assert path.write(key, Write("delete"), id=command_id) == Told("invalid", "id_reused")
    assert path.read(key).value == 1
