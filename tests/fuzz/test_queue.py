"""Bad input through the real queue: a short campaign, what hypothesis makes of commands, and what was found once."""

import itertools
import json
import struct
import time
from contextlib import closing
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fuzzed import FuzzedService

from chaos.fuzz import texts
from chaos.fuzz.aftermath import where_it_is
from chaos.fuzz.campaign import Campaign
from chaos.fuzz.commands import fresh_id
from chaos.fuzz.generate import Generator, Input, Reply, Route
from chaos.fuzz.line import Line, LineClosedError, publication, wait
from chaos.fuzz.properties import encode, entry, sized
from chaos.fuzz.queries import some_filter
from holdfast.events import partition_of
from holdfast.local import RabbitServer

Made = tuple[bytes, Reply, Route, dict[str, bytes]]

_numbers = itertools.count(10_000_000)


def generator(service: FuzzedService, seed: str) -> Generator:
    return Generator(
        seed,
        partitions=service.cluster.partitions,
        now=time.time_ns() // 1_000_000,
        user=RabbitServer.user,
    )


def test_a_short_campaign(service: FuzzedService) -> None:
    """Of thousands of inputs each gets what the protocol page says, also the ordinary ones among them."""
    make = generator(service, "short").make
    before = service.campaign.report.controls

    report = service.campaign.run(make(number) for number in range(1_500))

    service.check()
    assert report.inputs >= 1_500
    assert report.commands > 2 * report.inputs
    assert report.answers > 700
    assert report.letters > 100
    assert report.controls - before >= 1_500 // 50 * 5


# Hypothesis.

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
millis = st.none() | st.sampled_from([0, 1, 2**53 - 1])
good: dict[str, st.SearchStrategy[Any]] = {
    "v": st.just(1),
    "sent_at": millis,
    "deadline": millis,
    "store": st.sampled_from(["default", "nowhere"]),
    "key": st.sampled_from(texts.KEYS) | st.text(min_size=1, max_size=100),
    "value": json_values,
    "etag": st.none() | st.text(max_size=40),
    "max_version": st.none() | st.integers(0, 2**63 - 1),
    "concurrency": st.sampled_from(["first-write", "last-write"]),
    "return_current": st.booleans(),
    "metadata": st.none() | st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3),
    "kind": st.sampled_from(["merge", "json-patch", "increment"]),
    "patch": json_values
    | st.dictionaries(st.sampled_from(["", "/a", "/a/0"]), st.integers(-9, 9), max_size=2)
    | st.lists(
        st.fixed_dictionaries(
            {
                "op": st.sampled_from(["add", "remove", "replace", "test"]),
                "path": st.sampled_from(["", "/a", "/0", "/-"]),
            },
            optional={"value": json_values},
        ),
        max_size=3,
    ),
    "ttl_seconds": st.none() | st.sampled_from([1, 60, 2**31 - 1, -1]),
    "return_value": st.booleans(),
    "consistency": st.sampled_from(["strong", "eventual"]),
    "after_version": st.integers(0, 2**63 - 1),
    "limit": st.integers(1, 1000),
    "exists": st.booleans(),
    "messages": st.none() | st.sampled_from([[], [{"exchange": "orders"}], [{"exchange": "", "routing_key": "x"}]]),
    "prefix": st.text(max_size=20),
    "after": st.none() | st.text(min_size=1, max_size=20),
    "values": st.booleans(),
    "since": millis,
    "filter": st.integers().map(lambda seed: some_filter(Random(seed), 4)),  # noqa: S311
    "sort": st.just([{"field": "n", "order": "desc"}]),
    "projection": st.sampled_from([None, [], ["n", ["a.b"]]]),
    "token": st.none() | st.text(max_size=20),
    "explain": st.booleans(),
    "at_version": st.integers(1, 5),
    "count_only": st.booleans(),
}
good["operations"] = st.lists(
    st.fixed_dictionaries(
        {"op": st.just("save"), "key": good["key"], "value": json_values},
        optional={name: good[name] for name in ("etag", "concurrency", "ttl_seconds")},
    )
    | st.fixed_dictionaries({"op": st.just("delete"), "key": good["key"]}, optional={"etag": good["etag"]})
    | st.fixed_dictionaries({"op": st.just("check"), "key": good["key"], "exists": good["exists"]}),
    min_size=1,
    max_size=4,
)
fields: dict[str, list[str]] = {
    "save": ["store", "etag", "max_version", "concurrency", "ttl_seconds", "return_current", "metadata", "messages"],
    "patch": ["store", "etag", "max_version", "ttl_seconds", "return_current", "return_value", "metadata", "messages"],
    "delete": ["store", "etag", "max_version", "return_current", "metadata", "messages"],
    "restore": ["store", "ttl_seconds", "return_current", "metadata"],
    "purge": ["store", "metadata"],
    "read": ["store", "consistency"],
    "keys": ["store", "prefix", "after", "limit", "count_only"],
    "history": ["store", "after_version", "limit"],
    "query": ["store", "prefix", "filter", "sort", "projection", "limit", "token", "explain"],
    "describe": [],
    "transact": ["store", "return_current", "metadata", "messages"],
    "watch": ["store", "prefix", "after", "limit", "values", "since"],
    "changes": ["store", "after_version", "limit", "since"],
}


