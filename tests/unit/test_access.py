"""Access rules: what they allow, how their mistakes are told, and that who may not read learns nothing."""

import asyncio
import itertools
import logging
import re
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.commands import NOW
from support.deliveries import delivery
from support.desk import Desk, opened_desk
from support.loops import LeapingLoop

from holdfast.config import read_config
from holdfast.events import ErrorInfo, Event, Reply, partition_of
from holdfast.events.topology import SWEEP_HEADER
from holdfast.worker import AccessConfig, AccessRule
from holdfast.worker import access as access_module
from holdfast.worker.access import OPERATIONS, Access, conceal, stores_of_nobody, warn_of

Json = dict[str, Any]


def rule(**fields: Any) -> AccessRule:
    """A rule that lets ada do everything, except where it says otherwise."""
    return AccessRule(**{"user": "ada", "store": "*", "key": "*", "operations": ["*"]} | fields)


def closed(*rules: AccessRule) -> AccessConfig:
    return AccessConfig(default="closed", rules=list(rules))


# What rules allow.


@pytest.mark.parametrize(
    ("fields", "user", "allowed"),
    [
        ({"user": "ada"}, "ada", True),
        ({"user": "ada"}, "adam", False),
        ({"user": "ada"}, "Ada", False),
        ({"user": "ada"}, None, False),
        ({"user": "shop-*"}, "shop-1", True),
        ({"user": "shop-*"}, "shop-", True),
        ({"user": "shop-*"}, "my-shop-1", False),
        ({"user": "*-shop-*"}, "my-shop-1", True),
        ({"user": "**"}, "ada", True),
        ({"user": "*"}, "a\nb", True),
        # A name that leaves itself out is matched by no pattern.
        ({"user": "*"}, None, False),
        # Only the star is special.
        ({"user": "a.a"}, "ada", False),
        ({"user": "a?a"}, "ada", False),
        ({"user": "[a]da"}, "ada", False),
        ({"user": "[a]da"}, "[a]da", True),
        # What anonymous may do, everybody may, because everybody can leave the name out.
        ({"user": None, "anonymous": True}, None, True),
        ({"user": None, "anonymous": True}, "ada", True),
    ],
)
def test_users(fields: Json, user: str | None, allowed: bool) -> None:
    """Given a rule for a user, when a user asks, then it holds for whom its pattern matches as a whole."""
    assert Access(closed(rule(**fields))).allows(user, "read", "default", "k") is allowed


@pytest.mark.parametrize(
    ("pattern", "user", "key", "allowed"),
    [
        ("*", "ada", "anything", True),
        ("user/42", "ada", "user/42", True),
        ("user/42", "ada", "user/42/cart", False),
        ("user/42", "ada", "user/421", False),
        ("user/*", "ada", "user/42/cart", True),
        ("user/*", "ada", "user/", True),
        ("user/*", "ada", "user", False),
        ("user/*", "ada", "User/42", False),
        ("user/*", "ada", "my/user/42", False),
        ("flight-*", "ada", "flight-1", True),
        ("a.c", "ada", "abc", False),
        ("[ab]", "ada", "a", False),
        ("user/${user}", "ada", "user/ada", True),
        ("user/${user}", "ada", "user/adam", False),
        ("user/${user}", "ada", "user/${user}", False),
        ("user/${user}/*", "ada", "user/ada/cart", True),
        ("user/${user}/*", "ada", "user/adam/cart", False),
        ("user/${user}/*", "ada", "user/ada", False),
        ("${user}/by/${user}", "ada", "ada/by/ada", True),
        # Names are taken as they are.
        ("user/${user}/*", "a*", "user/a*/x", True),
        ("user/${user}/*", "a*", "user/ada/x", False),
        ("user/${user}", "a*", "user/ada", False),
        ("user/${user}/*", "${user}", "user/${user}/x", True),
        # A name of two levels would reach into what belongs to its first one.
        ("user/${user}/*", "ada/cart", "user/ada/cart/x", False),
        ("user/*", "ada/cart", "user/ada/cart/x", True),
    ],
)
def test_keys(pattern: str, user: str, key: str, allowed: bool) -> None:
    """Given a rule for keys, when one is asked for, then it holds for that key, or with a star for what begins so."""
    assert Access(closed(rule(user="*", key=pattern))).allows(user, "read", "default", key) is allowed


