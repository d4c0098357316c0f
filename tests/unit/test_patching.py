"""Patches do what their standards say, never change what they are given, and stay within their bounds."""

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import patch

from holdfast.events import BadCommand, InvalidError, PatchKind, decode_commands
from holdfast.events.limits import MAX_DEPTH, MAX_INT, MAX_PATCH_OPERATIONS
from holdfast.events.patches import check_patch, parse_pointer
from holdfast.worker.patching import ABSENT, MAX_WORK, Effort, MisfitError, apply_patch, equal

MIB = 2**20


def apply(
    kind: PatchKind, change: Any, value: Any = ABSENT, *, max_bytes: int = MIB, effort: Effort | None = None
) -> Any:
    """What comes of it. The value and the patch stay what they were."""
    command = patch("k", kind, change)
    before = copy.deepcopy((change, None if value is ABSENT else value))
    result = apply_patch(command, value, max_bytes=max_bytes, effort=effort or Effort())
    assert before == (change, None if value is ABSENT else value)
    assert json.loads(result.text) == result.value
    return result.value


def misfit(kind: PatchKind, change: Any, value: Any = ABSENT, *, max_bytes: int = MIB) -> MisfitError:
    with pytest.raises(MisfitError) as caught:
        apply(kind, change, value, max_bytes=max_bytes)
    return caught.value


# -- JSON Merge Patch


@pytest.mark.parametrize(
    ("target", "change", "result"),
    [
        # The examples of RFC 7396's appendix.
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        # What is absent is patched like null.
        (ABSENT, {"a": 1, "b": None}, {"a": 1}),
        (ABSENT, None, None),
        (ABSENT, [None], [None]),
        (None, {}, {}),
    ],
)
def test_merge(target: Any, change: Any, result: Any) -> None:
    """Given a value, when a merge patch is applied, then what RFC 7396 says comes of it."""
    assert apply("merge", change, target) == result


# -- JSON Patch


def op(name: str, path: str, value: Any = ABSENT, **more: Any) -> dict[str, Any]:
    members = {"op": name, "path": path, **({} if value is ABSENT else {"value": value})}
    return members | {name.rstrip("_"): member for name, member in more.items()}