@st.composite
def commands(draw: st.DrawFn) -> dict[str, Any]:
    """A command that is valid, or has fields that may be anything."""
    op = draw(st.sampled_from(texts.OPS))
    required = {"key": good["key"]} if op not in ("describe", "keys", "query", "transact", "watch") else {}
    if op == "transact":
        required["operations"] = good["operations"]
    if op == "restore":
        required["at_version"] = good["at_version"]
    if op == "save":
        required["value"] = good["value"]
    if op == "patch":
        required |= {"kind": good["kind"], "patch": good["patch"]}
    optional = {name: good[name] for name in ["v", "sent_at", "deadline", *fields[op]]}
    command = {"op": op, "id": fresh_id(next(_numbers)), **draw(st.fixed_dictionaries(required, optional=optional))}
    if draw(st.booleans()):
        names = st.sampled_from(texts.FIELDS) | st.text(max_size=20)
        command |= draw(st.dictionaries(names, json_values, max_size=3))
    return command


bodies = (
    st.binary(max_size=200)
    | st.builds(lambda data: json.dumps(data).encode(), commands() | st.lists(commands() | json_values, max_size=8))
    | st.builds(lambda data: json.dumps(data, ensure_ascii=False).encode(errors="surrogatepass"), json_values)
)


@given(
    st.lists(
        st.tuples(
            bodies,
            st.sampled_from([Reply.SHARED, Reply.OWN, Reply.DIRECT, Reply.NONE]),
            st.sampled_from(
                [
                    Route("holdfast.commands", b"0"),
                    Route("holdfast.commands", b"3"),
                    Route("", b"holdfast.commands.1"),
                    Route("holdfast.commands", b"any", split=True),
                ]
            ),
            st.dictionaries(st.sampled_from(["message_id", "app_id"]), st.binary(min_size=1, max_size=20), max_size=2),
        ),
        min_size=10,
        max_size=40,
    )
)
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
def test_what_hypothesis_makes(
    service: FuzzedService, made: list[tuple[bytes, Reply, Route, dict[str, bytes]]]
) -> None:
    """Commands, valid and nearly, any JSON and any bytes, each with what the page allows."""
    service.campaign.run(
        Input(next(_numbers), "made by hypothesis", body, route, reply, properties)
        for body, reply, route, properties in made
    )
    service.check()


# What a broker does not take.


def until_closed(line: Line) -> None:
    while not line.pump():
        wait([line], 10)


@pytest.mark.parametrize(
    "properties",
    [
        {"expiration": b"soon"},
        {"headers": entry(b"CC", b"S", sized(b"1"))},
        {"headers": entry(b"a", b"f", struct.pack(">f", float("nan")))},
        {"headers": b"\xffa"},
        {"headers": entry(b"a", b"S", struct.pack(">I", 2**31))},
        {"reply_to": b"amq.rabbitmq.reply-to"},
    ],
    ids=str,
)
def test_what_the_broker_refuses_reaches_nobody(service: FuzzedService, properties: dict[str, bytes]) -> None:
    """A publisher of such properties loses its channel, and nothing else happens."""
    body = json.dumps({"op": "save", "id": fresh_id(next(_numbers)), "key": "refused", "value": 1}).encode()
    with closing(Line(service.cluster.amqp_url)) as line:
        line.write(publication("holdfast.commands", b"0", encode(properties), body, line.frame_max))
        with pytest.raises(LineClosedError):
            until_closed(line)
    make = generator(service, "after").make
    service.campaign.run(make(next(_numbers)) for _ in range(5))
    service.check()


# What was found once.


def sent(
    service: FuzzedService, *bodies: bytes, reply: Reply = Reply.SHARED, key: bytes = b"0", **properties: bytes
) -> None:
    split = not key.isdigit()
    service.campaign.run(
        Input(next(_numbers), "found once", body, Route("holdfast.commands", key, split=split), reply, properties)
        for body in bodies
    )
    service.check()


@pytest.mark.parametrize(("reply", "key"), [(Reply.SHARED, b"any"), (Reply.NONE, b"0")])
def test_messages_of_very_many_commands(service: FuzzedService, reply: Reply, key: bytes) -> None:
    """Ten thousand bad commands get as many answers, or a dead letter for each reason; more are refused as a whole.

    Two million numbers in one message took twenty seconds to refuse, one by one, and without heartbeats.
    """
    many = [b"[" + b",".join([unit] * 10_000) + b"]" for unit in (b"0", b'{"op":"read"}', b'{"op":"fly","id":"%d"}')]
    too_many = [b"[" + b",".join([unit] * 1_300_000) + b"]" for unit in (b"0", b"{}")]
    sent(service, *many, *too_many, reply=reply, key=key)