@pytest.mark.parametrize(
    ("fields", "operation", "store", "allowed"),
    [
        ({"store": "carts"}, "read", "carts", True),
        ({"store": "carts"}, "read", "default", False),
        ({"store": "cart"}, "read", "carts", False),
        ({"store": "arts"}, "read", "carts", False),
        ({"store": "c*"}, "read", "carts", True),
        ({"store": "c.rts"}, "read", "carts", False),
        ({"operations": ["read"]}, "read", "default", True),
        ({"operations": ["read"]}, "history", "default", False),
        ({"operations": ["save", "delete"]}, "delete", "default", True),
        ({"operations": ["*"]}, "history", "default", True),
    ],
)
def test_stores_and_operations(fields: Json, operation: str, store: str, allowed: bool) -> None:
    """Given a rule for a store and operations, when something is asked, then it holds for these and no others."""
    assert Access(closed(rule(**fields))).allows("ada", operation, store, "k") is allowed


def test_closed_without_rules_allows_nothing() -> None:
    """Given no rules, when anything is asked, then it is not allowed."""
    assert not any(Access(closed()).allows(user, op, "default", "k") for user in ("ada", None) for op in OPERATIONS)


def test_rules_are_about_every_operation_on_keys() -> None:
    """Given the protocol's operations, when rules are made, then they are about all but the one that is free."""
    assert set(OPERATIONS) >= {"save", "delete", "read", "history"}
    assert "describe" not in OPERATIONS


names = st.text("ab/*", min_size=1, max_size=4)
keys = st.text("abk/*", min_size=1, max_size=6)
patterns = st.text("ab/", max_size=3)
rules = st.one_of(
    st.builds(
        AccessRule,
        user=st.builds("{}{}".format, patterns, st.sampled_from(["*", "*a", "b"])),
        store=st.sampled_from(["*", "default", "d*", "carts"]),
        key=st.sampled_from(["*", "a*", "a/b", "ab*", "${user}", "a/${user}/*", "${user}/*", "k/${user}"]),
        operations=st.lists(st.sampled_from([*OPERATIONS, "*"]), min_size=1, max_size=2),
    ),
    st.builds(
        AccessRule,
        anonymous=st.just(True),
        store=st.sampled_from(["*", "default"]),
        key=st.sampled_from(["*", "a*", "a/b"]),
        operations=st.lists(st.sampled_from([*OPERATIONS]), min_size=1, max_size=2),
    ),
)
asked = st.tuples(
    st.none() | names, st.sampled_from(OPERATIONS), st.sampled_from(["default", "carts"]), keys | st.just("a/b")
)


def glob(pattern: str, text: str) -> bool:
    """The definition: a star is for any characters."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(glob(pattern[1:], text[start:]) for start in range(len(text) + 1))
    return text[:1] == pattern[0] and glob(pattern[1:], text[1:])


def defined(rule: AccessRule, user: str | None, operation: str, store: str, key: str) -> bool:
    """What a rule means, in other words than the code's."""
    if rule.user is not None and (user is None or not glob(rule.user, user)):
        return False
    if not glob(rule.store, store) or not {operation, "*"} & set(rule.operations):
        return False
    begins = rule.key.removesuffix("*")
    if "${user}" in begins:
        if user is None or "/" in user:
            return False
        begins = user.join(begins.split("${user}"))
    return key.startswith(begins) if rule.key.endswith("*") else key == begins


@given(st.lists(rules, max_size=5), st.lists(asked, min_size=1, max_size=8))
def test_something_is_allowed_if_one_rule_allows_it(given_rules: list[AccessRule], questions: list[Any]) -> None:
    """Given any rules, when anything is asked, and again, then it is allowed if and only if one of them says so."""
    access = Access(closed(*given_rules))
    for question in questions + questions:
        assert access.allows(*question) is any(defined(one, *question) for one in given_rules)


@given(st.lists(rules, max_size=5), asked)
def test_a_name_never_takes_a_right_away(given_rules: list[AccessRule], question: Any) -> None:
    """Given any rules, when somebody is anonymous, because his name was left out or lost, then he gains nothing."""
    user, *rest = question
    access = Access(closed(*given_rules))
    assert access.allows(user, *rest) >= access.allows(None, *rest)


