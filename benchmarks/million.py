"""Saves into a log that is full: a million keys, five million events, and what the worker's memory does meanwhile."""

import asyncio
import time

from .bench import Bench
from .load import Sample
from .machine import resident_mib
from .plan import Plan
from .process import SideProcess
from .result import Comparison, Goal, Row, rates

_PREFIX = "many"
#: Keys that are preloaded at a time.
_CHUNK = 20_000
#: What the estimate assumes, in events per second.
_PRELOAD_RATE = 30_000
_SWEEP_RATE = 13_000
_SWEEP_PARTS = 5


def estimate_million(plan: Plan) -> float:
    """Seconds, about."""
    preload = min(plan.preload_seconds, plan.preload / _PRELOAD_RATE) + plan.preload / 250_000
    sweep = min(plan.sweep_seconds, plan.full_keys / _SWEEP_RATE)
    return 10 + preload + sweep + plan.short_rounds * 2 * (plan.seconds + plan.warmup)


async def measure_million(bench: Bench) -> Row:
    """Two services side by side on the same servers, one with a full log and one with an empty one.

    Both have a worker of their own with the default settings, which knows nothing of its log at first, and both get
    saves that are uniform over as many keys.
    """
    plan = bench.plan
    events = await _preload(bench, "full")
    keys = events // plan.versions
    empty_worker = await asyncio.to_thread(bench.servers.another_worker, "empty")
    full_worker = await asyncio.to_thread(bench.servers.another_worker, "full")
    sides = {name: await _side(bench, name) for name in ("empty", "full")}
    assert full_worker.pid is not None
    assert empty_worker.pid is not None
    memory = [("at the start", resident_mib(full_worker.pid))]
    found = await bench.interleave(
        {
            name: bench.measurement(side, "save", in_flight=plan.in_flight, prefix=_PREFIX, keys=keys)
            for name, side in sides.items()
        },
        plan.short_rounds,
    )
    memory.append(
        (f"after {_saved(found['full']):,} saves in {plan.short_rounds} rounds", resident_mib(full_worker.pid))
    )
    empty_memory = resident_mib(empty_worker.pid)
    sweep = await _sweep(bench, sides["full"], full_worker.pid, keys, memory)
    figures = {
        title: rates(f"{title}, uniform over {keys:,} keys", found[name])
        for name, title in (("full", f"{events:,} events stored"), ("empty", "an empty log"))
    }
    full, empty = figures.values()
    trace = ", ".join(f"{mib:.0f} MiB {when}" for when, mib in memory)
    sweep_rate = sum(sample.operations for sample in sweep) / sum(sample.seconds for sample in sweep)
    row = Row(
        "million",
        f"Saves into a log of {events:,} events of {keys:,} keys",
        [Comparison(f"saves, {plan.in_flight} in flight", full, empty, Goal("at least", 0.8))],
        [
            f"The worker's memory (RSS): {trace}. That of the worker with the empty log: {empty_memory:.0f} MiB.",
            f"Saving every key once, which comes after the rounds, ran at {sweep_rate:,.0f} saves/s.",
        ],
        {
            "events": events,
            "keys": keys,
            "worker_memory_mib": [{"when": when, "mib": round(mib, 1)} for when, mib in memory],
            "empty_worker_memory_mib": round(empty_memory, 1),
            "sweep": [sample.to_json() for sample in sweep],
        },
    )
    if events < plan.preload:
        row.notes.append(
            f"Only {events:,} of {plan.preload:,} events were stored beforehand, for lack of time (--preload-seconds)."
        )
    return row


async def _side(bench: Bench, name: str) -> SideProcess:
    addresses = bench.servers.addresses_of(name)
    return await bench.open(bench.servers.side(f"Holdfast, {name} log", "holdfast_side", **addresses))


def _saved(samples: list[Sample]) -> int:
    return sum(sample.operations for sample in samples)


async def _preload(bench: Bench, name: str) -> int:
    """Write the events straight into the log, before its worker starts. How many there are now."""
    plan, display = bench.plan, bench.display
    begin = time.perf_counter()
    addresses = bench.servers.addresses_of(name)
    async with bench.servers.side("the preload", "preload_side", **addresses) as side:
        keys = 0
        while keys < plan.full_keys and time.perf_counter() - begin < plan.preload_seconds:
            chunk = min(_CHUNK, plan.full_keys - keys)
            options = {"prefix": _PREFIX, "first": keys, "keys": chunk, "versions": plan.versions}
            before = time.perf_counter()
            await side.ask("append_events", options=options)
            keys += chunk
            rate = keys * plan.versions / (time.perf_counter() - begin)
            display.now(f"storing events: {keys * plan.versions:,} of {plan.preload:,}, {rate:,.0f}/s")
            display.advance(time.perf_counter() - before)
        display.now("building the indexes")
        before = time.perf_counter()
        done = await side.ask("finish", patience=600)
        display.advance(time.perf_counter() - before)
    return int(done["events"])


async def _sweep(
    bench: Bench, side: SideProcess, worker: int, keys: int, memory: list[tuple[str, float]]
) -> list[Sample]:
    """Save every key once, as far as the time goes, and look at the worker's memory on the way."""
    plan = bench.plan
    samples: list[Sample] = []
    part = -(-keys // _SWEEP_PARTS)
    for number in range(_SWEEP_PARTS):
        bench.display.now(f"saving every key once, part {number + 1} of {_SWEEP_PARTS}")
        sample = await side.measure(
            "save-each",
            in_flight=plan.in_flight,
            seconds=plan.sweep_seconds / _SWEEP_PARTS,
            limit=min(part, keys - number * part),
            prefix=_PREFIX,
            keys=keys,
            first=number * part,
        )
        samples.append(sample)
        bench.display.advance(sample.seconds)
        memory.append((f"after {_saved(samples):,} more", resident_mib(worker)))
    return samples
