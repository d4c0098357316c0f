"""The row of the change feed: saves with a feed and a watch on everything, beside saves without either."""

import asyncio

from .bench import HOLDFAST, Bench
from .plan import Plan
from .result import Comparison, Goal, Row, rates

_WITH, _WITHOUT = "with-feed", "without-feed"


async def measure_feed(bench: Bench) -> Row:
    """Two services on the same servers, each with a worker of its own, that take turns."""
    plan, servers = bench.plan, bench.servers
    sides = {}
    for name, settings in ((_WITH, {}), (_WITHOUT, {"HOLDFAST_FEED": "off"})):
        bench.display.now(f"starting a worker {name.replace('-', ' a ')}")
        await asyncio.to_thread(servers.another_worker, name, **settings)
        sides[name] = await bench.open(
            servers.side(f"{HOLDFAST}, {name}", "holdfast_side", **servers.addresses_of(name))
        )
        await sides[name].ask("fill", options={"prefix": "save", "keys": plan.keys, "versions": 1}, patience=300)
    watch = await bench.open(servers.side("the watch", "feed_side", **servers.addresses_of(_WITH)))
    contenders = {
        name: bench.measurement(side, "save", in_flight=plan.in_flight, prefix="save", keys=plan.keys)
        for name, side in sides.items()
    }
    found = await bench.interleave(contenders, plan.rounds)
    proof = await watch.ask("prove", options={"prefix": "save", "keys": plan.keys}, patience=120)
    told = f"{proof['changes']:,} changes: of {plan.keys:,} keys {proof['versions']:,} versions"
    return Row(
        "feed",
        "Saves with the change feed, its stream, and one watch on everything",
        [
            Comparison(
                f"saves, {plan.in_flight} in flight",
                rates("with the feed and a watch", found[_WITH]),
                rates("without a feed", found[_WITHOUT]),
                Goal("at least", 0.85),
            )
        ],
        [f"The watch, in a process on the same machine, was told {told}, each once and in order."],
    )


def estimate_feed(plan: Plan) -> float:
    """Seconds that it takes, about."""
    return 10 + plan.rounds * 2 * (plan.seconds + plan.warmup)