@given(
    st.sampled_from(["${user}", "${user}/*", "u/${user}", "u/${user}/*", "u-${user}/*", "${user}/${user}/*"]),
    st.tuples(names, names).filter(lambda pair: pair[0] != pair[1]),
    st.lists(names, max_size=3),
)
def test_users_own_keys_are_nobody_elses(pattern: str, pair: tuple[str, str], levels: list[str]) -> None:
    """Given a rule for users' own keys and two users, when any key is asked for, then not both of them have it."""
    access = Access(closed(rule(user="*", key=pattern)))
    for parts in itertools.permutations([*levels, *pair, "u", "u-" + pair[0]], 3):
        for key in ("/".join(parts), "/".join(parts[:2]), parts[0]):
            assert not all(access.allows(user, "read", "default", key) for user in pair)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given more users than are remembered, when they ask, and are denied, then memory stays and answers are right."""
    monkeypatch.setattr(access_module, "_MAX_REMEMBERED", 10)
    access = Access(closed(rule(user="user-1*")))
    for number in range(100):
        assert access.allows(f"user-{number}", "read", "default", "k") is str(number).startswith("1")
        access.denial(f"user-{number}", "read", "default", "k")
        assert len(access._keys) <= 10
        assert len(access._logged) <= 10


# How mistakes are told.


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"user": ""}, "is empty: for commands without a user say `anonymous = true`"),
        ({"user": None}, "says either `user` or `anonymous = true`"),
        ({"anonymous": True}, "says either `user` or `anonymous = true`"),
        ({"user": None, "anonymous": False}, "Input should be True"),
        ({"user": None, "anonymous": True, "key": "a/${user}"}, "who is anonymous has no name"),
        ({"user": ["ada"]}, "valid string"),
        ({"store": ""}, "matches no store"),
        ({"store": "a/b"}, "'a/b' matches no store"),
        ({"key": ""}, "is empty: '*' is for every key"),
        ({"key": "user/*/cart"}, "'user/*/cart': a '*' stands at the end"),
        ({"key": "**"}, "a '*' stands at the end"),
        ({"key": "user/${user}*"}, "behind ${user} comes a '/' or nothing"),
        ({"key": "user/${user}-*"}, "behind ${user} comes a '/' or nothing"),
        ({"key": "${user}${user}"}, "behind ${user} comes a '/' or nothing"),
        ({"key": "user/${name}/*"}, "the only placeholder is ${user}"),
        ({"operations": []}, "at least 1 item"),
        ({"operations": ["write"]}, "'write' is no operation; there are: save, delete, patch, restore, purge, read"),
        ({"operations": ["describe"]}, "'describe' is no operation"),
        ({"operations": "read"}, "valid list"),
        ({"effect": "deny"}, "Extra inputs"),
    ],
)
def test_a_wrong_rule_is_refused(fields: Json, said: str) -> None:
    """Given a rule that makes no sense, or not what it looks like, when it is read, then the error says so."""
    with pytest.raises(ValidationError) as caught:
        rule(**fields)
    assert said in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize("field", ["store", "key", "operations"])
def test_nothing_is_left_to_a_default(field: str) -> None:
    """Given a rule that leaves something out, when it is read, then that is asked for: a gap never widens a right."""
    whole = {"user": "ada", "store": "*", "key": "*", "operations": ["*"]}
    with pytest.raises(ValidationError, match=f"{field}\n  Field required"):
        AccessRule.model_validate({name: value for name, value in whole.items() if name != field})


def test_stores_that_no_rule_can_mean() -> None:
    """Given rules and the stores that there are, when they are compared, then patterns that match none are found."""
    config = closed(rule(store="carts"), rule(store="d*"), rule(store="cart"))
    assert stores_of_nobody(config, ["default", "carts"]) == ["cart"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (AccessConfig(default="open"), None),
        (closed(rule()), None),
        (AccessConfig(default="open", rules=[rule(), rule()]), "open: everybody may do everything, and the 2 access"),
        (closed(), "closed and there are no rules"),
    ],
)
def test_what_may_be_a_mistake_is_warned_of(
    caplog: pytest.LogCaptureFixture, config: AccessConfig, said: str | None
) -> None:
    """Given rules that are not in force, or nothing but a closed door, when a worker starts, then it warns."""
    warn_of(config)
    assert [said in record.getMessage() if said else record.getMessage() for record in caplog.records] == [True] * bool(
        said
    )


def test_denials_are_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """Given somebody who is denied again and again, when a minute passes, then the log has it a second time."""
    now = [0.0]
    access = Access(closed(), clock=lambda: now[0])
    for number, now[0] in enumerate((0, 1, 59, 60, 61)):
        access.denial("ada", "read", "default" if number % 2 == 0 else f"store-{number}", "a\nb")
    access.denial(None, "read", "default", "k")
    access.denial("ada", "save", "default", "k")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 4
    assert caplog.records[0].getMessage() == (
        "denied: the user 'ada' may not read the key 'a\\nb' of the store 'default'"
    )
    assert "nobody (the command has no user-id) may not read" in caplog.records[2].getMessage()


# At the worker.

KEYS_OF_A_WRITER = "k/*"
CONFIG = closed(
    rule(user="owner"),
    rule(user="pen", key=KEYS_OF_A_WRITER, operations=["save", "delete"]),
    rule(user="eye", operations=["read"]),
    rule(user="mole", operations=["history"]),
    AccessRule(anonymous=True, store="default", key="box/*", operations=["save"]),
)
DENIED = {"status": "denied"}


def desk(access: AccessConfig = CONFIG, *, partitions: int = 1) -> AbstractAsyncContextManager[Desk]:
    return opened_desk(access, partitions=partitions)


def command(op: str, key: str = "k/1", **fields: Any) -> Json:
    if op == "publish":
        # No command: the right to it is asked for where a write carries messages.
        return command("save", key, messages=[{"exchange": "orders"}], **fields)
    named = {"prefix": key} if op in ("keys", "query", "watch") else {"key": key}
    made: Json = {"op": op, "id": fields.pop("id", f"{op}-{key}"), **named, **fields}
    least: dict[str, Json] = {
        "save": {"value": 1},
        "patch": {"kind": "merge", "patch": 1},
        "restore": {"at_version": 1},
    }
    return least.get(op, {}) | made


async def test_what_is_not_allowed_is_denied_in_words() -> None:
    """Given a user without the right, when it asks, then it is told who may not do what, and nothing happens."""
    async with desk() as it:
        await it.ask(command("save", value="secret"), "owner")
        reply = await it.ask(command("read"), "pen")
        assert reply == {
            "id": "read-k/1",
            "status": "denied",
            "error": {"code": "denied", "message": "the user 'pen' may not read the key 'k/1' of the store 'default'"},
            "epoch": 1,
            "time": NOW,
        }
        assert (await it.ask(command("save", "other/1"), "pen"))["status"] == "denied"
        assert (await it.ask(command("read", "other/1"), "owner"))["exists"] is False


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("author", ["stranger", None])
async def test_nothing_is_looked_up_for_what_is_denied(
    monkeypatch: pytest.MonkeyPatch, op: str, author: str | None
) -> None:
    """Given a key with a secret, when somebody without rights asks, then not even the store hears of it."""
    async with desk() as it:
        await it.ask(command("save", value="secret"), "owner")
        for method in (
            "fence",
            "heads",
            "versions",
            "events",
            "find",
            "append",
            "history",
            "version_at",
            "keys",
            "strip",
        ):
            monkeypatch.setattr(it.store, method, None)
        told = [await it.ask(command(op, key, id="x"), author) for key in ("k/1", "k/absent")]
        assert [reply["status"] for reply in told] == ["denied", "denied"]
        for reply, key in zip(told, ("k/1", "k/absent"), strict=True):
            reply["error"]["message"] = reply["error"]["message"].replace(key, "KEY")
        assert told[0] == told[1]


async def test_describe_is_free() -> None:
    """Given a closed service, when somebody without rights asks for its description, then he gets it."""
    async with desk(closed()) as it:
        assert (await it.ask({"op": "describe", "id": "d"}, None))["status"] == "ok"


async def test_an_open_service_lets_everybody_do_everything() -> None:
    """Given rules and an open service, when anybody asks for anything, then it is done, and the answers are whole."""
    async with desk(AccessConfig(default="open", rules=[rule(operations=["read"])])) as it:
        assert (await it.ask(command("save"), None))["version"] == 1
        assert (await it.ask(command("save", id="2", concurrency="first-write"), "pen"))["error"]["winner"]
        assert (await it.ask(command("history"), "stranger"))["events"]


async def test_commands_of_an_array_are_judged_one_by_one() -> None:
    """Given an array of allowed and other commands, when it is taken, then each has its own answer."""
    commands = [command("save", "k/1"), command("save", "x/1"), command("read", "k/1"), command("delete", "k/2")]
    async with desk() as it:
        replies = {reply["id"]: reply["status"] for reply in await it.ask(commands, "pen")}
    assert replies == {"save-k/1": "ok", "save-x/1": "denied", "read-k/1": "denied", "delete-k/2": "ok"}


async def test_who_is_anonymous_may_do_what_everybody_may() -> None:
    """Given a rule for anonymous, when commands come without a name and with one, then both may do it."""
    async with desk() as it:
        for author in (None, "stranger"):
            assert (await it.ask(command("save", f"box/{author}"), author))["status"] == "ok"
            assert (await it.ask(command("save", f"k/{author}"), author))["status"] == "denied"


@pytest.mark.parametrize("hopped", [False, True])
async def test_neither_route_nor_headers_change_what_is_allowed(hopped: bool) -> None:
    """Given a wrong partition or a forged hop, when a command comes, then it is denied, and goes nowhere."""
    async with desk(partitions=4) as it:
        wrong = (partition_of("default", "k/1", 4) + 1) % 4
        headers = {"x-holdfast-author": "owner", "x-holdfast-hop": 1} if hopped else {}
        told = await it.ask(command("read"), "stranger", partition=wrong, hopped=hopped, headers=headers)
        assert told["status"] == "denied"
        assert it.forwarded == []


async def test_what_is_forwarded_is_judged_again_where_it_lands() -> None:
    """Given an allowed command on a wrong partition, when it has lost its author on the way, then it is denied."""
    async with desk(partitions=4) as it:
        home = partition_of("default", "k/1", 4)
        it.take(delivery(command("save"), tag=next(it.tags), author="pen"), (home + 1) % 4)
        await it.idle()
        (passed,) = it.forwarded
        assert passed.author == "pen"
        assert (await it.ask(command("save"), passed.author, partition=home, hopped=True))["status"] == "ok"
        assert (await it.ask(command("save", id="2"), None, partition=home, hopped=True))["status"] == "denied"


async def test_what_is_denied_and_has_nobody_to_tell_is_a_dead_letter() -> None:
    """Given a forbidden command without a reply address, when it is taken, then it is kept with its reason."""
    async with desk() as it:
        assert await it.ask(command("save", "x/1"), "pen", reply_to=None) is None
        ((body, reason, detail),) = it.broker.buried
        assert (reason, detail) == ("denied", "the user 'pen' may not save the key 'x/1' of the store 'default'")
        assert b"x/1" in body


async def test_an_unknown_store_is_told_to_those_only_who_may_ask() -> None:
    """Given a store that is not configured, when it is asked for, then who has no right is denied like everywhere."""
    async with desk() as it:
        assert (await it.ask(command("read", store="none"), "owner"))["status"] == "unknown_store"
        assert (await it.ask(command("read", store="none"), "pen"))["status"] == "denied"
        large = command("save", "x/1", value="x" * 2_000_000)
        assert (await it.ask(large, "owner"))["status"] == "too_large"
        assert (await it.ask(large, "pen"))["status"] == "denied"


# What workers tell each other.


async def expired_desk(it: Desk) -> None:
    """A key whose time has come, and nobody has noticed."""
    event = Event(id="1", key="k/1", time=NOW - 2000, digest=b"12345678", type="saved", version=1, expires=NOW - 1000)
    await it.store.append([event])


async def test_a_worker_may_tell_which_keys_have_expired() -> None:
    """Given a closed service, when a worker's sweep names a key, then it expires, and nobody is told or denied."""
    async with desk() as it:
        await expired_desk(it)
        told = await it.ask(["k/1", "k/never"], "worker", headers={SWEEP_HEADER: "default"})
        assert told == []
        assert [record.type async for record in it.store.scan()] == ["saved", "expired"]
        assert it.broker.buried == []