@pytest.mark.parametrize(
    ("target", "operations", "result"),
    [
        # The cases of RFC 6902's appendix that succeed.
        ({"foo": "bar"}, [op("add", "/baz", "qux")], {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, [op("add", "/foo/1", "qux")], {"foo": ["bar", "qux", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [op("remove", "/baz")], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [op("remove", "/foo/1")], {"foo": ["bar", "baz"]}),
        ({"baz": "qux", "foo": 1}, [op("replace", "/baz", "boo")], {"baz": "boo", "foo": 1}),
        (
            {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
            [op("move", "/qux/thud", from_="/foo/waldo")],
            {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
        ),
        ({"foo": ["a", "b", "c", "d"]}, [op("move", "/foo/3", from_="/foo/1")], {"foo": ["a", "c", "d", "b"]}),
        ({"baz": "qux", "foo": ["a", 2]}, [op("test", "/baz", "qux"), op("test", "/foo/1", 2)], None),
        ({"foo": "bar"}, [op("add", "/child", {"grandchild": {}})], {"foo": "bar", "child": {"grandchild": {}}}),
        ({"foo": "bar"}, [op("add", "/baz", "qux", xyz=123)], {"foo": "bar", "baz": "qux"}),
        ({"/": 9, "~1": 10}, [op("test", "/~01", 10), op("test", "/~1", 9)], None),
        ({"foo": ["bar"]}, [op("add", "/foo/-", ["abc", "def"])], {"foo": ["bar", ["abc", "def"]]}),
        # The whole value, the empty name, names that look like indexes.
        ({"a": 1}, [op("add", "", [1])], [1]),
        ({"a": 1}, [op("replace", "", 5), op("test", "", 5)], 5),
        ({}, [op("add", "/", 1)], {"": 1}),
        ({"": {"": 1}}, [op("remove", "//")], {"": {}}),
        ({}, [op("add", "/0", 1), op("add", "/-", 2), op("add", "/01", 3)], {"0": 1, "-": 2, "01": 3}),
        ([], [op("add", "/0", 1), op("add", "/0", 0), op("add", "/2", 2)], [0, 1, 2]),
        ([1], [op("replace", "/0", None)], [None]),
        # What is copied is one of its own.
        ({"a": [1]}, [op("copy", "/b", from_="/a"), op("add", "/a/-", 2)], {"a": [1, 2], "b": [1]}),
        ({"a": 1}, [op("copy", "/a", from_=""), op("copy", "/a/b", from_="")], {"a": {"a": 1, "b": {"a": {"a": 1}}}}),
        ({"a": {"b": 1}}, [op("move", "/a", from_="/a/b")], {"a": 1}),
        ({"a": 1}, [op("move", "/a", from_="/a")], {"a": 1}),
        ({"a": {"b": 1}}, [op("move", "", from_="/a")], {"b": 1}),
        # Numbers are equal by what they amount to.
        ({"a": 1, "b": [2.0, {"c": 0}]}, [op("test", "/a", 1.0), op("test", "/b", [2, {"c": -0.0}])], None),
        ({}, [], {}),
    ],
)
def test_json_patch(target: Any, operations: list[Any], result: Any) -> None:
    """Given a value, when a JSON Patch fits it, then what RFC 6902 says comes of it."""
    found = apply("json-patch", operations, target)
    if result is not None:
        assert found == result
    elif operations[0]["op"] == "test":
        assert found == target


def test_a_value_in_itself_is_no_loop() -> None:
    """Given a value that is copied into its own copy, when that is done, then it ends."""
    found = apply("json-patch", [op("copy", "/b", from_=""), op("copy", "/b/b", from_="")], {"a": 1})
    assert found == {"a": 1, "b": {"a": 1, "b": {"a": 1, "b": {"a": 1}}}}


@pytest.mark.parametrize(
    ("target", "operations"),
    [
        ({"q": {"bar": 2}}, [op("add", "/a/b", 1)]),
        ({"foo": "bar"}, [op("add", "/baz/bat", "qux")]),
        ({"foo": "bar"}, [op("remove", "/baz")]),
        ({"foo": "bar"}, [op("replace", "/baz", 1)]),
        ({"foo": "bar"}, [op("test", "/baz", 1)]),
        ({"foo": "bar"}, [op("copy", "/a", from_="/baz")]),
        ({"foo": "bar"}, [op("move", "/a", from_="/baz")]),
        ({"foo": "bar"}, [op("move", "/a/b", from_="/foo")]),
        ("text", [op("add", "/0", 1)]),
        (1, [op("replace", "/0", 1)]),
        ([1, 2], [op("add", "/3", 1)]),
        ([1, 2], [op("replace", "/2", 1)]),
        ([1, 2], [op("remove", "/-")]),
        ([1, 2], [op("test", "/-", 2)]),
        *(
            ([1, 2], [op("add", f"/{name}", 1)])
            for name in ("01", "00", "-1", "+1", "1.0", "1e0", " 1", "", "x", "\u00b2", "\u0661")
        ),
        ([1, 2], [op("add", "/" + "1" * 5000, 1)]),
    ],
)
def test_what_does_not_fit(target: Any, operations: list[Any]) -> None:
    """Given a value, when an operation leads to what is not there, then the patch is unpatchable, and says which."""
    error = misfit("json-patch", [op("test", "", target), *operations], target)
    assert (error.code, error.field) == ("unpatchable", "patch[1]")


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (1, True), (True, 1), (0, False), (False, None), (0, None), ("1", 1), ([], {}), ({}, []), ("", None),
        ({"a": 1}, {"a": True}), ([1, [0]], [1, [False]]), ({"a": 1}, {"a": 1, "b": 1}), ({"a": 1, "b": 1}, {"a": 1}),
        ([1, 2], [2, 1]), ([1], [1, 1]), (2**53 + 1, 2.0**53), ("e\u0301", "é"), ({"a": None}, {"b": None}),
    ],
)  # fmt: skip
def test_a_failed_test(value: Any, other: Any) -> None:
    """Given values that are not equal in JSON, when one is tested for the other, then the test fails."""
    error = misfit("json-patch", [op("test", "/v", other)], {"v": value})
    assert (error.code, error.field) == ("test_failed", "patch[0]")
    assert not equal(other, value)


@pytest.mark.parametrize(
    "operations",
    [
        None, {}, 1, "x", [1], [[]], [{"op": "add"}], [op("add", "/a")], [op("Add", "/a", 1)], [op("fly", "", 1)],
        [op("add", "a", 1)], [op("add", "/~2", 1)], [op("add", "/~", 1)], [op("add", "/~~01", 1)], [op("test", "/a")],
        [{"op": "add", "value": 1}], [{"op": "add", "path": 1, "value": 1}], [{"op": 1, "path": "", "value": 1}],
        [op("move", "/a")], [op("copy", "/a", from_=1)], [op("move", "/a/b", from_="/a")], [op("move", "/a", from_="")],
        [{}], [op("remove", "")], [op("add", "/\0", 1)], [op("add", "/a" * (MAX_DEPTH + 1), 1)],
        [op("test", "", 1)] * (MAX_PATCH_OPERATIONS + 1),
    ],
)  # fmt: skip
def test_what_is_no_json_patch(operations: Any) -> None:
    """Given what fits no value, when it is read, then it is refused, whatever the key's value is."""
    with pytest.raises(InvalidError) as caught:
        check_patch("json-patch", operations)
    assert caught.value.code == "bad_patch"
    body = json.dumps({"op": "patch", "id": "1", "key": "k", "kind": "json-patch", "patch": operations}).encode()
    (bad,) = decode_commands(body).commands
    assert isinstance(bad, BadCommand)
    assert (bad.error.code, bad.error.field) == ("bad_patch", caught.value.field)


def test_pointers() -> None:
    """Given pointers, when they are parsed, then escapes are undone in the right order."""
    assert parse_pointer("") == ()
    assert parse_pointer("/") == ("",)
    assert parse_pointer("/a~1b/m~0n/~01") == ("a/b", "m~n", "~1")


# -- increments


@pytest.mark.parametrize(
    ("target", "change", "result"),
    [
        (ABSENT, {"": 1}, 1),
        (5, {"": -7}, -2),
        (5, {"": 0.5}, 5.5),
        (1.5, {"": 1}, 2.5),
        (ABSENT, {"/a/b": 2}, {"a": {"b": 2}}),
        ({"a": {"x": "y"}}, {"/a/b": 2, "/n": 1}, {"a": {"x": "y", "b": 2}, "n": 1}),
        ({"a": [1, {"n": 1}]}, {"/a/0": 1, "/a/1/n": 1}, {"a": [2, {"n": 2}]}),
        (MAX_INT - 1, {"": 1}, MAX_INT),
        ({"a": 1}, {"/a": 1, "/b": 1, "/c/d": 0}, {"a": 2, "b": 1, "c": {"d": 0}}),
    ],
)
def test_increment(target: Any, change: Any, result: Any) -> None:
    """Given a value, when it is incremented, then what is missing counts from nothing, and integers stay integers."""
    found = apply("increment", change, target)
    assert found == result
    assert json.dumps(found) == json.dumps(result)


@pytest.mark.parametrize(
    ("target", "change"),
    [
        (None, {"": 1}), (True, {"": 1}), ("1", {"": 1}), ({}, {"": 1}), (1, {"/a": 1}), ({"a": 1}, {"/a/b": 1}),
        ({"a": None}, {"/a": 1}), ({"a": None}, {"/a/b": 1}), ([], {"/0": 1}), ([1], {"/-": 1}), ([1], {"/1": 1}),
        (MAX_INT, {"": 1}), (-MAX_INT, {"": -2}), (1.7e308, {"": 1.7e308}), ({"n": 1}, {"/n": 1, "": 1}),
    ],
)  # fmt: skip
def test_what_cannot_be_incremented(target: Any, change: Any) -> None:
    """Given what is no number, or a sum beyond its bounds, when it is incremented, then nothing comes of it."""
    error = misfit("increment", change, target)
    assert error.code == "unpatchable"
    assert error.field == f"patch.{list(change)[-1]}"


@pytest.mark.parametrize("change", [None, [], {}, 1, {"": "1"}, {"": True}, {"": None}, {"a": 1}, {"/~": 1}])
def test_what_is_no_increment(change: Any) -> None:
    """Given what is no object of pointers and numbers, when it is read, then it is refused."""
    with pytest.raises(InvalidError, match="patch"):
        check_patch("increment", change)


# -- bounds


def test_a_value_that_doubles_and_doubles_is_stopped() -> None:
    """Given a patch that copies a value into itself again and again, when it is applied, then it ends at once.

    Sixty times doubled it would be more than any memory.
    """
    doubling = [op("copy", f"/{number}", from_="") for number in range(60)]
    effort = Effort()
    with pytest.raises(MisfitError, match="copies more than a value may take"):
        apply("json-patch", doubling, {"a": "x" * 1000}, effort=effort)
    assert effort.spent < 4 * MIB


def test_a_value_that_grows_too_deep_is_stopped() -> None:
    """Given a patch whose result is nested deeper than values may be, when it is applied, then nothing comes of it."""
    deeper = [op("copy", "/a" * level, from_="") for level in range(1, 20)]
    assert "deep" in str(misfit("json-patch", deeper, {"a": 1}))
    value: Any = 1
    for _ in range(MAX_DEPTH - 3):
        value = [value]
    assert "deep" in str(misfit("json-patch", [op("add", "/a/b/c/d", value)], {"a": {"b": {"c": {}}}}))


def test_a_patch_of_endless_work_is_stopped() -> None:
    """Given a patch that writes a long array anew for each operation, when it is too much, then nothing comes of it."""
    many = [op("add", "/0", 1)] * MAX_PATCH_OPERATIONS
    assert len(apply("json-patch", many, [0] * 100)) == 100 + MAX_PATCH_OPERATIONS
    effort = Effort()
    with pytest.raises(MisfitError, match="more work than one patch may"):
        apply("json-patch", many, [0] * 400_000, effort=effort)
    assert effort.spent <= MAX_WORK + 400_002


def test_a_result_that_is_too_large_is_refused() -> None:
    """Given a limit for values, when more would come of a patch, then nothing comes of it."""
    assert apply("merge", {"b": "x" * 80}, {"a": 1}, max_bytes=100) == {"a": 1, "b": "x" * 80}
    assert "limited to 100" in str(misfit("merge", {"b": "x" * 90}, {"a": 1}, max_bytes=100))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab~/", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab~/0-", max_size=2), inner, max_size=3),
    max_leaves=12,
)


