"""The row of compaction: saves while old versions are erased in the background, beside saves where all are kept."""

import asyncio
from typing import Final

import holdfast

from .bench import HOLDFAST, Bench
from .plan import Plan
from .result import Comparison, Goal, Row, rates
from .side import WrongCountError
from .values import key_name

_WITH, _WITHOUT = "with-retention", "without-retention"
#: Of each key, before anything is measured.
_VERSIONS: Final = 5
#: Seconds for which a value stays that has a successor, whatever the configuration says.
_LEAST_AGE: Final = 60
#: Sweeps follow one another, so that there is one at every moment of the measurement.
_RETENTION: Final = """\
[stores.default]
url = "{mongo_url}"

[stores.default.retention]
versions = 1
interval_seconds = 0.1
"""
#: Keys whose histories are looked at in the end.
_LOOKS: Final = 50


async def measure_compaction(bench: Bench) -> Row:
    """Two services on the same servers, each with a worker of its own, that take turns."""
    plan, servers = bench.plan, bench.servers
    sides = {}
    for name in (_WITH, _WITHOUT):
        bench.display.now(f"starting a worker {name.replace('-', ' ')}")
        settings = {}
        if name == _WITH:
            file = servers.folder / "retention.toml"
            file.write_text(_RETENTION.format(**servers.addresses_of(name)), encoding="utf-8")
            settings["HOLDFAST_CONFIG_FILE"] = str(file)
        await asyncio.to_thread(servers.another_worker, name, **settings)
        sides[name] = await bench.open(
            servers.side(f"{HOLDFAST}, {name}", "holdfast_side", **servers.addresses_of(name))
        )
        await sides[name].ask(
            "fill", options={"prefix": "save", "keys": plan.keys, "versions": _VERSIONS}, patience=600
        )
    bench.display.now("waiting until there is something to be erased")
    await asyncio.sleep(_LEAST_AGE)
    contenders = {
        name: bench.measurement(side, "save", in_flight=plan.in_flight, prefix="save", keys=plan.keys)
        for name, side in sides.items()
    }
    found = await bench.interleave(contenders, plan.rounds)
    erased, of = await _look(servers.addresses_of(_WITH)["amqp_url"], plan.keys)
    if not erased:
        raise WrongCountError("nothing was erased, so that nothing was measured")
    return Row(
        "compaction",
        "Saves while compaction goes through the log, again and again",
        [
            Comparison(
                f"saves, {plan.in_flight} in flight",
                rates("one version is kept", found[_WITH]),
                rates("all versions are kept", found[_WITHOUT]),
                Goal("at least", 0.9),
            )
        ],
        [f"Of {of:,} versions of {_LOOKS} keys {erased:,} were erased by the end."],
    )


async def _look(amqp_url: str, keys: int) -> tuple[int, int]:
    """How many of the versions of some keys are stubs, and how many there are."""
    async with holdfast.connect(amqp_url, timeout=30.0) as client:
        names = [key_name("save", number * keys // _LOOKS) for number in range(_LOOKS)]
        histories = await asyncio.gather(*map(client.history, names))
    events = [event for history in histories for event in history]
    return sum(bool(event.stripped) for event in events), len(events)


def estimate_compaction(plan: Plan) -> float:
    """Seconds that it takes, about."""
    return 30 + _LEAST_AGE + plan.rounds * 2 * (plan.seconds + plan.warmup)