@pytest.mark.parametrize("author", ["owner", "stranger", None])
@pytest.mark.parametrize("body", [["k/1"], command("read"), [command("save", value=1)]], ids=["keys", "read", "save"])
async def test_nobody_else_may(author: str | None, body: Any) -> None:
    """Given somebody who takes himself for a worker, when he sends such a message, then it is passed over whole."""
    async with desk() as it:
        await expired_desk(it)
        assert not await it.ask(body, author, headers={SWEEP_HEADER: "default"})
        assert [record.type async for record in it.store.scan()] == ["saved"]
        assert it.broker.buried == []


@pytest.mark.parametrize("body", [["k/1", 1], {}, [command("save", value=1)], []])
async def test_what_a_worker_tells_is_looked_at_too(body: Any) -> None:
    """Given a message of a worker's account that names no keys, when it is taken, then nothing comes of it."""
    async with desk() as it:
        await expired_desk(it)
        assert not await it.ask(body, "worker", headers={SWEEP_HEADER: "default"})
        assert not await it.ask(["k/1"], "worker", headers={SWEEP_HEADER: "elsewhere"})
        assert [record.type async for record in it.store.scan()] == ["saved"]


async def test_a_patch_takes_the_right_to_read() -> None:
    """Given a user who may patch and not read, when he patches, then he is denied, before anything is looked up."""
    rules = [rule(user="pen", operations=["patch"]), rule(user="both", operations=["patch", "read"])]
    async with desk(closed(*rules)) as it:
        reply = await it.ask(command("patch"), "pen")
        assert reply["error"]["message"] == "the user 'pen' may not read the key 'k/1' of the store 'default'"
        assert (await it.ask(command("read"), "pen"))["status"] == "denied"
        assert [record async for record in it.store.scan()] == []
        assert (await it.ask(command("patch", id="2"), "both"))["status"] == "ok"
        assert (await it.ask(command("save"), "both"))["status"] == "denied"


