"""Queries of clients that see a part of the keys, by another name."""

from holdfast import by_name, field
from holdfast.testing import AccessConfig, AccessRule, MemoryService


async def test_a_query_stays_within_its_space() -> None:
    """Given keys by name, when a client queries, then it finds its own, as it calls them, page by page."""
    with MemoryService() as service:
        async with (
            service.connect(keys=by_name("shop")) as shop,
            service.connect(keys=by_name("shopping")) as shopping,
            service.connect() as everybody,
        ):
            await shop.save_many({f"cart/{number}": {"n": number} for number in range(5)})
            await shopping.save("cart/1", {"n": 1})
            page = await shop.query(field("n").gte(1), sort=[field("n").descending()], limit=2)
            assert [entry.key for entry in page.entries] == ["cart/4", "cart/3"]
            rest = await shop.query(field("n").gte(1), sort=[field("n").descending()], token=page.token)
            assert [entry.key for entry in rest.entries] == ["cart/2", "cart/1"]
            assert [entry.key async for entry in shop.iter_query(prefix="cart/1")] == ["cart/1"]
            assert [entry.key async for entry in shopping.iter_query()] == ["cart/1"]
            assert [entry.key async for entry in everybody.iter_query(field("n").eq(1))] == [
                "shop/cart/1",
                "shopping/cart/1",
            ]


async def test_a_query_finds_what_rules_allow() -> None:
    """Given a closed service in memory, when a user queries it, then it tells of his corner alone."""
    rules = [
        AccessRule(user="*", store="*", key="home/${user}/*", operations=["*"]),
        AccessRule(user="root", store="*", key="*", operations=["*"]),
    ]
    with MemoryService(access=AccessConfig(default="closed", rules=rules)) as service:
        async with service.connect(user="root") as root, service.connect(user="ada") as ada:
            await root.save_many({"home/ada/1": 1, "home/eve/1": 1, "home/adam": 1})
            assert [entry.key async for entry in ada.iter_query()] == ["home/ada/1"]
            assert len([entry async for entry in root.iter_query(field("").eq(1))]) == 3