@given(values, st.integers())
def test_whatever_it_is_nothing_is_changed_in_place(value: Any, seed: int) -> None:
    """Given any value and operations that lead anywhere in it, when they are applied, then old values stay the same.

    And what a patch finds in a place is what was put there.
    """
    rng = random.Random(seed)  # noqa: S311
    for _ in range(8):
        kind = rng.choice(["add", "replace", "remove", "move", "copy", "test"])
        places = ["/" + "/".join(place) if place else "" for place in _places(value)]
        path, source = rng.choice(places), rng.choice(places)
        if kind == "remove" and not path:
            continue
        operation = op(kind, path, [rng.randrange(9)], from_=source)
        try:
            check_patch("json-patch", [operation])
            result = apply("json-patch", [operation], value)
        except (MisfitError, InvalidError):
            continue
        if kind in ("add", "replace") and not path.endswith("-"):
            assert apply("json-patch", [op("test", path, operation["value"])], result) == result
        value = result


def _places(value: Any) -> list[list[str]]:
    found: list[list[str]] = [[]]
    members: Any = ()
    if isinstance(value, dict):
        members = [(name.replace("~", "~0").replace("/", "~1"), member) for name, member in value.items()]
    elif isinstance(value, list):
        members = [(str(index), member) for index, member in enumerate(value)]
        found.append(["-"])
    for name, member in members:
        found += [[name, *rest] for rest in _places(member)]
    return found