# Who may write and not read.

#: Every field of a reply: what a writer without the right to read may be told.
FREE = {"id", "status", "epoch", "time", "error"}
SECRET = {"exists", "etag", "version", "value", "changed", "updated_at", "expires", "events", "next", "versions"}
SECRET |= {"keys", "count"}
SECRET |= {"entries", "token", "scan", "as_of"}
#: Told operation by operation, see test_access_transactions.py.
BY_OPERATION = {"results"}
OF_DESCRIBE = {"partitions", "protocol", "stores", "limits", "feed", "capabilities", "ttl_seconds"}
FREE_OF_ERRORS = {"code", "message", "field", "expected", "operation", "key"}
SECRET_OF_ERRORS = {"actual", "winner", "current"}


def test_every_field_of_a_reply_is_either_free_or_secret() -> None:
    """Given the definition of a reply, when a field is added, then somebody has to say which of the two it is."""
    assert set(Reply.model_fields) == FREE | SECRET | BY_OPERATION | OF_DESCRIBE
    assert set(ErrorInfo.model_fields) == FREE_OF_ERRORS | SECRET_OF_ERRORS


@given(
    st.sampled_from(["ok", "conflict", "invalid", "expired", "internal", "unavailable", "unknown"]),
    st.dictionaries(st.sampled_from(sorted(SECRET)) | st.text(), st.text()),
    st.dictionaries(st.sampled_from(sorted(SECRET_OF_ERRORS)) | st.text(), st.text()),
)
def test_what_is_not_known_to_be_free_is_concealed(status: str, extra: Json, details: Json) -> None:
    """Given any answer, when it is concealed, then only what is free is left of it, and the answer is as it was."""
    details |= {"code": "exists", "message": "at 3-0815", "expected": "1-0"}
    answer = extra | {"status": status} | ({} if status == "ok" else {"error": details})
    before = repr(answer)
    told = conceal(answer)
    assert set(told) <= FREE
    assert set(told.get("error", {})) <= FREE_OF_ERRORS
    assert repr(answer) == before


