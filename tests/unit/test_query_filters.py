"""Filters, orders and projections: what they are on the wire, and what they mean for a value."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import Condition, Field, InvalidError, Order, field
from holdfast.client.queries import query_command
from holdfast.events import BadCommand, QueryCommand, decode_commands
from holdfast.events.queries import (
    MAX_FILTER_DEPTH,
    MAX_FILTER_TERMS,
    And,
    Compare,
    Exists,
    Not,
    OneOf,
    Sort,
    parse_filter,
    parse_path,
    parse_projection,
    parse_sort,
)
from holdfast.stores import KeyScope
from holdfast.stores.matching import at, is_rank, matches, position, project, rank, sort_key

VALUE = {
    "name": "Ada", "age": 36, "height": 1.5, "left": None, "here": True, "tags": ["a", 5], "empty": {},
    "address": {"city": "Oslo", "lines": [{"n": 1}]}, "a.b": 1, "$gt": 2, "": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    "filter_",
    [
        {"eq": ["name", "Ada"]},
        {"eq": ["age", 36]},
        {"eq": ["age", 36.0]},
        {"eq": ["left", None]},
        {"eq": ["here", True]},
        {"eq": ["address.city", "Oslo"]},
        {"eq": [["address", "city"], "Oslo"]},
        {"eq": [["a.b"], 1]},
        {"eq": [["$gt"], 2]},
        {"eq": ["$gt", 2]},
        {"eq": [[""], 3]},
        {"ne": ["name", "Eve"]},
        {"ne": ["nothing", None]},
        {"ne": ["tags", "a"]},
        {"gt": ["age", 35.5]},
        {"gte": ["age", 36]},
        {"lt": ["name", "Adb"]},
        {"lte": ["height", 1.5]},
        {"in": ["name", ["Eve", "Ada"]]},
        {"in": ["left", [None]]},
        {"exists": "left"},
        {"exists": "empty"},
        {"exists": ""},
        {"not": {"exists": "nothing"}},
        {"and": [{"exists": "name"}, {"gt": ["age", 1]}]},
        {"or": [{"exists": "nothing"}, {"gt": ["age", 1]}]},
    ],
    ids=json.dumps,
)
def test_what_holds(filter_: Any) -> None:
    """Given a value, when a filter is about what is there, then it holds, and its negation does not."""
    assert matches(parse_filter(filter_), VALUE)
    assert not matches(parse_filter({"not": filter_}), VALUE)


@pytest.mark.parametrize(
    "filter_",
    [
        {"eq": ["age", "36"]},
        {"eq": ["here", 1]},
        {"eq": ["here", "true"]},
        {"eq": ["nothing", None]},
        {"eq": ["tags", "a"]},
        {"eq": ["tags.0", "a"]},
        {"eq": ["address.lines.n", 1]},
        {"eq": ["a.b", 1]},
        {"eq": ["", "Ada"]},
        {"gt": ["name", 0]},
        {"lt": ["age", "99"]},
        {"gt": ["here", 0]},
        {"gte": ["left", 0]},
        {"in": ["name", []]},
        {"exists": "name.first"},
        {"exists": "nothing.at.all"},
    ],
    ids=json.dumps,
)
def test_what_does_not_hold(filter_: Any) -> None:
    """Given a value, when a filter is about something else, or mixes types, then it does not hold."""
    assert not matches(parse_filter(filter_), VALUE)


DEEP: Any = {"exists": "a"}
for _ in range(MAX_FILTER_DEPTH):
    DEEP = {"not": DEEP}


@pytest.mark.parametrize(
    ("filter_", "place"),
    [
        ({}, "filter"),
        ([], "filter"),
        ("name", "filter"),
        ({"eq": ["a", 1], "ne": ["a", 1]}, "filter"),
        ({"$where": "1"}, "filter"),
        ({"$or": [{"exists": "a"}]}, "filter"),
        ({"equals": ["a", 1]}, "filter"),
        ({"eq": "a"}, "filter.eq"),
        ({"eq": ["a"]}, "filter.eq"),
        ({"eq": ["a", 1, 2]}, "filter.eq"),
        ({"eq": ["a", {"$gt": ""}]}, "filter.eq"),
        ({"eq": ["a", {"$ne": None}]}, "filter.eq"),
        ({"eq": ["a", ["b"]]}, "filter.eq"),
        ({"eq": ["a", 2**63]}, "filter.eq"),
        ({"eq": [{"$expr": 1}, 1]}, "filter.eq"),
        ({"eq": [["a", 1], 1]}, "filter.eq"),
        ({"eq": ["a..b", 1]}, "filter.eq"),
        ({"eq": ["a\0", 1]}, "filter.eq"),
        ({"eq": [["x"] * 33, 1]}, "filter.eq"),
        ({"eq": ["x" * 513, 1]}, "filter.eq"),
        ({"gt": ["a", None]}, "filter.gt"),
        ({"gt": ["a", True]}, "filter.gt"),
        ({"gt": ["a", {"$date": 1}]}, "filter.gt"),
        ({"in": ["a", "b"]}, "filter.in"),
        ({"in": ["a", [{"$regex": ".*"}]]}, "filter.in"),
        ({"in": ["a", list(range(MAX_FILTER_TERMS + 1))]}, "filter.in"),
        ({"exists": 1}, "filter.exists"),
        ({"and": []}, "filter.and"),
        ({"and": {"exists": "a"}}, "filter.and"),
        ({"or": [{"exists": "a"}, {"eq": ["a", {}]}]}, "filter.or[1].eq"),
        ({"not": [{"exists": "a"}]}, "filter.not"),
        (DEEP, "filter" + ".not" * MAX_FILTER_DEPTH),
    ],
    ids=lambda one: json.dumps(one)[:40],
)
def test_what_is_no_filter(filter_: Any, place: str) -> None:
    """Given something else, when it is sent as a filter, then the command is bad, and the error says where."""
    body = json.dumps({"op": "query", "id": "q", "filter": filter_}).encode()
    (decoded,) = decode_commands(body).commands
    assert isinstance(decoded, BadCommand)
    assert (decoded.error.code, decoded.error.field) == ("bad_filter", place)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"sort": "name"}, "bad_sort"),
        ({"sort": [{"field": str(number)} for number in range(5)]}, "bad_sort"),
        ({"sort": ["name"]}, "bad_sort"),
        ({"sort": [{"field": "a", "order": "down"}]}, "bad_sort"),
        ({"sort": [{"field": "a", "order": {"$meta": "x"}}]}, "bad_sort"),
        ({"sort": [{"field": "a"}, {"field": ["a"]}]}, "bad_sort"),
        ({"sort": [{"field": "a", "x": 1}]}, "bad_sort"),
        ({"sort": [{}]}, "bad_sort"),
        ({"projection": "a"}, "bad_projection"),
        ({"projection": [""]}, "bad_projection"),
        ({"projection": ["a"] * 101}, "bad_projection"),
        ({"projection": [{"$slice": 1}]}, "bad_projection"),
        ({"prefix": "x" * 513}, "bad_prefix"),
        ({"prefix": "\0"}, "bad_prefix"),
        ({"prefix": {"$regex": ".*"}}, "bad_prefix"),
        ({"limit": 0}, "bad_limit"),
        ({"limit": 1001}, "bad_limit"),
        ({"token": 1}, "bad_token"),
        ({"token": "x" * 16_385}, "bad_token"),
        ({"explain": 1}, "bad_explain"),
        ({"key": "k"}, "unknown_field"),
    ],
    ids=str,
)
def test_what_is_no_query(fields: dict[str, Any], code: str) -> None:
    """Given a query that breaks a rule, when it is read, then the error has its code."""
    (decoded,) = decode_commands(json.dumps({"op": "query", "id": "q", **fields}).encode()).commands
    assert isinstance(decoded, BadCommand)
    assert decoded.error.code == code


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
nearly_filters = st.recursive(
    st.builds(
        lambda op, path, value: {op: [path, value]},
        st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte", "in", "$eq", "exists"]),
        json_values,
        json_values,
    ),
    lambda inner: st.builds(
        lambda op, parts: {op: parts},
        st.sampled_from(["and", "or", "not", "$and", "$nor"]),
        inner | st.lists(inner, max_size=3),
    ),
    max_leaves=6,
)


@given(nearly_filters | json_values)
def test_whatever_is_sent_is_a_tree_of_scalars_or_refused(data: Any) -> None:
    """Given anything at all, when it is read as a filter, then plain names and scalars come of it, or an error."""
    try:
        parts = [parse_filter(data)]
    except InvalidError:
        return
    while parts:
        match parts.pop():
            case Compare(_, path, value):
                scalars: tuple[Any, ...] = (value,)
            case OneOf(path, values):
                scalars = values
            case Exists(path):
                scalars = ()
            case Not(part):
                parts.append(part)
                continue
            case several:
                parts += several.parts
                continue
        assert all(type(name) is str for name in path)
        assert all(scalar is None or type(scalar) in (bool, int, float, str) for scalar in scalars)


# -- orders


def test_kinds_have_their_places() -> None:
    """Given one of each kind, when they are put in order, then it is the one that the protocol tells."""
    there = [None, -1, 0.5, 10**18, "", "A", "a", "é", {"x": 1}, False, True]
    assert sorted(there, key=rank) == there
    assert rank(at({}, ("x",))) < rank(None)
    assert rank([1]) == rank({}) == rank([])
    assert rank("x" * 256) == rank("x" * 256 + "y")
    assert all(is_rank(rank(one)) for one in there)


@pytest.mark.parametrize(
    "odd", [(), (2,), (2, "a"), (3, 1), (3, "x" * 257), (5, 2), (6, 0), (0, 1), (2, True), (2, 2**63), [2, 1], "21"]
)
def test_what_is_no_rank(odd: Any) -> None:
    """Given what a stranger has put into a token, when it is none of ours, then it is found out."""
    assert not is_rank(odd)


def test_equals_go_by_key_in_the_direction_of_the_first_field() -> None:
    """Given entries that are alike, when they are sorted, then their keys decide."""
    values = {"a": {"n": 1, "m": 1}, "b": {"n": 1, "m": 2}, "c": {"n": 2, "m": 1}}

    def ordered(*sorts: Sort) -> str:
        return "".join(sorted(values, key=lambda key: sort_key(position(values[key], key, sorts), sorts)))

    assert ordered() == "abc"
    assert ordered(Sort(("n",))) == "abc"
    assert ordered(Sort(("n",), descending=True)) == "cba"
    assert ordered(Sort(("n",)), Sort(("m",), descending=True)) == "bac"
    assert ordered(Sort(("m",), descending=True), Sort(("n",))) == "bac"
    assert ordered(Sort(("m",)), Sort(("n",), descending=True)) == "cab"


# -- projections


@pytest.mark.parametrize(
    ("paths", "shown"),
    [
        ([], {}),
        (["name"], {"name": "Ada"}),
        (["address.city", "nothing"], {"address": {"city": "Oslo"}}),
        (["address", "address.city"], {"address": VALUE["address"]}),
        (["address.city", "address"], {"address": VALUE["address"]}),
        ([["a.b"], ["$gt"]], {"a.b": 1, "$gt": 2}),
        (["tags.0"], {}),
        (["left"], {"left": None}),
    ],
    ids=str,
)
def test_members_are_shown_where_they_stand(paths: list[Any], shown: Any) -> None:
    """Given fields, when a value is projected, then it has those of them that are there, and is not changed."""
    before = json.dumps(VALUE)
    assert project(VALUE, parse_projection(paths)) == shown
    assert json.dumps(VALUE) == before


@pytest.mark.parametrize("value", [None, 1, "text", [1], []])
def test_a_value_without_members_shows_none(value: Any) -> None:
    """Given a value that is no object, when members of it are asked for, then there are none."""
    assert project(value, [("name",)]) == {}


# -- the builder


def test_conditions_are_built_as_they_stand_on_the_wire() -> None:
    """Given fields and conditions, when they are joined, then the filter is the one that one would write."""
    built = (field("age").gte(18) & field("address.city").eq("Oslo") & ~field("left").exists()) | field("vip").eq(True)
    assert built.wire == {
        "or": [
            {"and": [{"gte": ["age", 18]}, {"eq": ["address.city", "Oslo"]}, {"not": {"exists": "left"}}]},
            {"eq": ["vip", True]},
        ]
    }
    single = [
        field(("a.b", "c")).ne(None),
        field("a").gt(1),
        field("a").lt("b"),
        field("a").lte(1.5),
        field("a").is_in(("x", None)),
    ]
    assert [one.wire for one in single] == [
        {"ne": [["a.b", "c"], None]},
        {"gt": ["a", 1]},
        {"lt": ["a", "b"]},
        {"lte": ["a", 1.5]},
        {"in": ["a", ["x", None]]},
    ]


def test_pythons_own_words_are_refused() -> None:
    """Given two conditions, when they are joined by ``and``, then it is an error, and not half of what was meant."""
    with pytest.raises(TypeError, match="&"):
        bool(field("a").eq(1) and field("b").eq(2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: field("a..b").exists(),
        lambda: field("a").eq({"$gt": ""}),  # type: ignore[arg-type]
        lambda: field("a").gt(True),
        lambda: field("a").is_in([float("nan")]),
        lambda: Condition({"$where": "1"}),
    ],
)
def test_mistakes_are_found_where_they_are_made(make: Any) -> None:
    """Given what is no filter, when it is built, then that is an error, before anything is sent."""
    with pytest.raises(InvalidError):
        make()


def test_a_command_says_what_is_not_the_default() -> None:
    """Given a query, when its command is made, then a worker reads in it what was meant."""
    made = query_command(
        field("a").eq(1), prefix="p/", sort=["n", Order("m", descending=True), Field("k").descending()],
        projection=["x", ("y.z",)], limit=5, token="t", explain=True,
    )  # fmt: skip
    command = QueryCommand.model_validate({**made, "id": "q"})
    assert parse_filter(command.filter) == Compare("eq", ("a",), 1)
    assert parse_sort(command.sort) == (Sort(("n",)), Sort(("m",), descending=True), Sort(("k",), descending=True))
    assert parse_projection(command.projection) == (("x",), ("y.z",))
    assert (command.prefix, command.limit, command.token, command.explain) == ("p/", 5, "t", True)
    plain = query_command(None, prefix="", sort=(), projection=None, limit=100, token=None, explain=False)
    assert plain == {"op": "query", "limit": 100}


def test_conjunctions_stay_flat() -> None:
    """Given many conditions one by one, when they are joined, then the filter does not grow deep."""
    joined = field("n").eq(0)
    for number in range(1, 50):
        joined &= field("n").ne(number)
    tree = parse_filter(joined.wire)
    assert isinstance(tree, And)
    assert len(tree.parts) == 50


def test_paths() -> None:
    """Given both ways to write a path, when it is read, then it is the same."""
    assert parse_path("a.b") == parse_path(["a", "b"]) == ("a", "b")
    assert parse_path("") == parse_path([]) == ()


# -- scopes

keys = st.text("ab/", max_size=4)
scopes = st.builds(KeyScope.of, st.lists(keys, max_size=4), st.lists(keys, max_size=4))


@given(scopes, scopes, keys)
def test_what_is_in_both_scopes_is_in_their_intersection(one: KeyScope, other: KeyScope, key: str) -> None:
    """Given two scopes, when they meet, then just those keys are left that are in both."""
    assert (key in (one & other)) == (key in one and key in other)


@given(scopes, st.lists(keys, max_size=12), keys | st.none())
def test_spans_go_through_a_scope_in_order(scope: KeyScope, some: list[str], after: str | None) -> None:
    """Given a scope and a place, when its spans are gone through, then all keys behind the place come, in order."""
    told: list[str] = []
    for start, is_prefix in scope.spans(after):
        within = [key for key in some if (key.startswith(start) if is_prefix else key == start)]
        told += sorted(key for key in set(within) if after is None or key > after)
    assert told == sorted(key for key in set(some) if key in scope and (after is None or key > after))