@pytest.mark.parametrize("reply", [Reply.SHARED, Reply.NONE])
def test_names_of_megabytes_do_not_come_back(service: FuzzedService, reply: Reply) -> None:
    """Neither in an answer nor in a dead letter's headers; they were in both, four MiB long."""
    name = b"n" * (3 * 2**20)
    sent(
        service,
        b'{"id":"1","op":"read","key":"k","%s":1}' % name,
        b'{"id":"1","op":"save","key":"k","value":[{"%s":{"a\\u0000":1}}]}' % name,
        b'{"id":"1","op":"delete","key":"k","metadata":{"%s":1}}' % name,
        b'{"id":"1","op":"delete","key":"k","etag":"%s"}' % name,
        b'{"id":"%s","op":"delete","key":"k"}' % name,
        reply=reply,
    )


def test_what_grows_when_it_is_written_again(service: FuzzedService) -> None:
    """Short numbers with long texts: what is forwarded was too large for a message, and answered as a whole."""
    numbers = b",".join([b"1e15"] * 50_000)
    items = [
        b'{"id":"%d","op":"save","store":"nowhere","key":"k%d","value":[%s]}' % (key, key, numbers) for key in range(16)
    ]
    body = b"[" + b",".join(items) + b"]"
    assert len(body) < 4 * 2**20
    sent(service, body, key=b"any")
    sent(service, body, key=b"0")


def test_an_array_with_a_reserved_reply_address(service: FuzzedService) -> None:
    """By the ingress it is buried as one message too; its parts were forwarded, and buried one by one."""
    items = [{"op": "read", "id": fresh_id(next(_numbers)), "key": f"k{number}"} for number in range(20)]
    sent(service, json.dumps(items).encode(), reply=Reply.RESERVED, key=b"any")


def test_headers_of_a_whole_frame(service: FuzzedService) -> None:
    """A hundred thousand entries, which the driver takes most of a second for, and levels that it cannot follow."""
    deep = b""
    for _ in range(3000):
        deep = entry(b"a", b"F", sized(deep))
    for headers in (entry(b"a", b"A", sized(b"V" * 100_000)), entry(b"a", b"V") * 30_000, deep):
        body = json.dumps({"op": "read", "id": fresh_id(next(_numbers)), "key": "k"}).encode()
        sent(service, *[body] * 5, headers=headers)


@pytest.mark.parametrize("count", [b"l" + struct.pack(">q", 100), b"t\1", b"S" + sized(b"100")])
def test_a_count_of_deliveries_that_was_made_up(service: FuzzedService, count: bytes) -> None:
    """A new worker took the first message for what kills workers that said of itself that it had come often."""
    body = json.dumps({"op": "read", "id": fresh_id(next(_numbers)), "key": "k"}).encode()
    sent(service, body, headers=entry(b"x-delivery-count", count[:1], count[1:]))


@pytest.mark.parametrize("queue", ["holdfast.ingress", "holdfast.commands.0", "holdfast.commands.1"])
def test_a_reply_address_that_only_the_broker_can_fill_in(service: FuzzedService, queue: str) -> None:
    """For whoever forwards it the broker closes the channel: one such message kept workers from working for good.

    Messages come with it by way of AMQP 1.0, or of plugins; a publisher over AMQP 0-9-1 cannot send it.
    """
    vhost = service.cluster.vhost
    key = next(key for key in texts.KEYS if partition_of("default", key, service.cluster.partitions) == 2)
    command = json.dumps({"op": "save", "id": fresh_id(next(_numbers)), "key": key, "value": 1})
    escaped = command.replace('"', '\\"')
    properties = ", ".join(
        ["undefined"] * 2 + ["[]", "2", "undefined", '<<"c">>', '<<"amq.rabbitmq.reply-to">>'] + ["undefined"] * 7
    )
    service.cluster.rabbit.eval(
        f"P = {{'P_basic', {properties}}}, X = rabbit_misc:r(<<\"{vhost}\">>, exchange, <<>>), "
        f'C = rabbit_basic:build_content(P, <<"{escaped}">>), {{ok, M}} = mc_amqpl:message(X, <<"{queue}">>, C), '
        "ok = rabbit_queue_type:publish_at_most_once(X, M)"
    )
    make = generator(service, "behind it").make
    service.campaign.run(make(next(_numbers)) for _ in range(20))
    service.check()


def test_what_is_stuck_is_told(service: FuzzedService) -> None:
    """A worker that answers nothing ends a campaign; which command it was is told, and the worker tells where it is."""
    told: list[str] = []
    body = json.dumps({"op": "read", "id": "the one", "key": "k"}).encode()
    cluster, worker = service.cluster, service.worker

    def ask() -> None:
        worker.resume()
        told.extend(where_it_is(cluster, worker))

    campaign = Campaign(cluster.amqp_url, partitions=cluster.partitions, patience=0.5, on_stuck=ask)
    with closing(campaign):
        worker.pause()
        try:
            report = campaign.run([Input(1, "stuck", body, Route("holdfast.commands", b"0"), Reply.OWN)])
        finally:
            worker.resume()

    assert any("'the one'" in failure.what for failure in report.failures), report.failures
    assert "Lane.run" in told[0]
    service.check()