#: What may have happened to a key before: saves and deletes of its owner, and refused ones.
hidden = st.lists(st.sampled_from(["save", "save", "delete", "first-write", "mismatch", "delete again"]), max_size=4)
#: What a writer may try. The etags are of states that the owner may have made.
attempts = st.lists(
    st.fixed_dictionaries(
        {
            "op": st.sampled_from(["save", "delete"]),
            "first": st.booleans(),
            "etag": st.sampled_from([None, None, "own", "", "1-00000000", 0, 1, 2]),
            "max_version": st.sampled_from([None, None, 0, 1, 3]),
            "return_current": st.booleans(),
            "late": st.sampled_from([False, False, False, True]),
            "id": st.sampled_from(["fresh", "fresh", "fresh", "again", "owner's"]),
            "redelivered": st.booleans(),
        }
    ),
    min_size=1,
    max_size=5,
)


async def prepare(it: Desk, past: list[str]) -> list[str]:
    """Let the owner do something. Gives the etags of the states that it made."""
    etags = []
    for number, kind in enumerate(past):
        fields: Json = {"id": f"owner-{number}"}
        match kind:
            case "save":
                made = command("save", value=f"secret {number}", metadata={"why": "secret"}, **fields)
            case "first-write":
                made = command("save", value="secret", concurrency="first-write", **fields)
            case "mismatch":
                made = command("save", etag="9-00000000", **fields)
            case _:
                made = command("delete", **fields)
        reply = await it.ask(made, "owner")
        if reply.get("etag"):
            etags.append(reply["etag"])
    return etags


