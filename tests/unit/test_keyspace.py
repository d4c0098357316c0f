"""Key spaces: the same names for different keys, and different names for none."""

import pytest
from support.loopback import Loopback

import holdfast
from holdfast import by_name, by_user
from holdfast.testing import AccessConfig, AccessRule, MemoryService


async def test_users_have_keys_of_their_own() -> None:
    """Given two users with keys by user, when both use one name, then each has his own, and sees it under that name."""
    with MemoryService() as service:
        async with (
            service.connect(user="ada", keys=by_user()) as ada,
            service.connect(user="eve", keys=by_user()) as eve,
            service.connect() as all_of_them,
        ):
            saved = await ada.save("cart", 1)
            assert await eve.read("cart") is None
            await eve.save("cart", 2)
            found = await ada.read("cart")
            assert found is not None
            assert (saved.key, found.key, found.value, found.etag) == ("cart", "cart", 1, saved.etag)
            everything = await all_of_them.read_many(["user/ada/cart", "user/eve/cart", "cart"])
            assert [entry and entry.value for entry in everything.values()] == [1, 2, None]
            with pytest.raises(holdfast.ConflictError, match=r"^'cart'") as conflict:
                await ada.save("cart", 3, first_write=True)
            assert conflict.value.key == "cart"
            assert await ada.delete("cart")
            assert [event.type for event in await ada.history("cart")] == ["saved", "deleted"]


async def test_those_of_one_name_share() -> None:
    """Given clients with keys by name, when it is the same, then they share keys, and with another they do not."""
    with MemoryService() as service:
        async with (
            service.connect(user="ada", keys=by_name("shop")) as one,
            service.connect(user="eve", keys=by_name("shop")) as two,
            service.connect(keys=by_name("stock")) as other,
        ):
            counters = [client.state("counter", int, default=int) for client in (one, two, other)]
            for counter in counters:
                await counter.update(lambda count: count + 1)
            assert [counter.value for counter in counters] == [1, 2, 1]


async def test_rules_keep_users_in_their_spaces() -> None:
    """Given a rule for spaces by user, when a user names the keys of another one, then he is denied."""
    rule = AccessRule(user="*", store="*", key="user/${user}/*", operations=["*"])
    with MemoryService(access=AccessConfig(default="closed", rules=[rule])) as service:
        async with service.connect(user="ada", keys=by_user()) as ada, service.connect(user="eve") as eve:
            await ada.save("cart", 1)
            with pytest.raises(holdfast.DeniedError):
                await eve.read("user/ada/cart")


async def test_keys_are_listed_within_a_space() -> None:
    """Given keys by user, when they are listed and counted, then each sees his own, as he calls them, page by page."""
    rules = [
        AccessRule(user="*", store="*", key="user/${user}/*", operations=["save", "keys"]),
        AccessRule(user="ada", store="*", key="user/ada/a*", operations=["read", "history", "restore"]),
    ]
    with MemoryService(access=AccessConfig(default="closed", rules=rules)) as service:
        async with (
            service.connect(user="ada", keys=by_user()) as ada,
            service.connect(user="eve", keys=by_user()) as eve,
        ):
            for client in (ada, eve):
                for key in ("a/1", "a/2", "a/3", "b/1"):
                    await client.save(key, 1)
            page = await ada.keys("a/", limit=2)
            assert ([entry.key for entry in page.keys], page.next) == (["a/1", "a/2"], "a/2")
            rest = await ada.keys("a/", after=page.next)
            assert ([entry.key for entry in rest.keys], rest.next) == (["a/3"], None)
            assert [(entry.key, entry.version) async for entry in ada.iter_keys()] == [
                ("a/1", 1), ("a/2", 1), ("a/3", 1), ("b/1", None),
            ]  # fmt: skip
            assert [entry.version async for entry in eve.iter_keys("a/")] == [None] * 3
            assert (await ada.count_keys(), await eve.count_keys("b/")) == (4, 1)


async def test_who_may_restore() -> None:
    """Given rules, when somebody restores, then it takes that right, and without the right to read little is told."""
    rules = [
        AccessRule(user="ada", store="*", key="*", operations=["save", "read", "history"]),
        AccessRule(user="root", store="*", key="*", operations=["restore"]),
    ]
    with MemoryService(access=AccessConfig(default="closed", rules=rules)) as service:
        async with service.connect(user="ada") as ada, service.connect(user="root") as root:
            for value in (1, 2):
                await ada.save("k", value)
            with pytest.raises(holdfast.DeniedError):
                await ada.restore("k", version=1)
            entry = await root.restore("k", version=1)
            assert (entry.etag, entry.version) == ("", 0)
            with pytest.raises(holdfast.ConflictError) as conflict:
                await root.restore("k", version=9, return_current=True)
            assert (conflict.value.code, conflict.value.current_known) == ("hidden", False)
            with pytest.raises(holdfast.DeniedError):
                await root.save("k", 3)
            found = await ada.read("k")
            assert found is not None
            assert (found.value, found.version) == (1, 3)


@pytest.mark.parametrize("name", ["", "a/b", "user", "a\0b"])
def test_names_that_would_overlap_are_refused(name: str) -> None:
    """Given a name that is no level of its own, when a space is made of it, then that is an error."""
    with pytest.raises(holdfast.InvalidError):
        by_name(name)


def test_keys_by_user_need_one() -> None:
    """Given a URL whose user is in a certificate, or spans levels, when keys are by user, then that is an error."""
    for url in ("amqps://localhost/?auth=external", "amqp://a%2Fb@localhost/"):
        with pytest.raises(holdfast.InvalidError):
            holdfast.connect(url, keys=by_user())


async def test_keys_that_become_too_long_are_refused() -> None:
    """Given a key of the greatest length, when a space makes it longer, then nothing is sent."""
    service = Loopback()
    async with service.connect(keys=by_name("shop")) as client:
        await client.save("k" * 507, 1)
        with pytest.raises(holdfast.InvalidError, match="limited to 512"):
            await client.save("k" * 508, 1)
        assert len(service.commands) == 1
