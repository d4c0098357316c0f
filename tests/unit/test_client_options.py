"""Options that calls share: each call says which it takes, and refuses all others before anything is sent."""

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from typing import Any, get_type_hints

import pytest
from support.loopback import Loopback
from support.loops import leaping

from holdfast import Client, OutboxMessage, Save, SyncClient

CALLS = {
    name: getattr(Client, name)
    for name in dir(Client)
    if not name.startswith("_") and inspect.isroutine(inspect.getattr_static(Client, name))
}
WRITE = {"store", "metadata", "timeout", "id", "etag", "correlation_id", "causation_id"}
TAKEN = {
    "save": WRITE | {"key", "value", "first_write", "ttl", "messages", "return_current"},
    "delete": WRITE | {"key", "messages", "return_current"},
    "restore": WRITE | {"key", "version", "ttl", "return_current"},
    "purge": WRITE | {"key"},
    "merge_patch": WRITE | {"key", "patch", "ttl", "messages", "return_current"},
    "json_patch": WRITE | {"key", "operations", "ttl", "messages", "return_current"},
    "increment": WRITE | {"key", "by", "path", "ttl", "messages", "return_current"},
    "transact": {"steps", "store", "metadata", "timeout", "id", "messages", "return_current"},
    "transaction": {"store", "metadata", "timeout", "id", "return_current"},
    "state": {"key", "type", "store", "default", "ttl", "timeout", "serializer"},
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_is_documented_and_typed(name: str) -> None:
    """Given a call of the client, when it is asked about, then it has a text, and types that can be resolved."""
    call = CALLS[name]
    assert inspect.getdoc(call)
    _, *parameters = inspect.signature(call).parameters.values()
    assert all(each.annotation is not inspect.Parameter.empty for each in parameters)
    # A type checker sees the options by their name.
    assert all(each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL) for each in parameters)
    if name not in ("state", "activate"):  # they know the client by the name of its module
        assert "return" in get_type_hints(call)


@pytest.mark.parametrize("client", [Client, SyncClient])
@pytest.mark.parametrize("name", TAKEN)
def test_a_call_tells_its_options_one_by_one(client: type[Client] | type[SyncClient], name: str) -> None:
    """Given a call with options, when its signature is asked for, then each is there, with what it is by default."""
    _, *parameters = inspect.signature(getattr(client, name)).parameters.values()
    assert {each.name for each in parameters} == TAKEN[name]
    usual = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    unusual = {name: default for name, default in usual.items() if default is not None}
    known = {"first_write": False, "messages": (), "return_current": False, "by": 1, "path": ""}
    assert unusual == {name: known[name] for name in unusual}
    assert {"messages", "return_current", "first_write"} & TAKEN[name] <= unusual.keys()


async def in_a_block(client: Client, **options: Any) -> None:
    async with client.transaction(**options) as transaction:
        transaction.save("k", 1)


@pytest.mark.parametrize(
    ("call", "options"),
    [
        (lambda client, **options: client.save("k", 1, **options), {"etagg": "1-x"}),
        (lambda client, **options: client.save("k", 1, **options), {"id": "c", "at": 1, "etag": "1-x"}),
        (lambda client, **options: client.delete("k", **options), {"ttl": 60}),
        (lambda client, **options: client.delete("k", **options), {"first_write": True}),
        (lambda client, **options: client.restore("k", version=1, **options), {"messages": ()}),
        (lambda client, **options: client.purge("k", **options), {"return_current": True}),
        (lambda client, **options: client.purge("k", **options), {"messages": ()}),
        (lambda client, **options: client.merge_patch("k", {}, **options), {"first_write": True}),
        (lambda client, **options: client.json_patch("k", [], **options), {"first_write": True}),
        (lambda client, **options: client.increment("k", **options), {"first_write": True}),
        (lambda client, **options: client.transact([Save("k", 1)], **options), {"etag": "1-x"}),
        (in_a_block, {"etag": "1-x"}),
        (in_a_block, {"messages": ()}),
    ],
)
def test_an_option_that_a_call_does_not_take_is_refused(
    call: Callable[..., Awaitable[Any]], options: dict[str, Any]
) -> None:
    """Given a misspelt condition, say, when the call is made, then it is an error, and nothing is sent without it."""

    @leaping
    async def check() -> None:
        service = Loopback()
        async with service.connect() as client:
            service.messages.clear()
            with pytest.raises(TypeError):
                await call(client, **options)
            assert service.messages == []

    check()


@leaping
async def test_what_options_say_stands_in_the_command() -> None:
    """Given all options, when calls are made, then each says them in its command; None and the like say nothing."""
    service = Loopback()
    note: dict[str, Any] = {"metadata": {"by": "ada"}, "correlation_id": "order-1", "causation_id": "c-0", "id": "c-1"}
    message = OutboxMessage(exchange="orders", routing_key="new", body={"n": 1})
    says = {"metadata": {"by": "ada"}, "correlation_id": "order-1", "causation_id": "c-0", "id": "c-1"}
    async with service.connect() as client:
        with service.usually(lambda each: each.confirmed()):

            async def sent(call: Awaitable[Any]) -> dict[str, Any]:
                service.messages.clear()
                with pytest.raises(TimeoutError):
                    await call
                (command,) = service.commands[:1]
                return {name: field for name, field in command.items() if name not in ("v", "sent_at", "deadline")}

            options: dict[str, Any] = {**note, "etag": "1-x", "return_current": True, "timeout": 1}
            command = await sent(client.save("k", 1, ttl=timedelta(minutes=1), messages=[message], **options))
            assert command.pop("messages")[0]["routing_key"] == "new"
            all_of_them = {**says, "key": "k", "etag": "1-x", "return_current": True, "ttl_seconds": 60}
            assert command == {**all_of_them, "op": "save", "value": 1}
            command = await sent(client.increment("k", 2, ttl=60, **options))
            patch = {"op": "patch", "kind": "increment", "patch": {"": 2}, "return_value": True}
            assert command == {**all_of_them, **patch}
            command = await sent(client.restore("k", version=3, ttl=60, **options))
            assert command == {**all_of_them, "op": "restore", "at_version": 3}
            del options["return_current"], all_of_them["return_current"], all_of_them["ttl_seconds"]
            assert await sent(client.purge("k", **options)) == {**all_of_them, "op": "purge"}
            nothing: dict[str, Any] = dict.fromkeys(("etag", "metadata", "correlation_id", "causation_id", "store"))
            quiet = await sent(client.delete("k", messages=(), return_current=False, id="c-1", timeout=1, **nothing))
            assert quiet == {"op": "delete", "key": "k", "id": "c-1"}


async def test_iterations_take_what_their_pages_take() -> None:
    """Given calls that page, when they are made, then they are generators, which need no await."""
    client = Client("amqp://loopback/")
    for items in (client.iter_keys("a"), client.iter_history("a"), client.iter_query()):
        assert isinstance(items, AsyncGenerator)
        await items.aclose()