async def write_blindly(past: list[str], wishes: list[Json]) -> list[tuple[Json, Json, bool]]:
    """What a writer is told: each of its commands with the answer, and whether the id was its own and unused."""
    told: list[tuple[Json, Json, bool]] = []
    async with desk() as it:
        etags = await prepare(it, past)
        for number, wish in enumerate(wishes):
            etag = wish["etag"]
            if isinstance(etag, int):
                etag = etags[etag % len(etags)] if etags else "1-11111111"
            fields: Json = {"id": f"pen-{number}"}
            if etag is not None:
                fields["etag"] = "own" if etag == "own" else etag
            if wish["op"] == "save":
                fields |= {"value": number, "concurrency": "first-write" if wish["first"] else "last-write"}
            if wish["max_version"] is not None:
                fields["max_version"] = wish["max_version"]
            if wish["return_current"]:
                fields["return_current"] = True
            if wish["late"]:
                fields["deadline"] = NOW - 1
            fresh = wish["id"] == "fresh"
            made = command(wish["op"], **fields)
            if wish["id"] == "again" and told:
                made = told[-1][0]
            elif wish["id"] == "owner's" and past:
                made = made | {"id": "owner-0"}
            else:
                fresh = True
            reply = await it.ask(made, "pen", redelivered=wish["redelivered"])
            told.append((made, reply, fresh))
    return told


def expected_of(made: Json, status: str) -> Json:
    """All that a blind writer may be told, as a function of its command and of whether it was done."""
    always = {"id": made["id"], "status": status, "epoch": 1, "time": NOW}
    if status == "ok":
        return always
    answers: dict[str, tuple[str, str, Json]] = {
        "conflict": (
            "hidden",
            "the key is not in the state demanded; in which one it is this user may not know",
            {"expected": made.get("etag")},
        ),
        "expired": ("deadline", "the deadline had passed before the command was applied", {}),
        "invalid": ("id_reused", "this id belongs to an earlier command of other content or author", {"field": "id"}),
    }
    code, message, more = answers[status]
    return always | {"error": {"code": code, "message": message, **more}}


@given(hidden, hidden, attempts)
def test_who_may_write_but_not_read_learns_nothing(one: list[str], other: list[str], wishes: list[Json]) -> None:
    """Given two pasts of a key, when a writer who may not read it does the same things, then all that it is told is
    whether each was done, and of what has no condition not even that differs.
    """
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        stories = [runner.run(write_blindly(past, wishes)) for past in (one, other)]
    for story in stories:
        for made, reply, _ in story:
            assert reply == expected_of(made, reply["status"])
    for (made, reply, fresh), (_, elsewhere, also_fresh) in zip(*stories, strict=True):
        unconditional = not {"etag", "max_version"} & set(made) and made.get("concurrency") != "first-write"
        if fresh and also_fresh and unconditional:
            assert reply == elsewhere


async def test_a_value_that_is_not_told_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a key with a value, when a writer who may not read it asks for it with a conflict, then nobody reads it."""
    async with desk() as it:
        await prepare(it, ["save"])
        monkeypatch.setattr(it.engine.knowledge, "state", None)
        monkeypatch.setattr(it.store, "events", None)
        for fields in ({"concurrency": "first-write"}, {"etag": "1-00000000"}):
            curious = command("save", id=str(fields), return_current=True, **fields)
            assert await it.ask(curious, "pen") == expected_of(curious, "conflict")


async def test_a_reader_is_told_everything() -> None:
    """Given the same commands of somebody who may read, when they are answered, then all that is secret is there."""
    async with desk() as it:
        await prepare(it, ["save", "save"])
        replies = [
            await it.ask(command("save", id="1", concurrency="first-write", return_current=True), "owner"),
            await it.ask(command("delete", id="2"), "owner"),
            await it.ask(command("save", id="3", ttl_seconds=60), "owner"),
            await it.ask(command("read", id="4"), "eye"),
            await it.ask(command("history", id="5"), "mole"),
            await it.ask(command("query", id="6"), "owner"),
            await it.ask(command("watch", id="7"), "owner"),
            await it.ask(command("keys", id="8"), "owner"),
        ]
    assert set().union(*replies) >= SECRET
    assert set(replies[0]["error"]) >= SECRET_OF_ERRORS


async def test_answers_that_are_in_the_log_are_concealed_too() -> None:
    """Given a refusal from when its sender could read, when he repeats it without the right, then he learns nothing."""
    again = command("save", concurrency="first-write", return_current=True)
    gone = command("delete", "k/none")
    async with desk() as it:
        await prepare(it, ["save"])
        assert (await it.ask(again, "owner"))["error"]["winner"]
        log = [record async for record in it.store.scan()]
    async with desk(closed(rule(user="owner", operations=["save", "delete"]))) as it:
        await it.store.append(log)
        assert (await it.ask(again, "owner", redelivered=True)) == expected_of(again, "conflict")
        for redelivered in (False, True):
            assert await it.ask(gone, "owner", redelivered=redelivered) == expected_of(gone, "ok")


@pytest.mark.parametrize("past", [["save"], ["save", "delete"], ["delete"]])
async def test_the_id_of_another_tells_nothing_but_that_it_is_used(past: list[str]) -> None:
    """Given another's command, applied or refused, when a writer uses its id, then the answer is always the same."""
    async with desk() as it:
        await prepare(it, past)
        stolen = command("save", "k/2", id="owner-0", return_current=True)
        assert await it.ask(stolen, "pen") == expected_of(stolen, "invalid")
        # What is denied is not even told that.
        assert (await it.ask(stolen | {"key": "x"}, "pen"))["status"] == "denied"


# The page.

PAGE = (Path(__file__).parents[2] / "docs/security.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("user", "operation", "store", "key", "allowed"),
    [
        ("shop-1", "read", "default", "user/42", True),
        ("shop-1", "history", "default", "user/42", False),
        ("shop-1", "history", "default", "home/shop-1/x", True),
        ("shop-1", "read", "default", "home/shop-2/x", False),
        ("sensor-1", "save", "measurements", "by/sensor-1", True),
        ("sensor-1", "read", "measurements", "by/sensor-1", False),
        ("sensor-1", "save", "measurements", "by/sensor-2", False),
        (None, "save", "default", "suggestions/1", True),
        (None, "read", "default", "suggestions/1", False),
        (None, "read", "default", "home/x", False),
    ],
)
def test_the_rules_on_the_page_mean_what_it_says(
    tmp_path: Path, user: str | None, operation: str, store: str, key: str, allowed: bool
) -> None:
    """Given the page's example of a file, when it is read, then it is valid, and allows what its comments say."""
    (example,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    file = tmp_path / "holdfast.toml"
    file.write_text(example, encoding="utf-8")
    config = read_config(file).access
    assert config.default == "closed"
    assert Access(config).allows(user, operation, store, key) is allowed


def test_the_page_says_what_becomes_of_each_field() -> None:
    """Given the page's table of what writers are told, when it is read, then each field is there, free or left out."""
    table = PAGE.split("### Who may write but not read")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|$", table, re.MULTILINE)
    told = {name: text for names, text in rows for name in re.findall(r"`([\w.]+)`", names)}
    free = FREE - {"error"} | {f"error.{name}" for name in FREE_OF_ERRORS}
    secret = SECRET | {f"error.{name}" for name in SECRET_OF_ERRORS}
    assert set(told) == free | secret | BY_OPERATION
    for name, text in told.items():
        assert text.startswith(("left out", "only answers to `read`")) == (name in secret), name


def test_the_page_names_every_operation() -> None:
    """Given the operations that rules can be about, when the page lists them, then it has them all."""
    (line,) = re.findall(r"^- \*\*`operations`\*\* are (.*)$", PAGE, re.MULTILINE)
    assert set(OPERATIONS) <= set(re.findall(r"`(\w+)`", line))
