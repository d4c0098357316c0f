"""The rows: saves, reads, the lone save, the hot key, the counter, YCSB, and what more in flight brings."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .bench import ECHO, HOLDFAST, MOTOR, NATS, Bench, Measurement
from .compaction import estimate_compaction, measure_compaction
from .consistency import measure_consistency
from .feed import estimate_feed, measure_feed
from .increments import estimate_increments, measure_increments
from .load import Sample
from .million import estimate_million, measure_million
from .plan import Plan
from .result import Comparison, Figure, Goal, Row, medians, rates
from .ycsb import WORKLOADS

_NATS_NOTE = (
    "NATS does not fsync each write (the server has no such option), and a get may be answered without what was "
    "just written."
)


async def measure_saves(bench: Bench) -> Row:
    """Saves with much in flight, beside Motor and NATS."""
    plan = bench.plan
    contenders: dict[str, Measurement] = {}
    for name, in_flight in ((HOLDFAST, plan.in_flight), (MOTOR, plan.motor_tasks), (NATS, plan.in_flight)):
        await bench.fill(name, "save", plan.keys)
        contenders[name] = bench.measurement(
            await bench.side(name), "save", in_flight=in_flight, prefix="save", keys=plan.keys
        )
    found = await bench.interleave(contenders, plan.rounds)
    ours = rates(HOLDFAST, found[HOLDFAST])
    measure = f"saves, {plan.in_flight} in flight"
    return Row(
        "saves",
        f"Saves, uniform over {plan.keys:,} keys",
        [
            Comparison(measure, ours, rates(f"Motor, {plan.motor_tasks} tasks", found[MOTOR]), Goal("at least", 5)),
            Comparison(measure, ours, rates("NATS KV put", found[NATS]), Goal("at least", 1)),
        ],
        [_NATS_NOTE],
    )


async def measure_reads(bench: Bench) -> Row:
    """Strong reads with much in flight, beside NATS."""
    plan = bench.plan
    await bench.fill(HOLDFAST, "read", plan.keys, plan.versions)
    await bench.fill(NATS, "read", plan.keys)
    contenders = {
        name: bench.measurement(await bench.side(name), "read", in_flight=plan.in_flight, prefix="read", keys=plan.keys)
        for name in (HOLDFAST, NATS)
    }
    found = await bench.interleave(contenders, plan.rounds)
    return Row(
        "reads",
        f"Strong reads, uniform over {plan.keys:,} keys of {plan.versions} versions each",
        [
            Comparison(
                f"strong reads, {plan.in_flight} in flight",
                rates(HOLDFAST, found[HOLDFAST]),
                rates("NATS KV get", found[NATS]),
                Goal("at least", 1.5),
            )
        ],
        [_NATS_NOTE],
    )


async def measure_lone(bench: Bench) -> Row:
    """One save at a time, beside what it cannot do without: a way through a quorum queue and back, and an insert."""
    plan = bench.plan
    operations = {HOLDFAST: (HOLDFAST, "save"), ECHO: (ECHO, "echo"), "insert": (MOTOR, "insert")}
    await bench.fill(HOLDFAST, "save", plan.keys)
    contenders = {
        name: bench.measurement(
            await bench.side(side), operation, in_flight=1, seconds=plan.lone_seconds, prefix="save", keys=plan.keys
        )
        for name, (side, operation) in operations.items()
    }
    found = await bench.interleave(contenders, plan.rounds)
    parts = Figure(
        "aio-pika echo + journaled insert",
        "ms",
        [echo.p50 + insert.p50 for echo, insert in zip(found[ECHO], found["insert"], strict=True)],
        [*found[ECHO], *found["insert"]],
    )
    echo, insert = medians(ECHO, found[ECHO]).spread, medians("insert", found["insert"]).spread
    return Row(
        "lone",
        "One save at a time",
        [Comparison("p50 of a lone save", medians(HOLDFAST, found[HOLDFAST]), parts, Goal("at most", 1.3))],
        [f"The echo through a quorum queue takes {echo.median:.2f} ms, the insert {insert.median:.2f} ms (p50)."],
    )


async def measure_hot(bench: Bench) -> Row:
    """Saves on one single key, beside saves on many."""
    plan = bench.plan
    await bench.fill(HOLDFAST, "save", plan.keys)
    side = await bench.side(HOLDFAST)
    contenders = {
        "hot": bench.measurement(side, "save", in_flight=plan.in_flight, prefix="hot", keys=1),
        "uniform": bench.measurement(side, "save", in_flight=plan.in_flight, prefix="save", keys=plan.keys),
    }
    found = await bench.interleave(contenders, plan.short_rounds)
    return Row(
        "hot",
        "Saves on one single key",
        [
            Comparison(
                f"saves on one hot key, {plan.in_flight} in flight",
                rates("one hot key", found["hot"]),
                rates(f"Holdfast, uniform over {plan.keys:,} keys", found["uniform"]),
                Goal("at least", 0.8),
            )
        ],
    )


async def measure_counter(bench: Bench) -> Row:
    """Many clients that increment one counter, each by reading, adding and writing on condition."""
    plan = bench.plan
    found: dict[str, list[dict[str, float]]] = {HOLDFAST: [], MOTOR: []}
    for number in range(plan.short_rounds):
        for name in (HOLDFAST, MOTOR):
            side = await bench.side(name)
            bench.display.now(f"{name}, round {number + 1} of {plan.short_rounds}")
            options = {"key": f"counter/{number}", "clients": plan.counter_clients, "seconds": plan.seconds}
            found[name].append(await side.ask("count", options=options, patience=plan.seconds + 120))
            bench.display.advance(plan.seconds)
    ours, theirs = (
        Figure(title, "/s", [run["rate"] for run in found[name]])
        for name, title in ((HOLDFAST, HOLDFAST), (MOTOR, "Motor, optimistic retry"))
    )
    done = int(sum(run["increments"] for run in found[HOLDFAST]))
    gave_up = int(sum(run["gave_up"] for run in found[HOLDFAST]))
    return Row(
        "counter",
        f"One counter, {plan.counter_clients} clients",
        [Comparison("increments by update", ours, theirs)],
        [
            f"All {done:,} increments that Holdfast acknowledged are there, none twice: the whole history was checked.",
            f"Calls of update that ran out of attempts and were called again: {gave_up}.",
        ],
        {"counter": found},
    )


async def measure_ycsb(bench: Bench) -> Row:
    """The YCSB core workloads on Holdfast and on Motor."""
    plan = bench.plan
    row = Row("ycsb", "YCSB core workloads, zipfian, 10,000 records of 200 bytes")
    many, few = f"{HOLDFAST}, {plan.in_flight}", f"{HOLDFAST}, {plan.motor_tasks}"
    callers = {many: (HOLDFAST, plan.in_flight), few: (HOLDFAST, plan.motor_tasks), MOTOR: (MOTOR, plan.motor_tasks)}
    for name in (HOLDFAST, MOTOR):
        bench.display.now(f"{name}: storing the records")
        await (await bench.side(name)).ask("fill_ycsb", patience=300)
    for letter, mix in WORKLOADS.items():
        contenders = {
            name: bench.measurement(
                await bench.side(side), "ycsb", in_flight=in_flight, seconds=plan.ycsb_seconds, workload=letter
            )
            for name, (side, in_flight) in callers.items()
        }
        found = await bench.interleave(contenders, plan.ycsb_rounds)
        motor = rates(f"Motor, {plan.motor_tasks} tasks", found[MOTOR])
        for name, (side, in_flight) in callers.items():
            if side == HOLDFAST:
                measure = f"YCSB {letter} ({mix.title}), {in_flight} in flight"
                row.comparisons.append(Comparison(measure, rates(HOLDFAST, found[name]), motor))
    row.notes.append(
        "YCSB's scrambled zipfian with its constant 0.99, for D its latest. Holdfast's reads are strong; Motor reads "
        "from the primary with read concern majority and writes with majority and journal."
    )
    return row


async def measure_flight(bench: Bench) -> Row:
    """Throughput and latency against what is in flight, for the plots."""
    plan = bench.plan
    curves: dict[str, dict[str, list[Sample]]] = {}
    kinds = {
        "save": {HOLDFAST: "save", MOTOR: "save", NATS: "save", ECHO: "echo"},
        "read": {HOLDFAST: "read", MOTOR: "read", NATS: "read"},
    }
    for kind, operations in kinds.items():
        for name in operations:
            if name != ECHO:
                await bench.fill(name, kind, plan.keys)
        curve: dict[str, list[Sample]] = {name: [] for name in operations}
        for in_flight in plan.flight_levels:
            for name, operation in operations.items():
                bench.display.now(f"{kind}s, {name}, {in_flight} in flight")
                measure = bench.measurement(
                    await bench.side(name),
                    operation,
                    in_flight=in_flight,
                    seconds=plan.flight_seconds,
                    prefix=kind,
                    keys=plan.keys,
                )
                curve[name].append(await measure())
        curves[kind] = curve
    return Row(
        "flight",
        "Throughput and latency against what is in flight",
        notes=["One measurement for each figure of these; the plots show them."],
        curves=curves,
    )


@dataclass(frozen=True, slots=True)
class RowKind:
    """A row that can be selected."""

    measure: Callable[[Bench], Awaitable[Row]]
    #: Seconds that it takes, about.
    estimate: Callable[[Plan], float]
    needs_nats: bool = False


def _turns(plan: Plan, rounds: int, contenders: int, seconds: float) -> float:
    return rounds * contenders * (seconds + plan.warmup)


ROWS: dict[str, RowKind] = {
    "saves": RowKind(measure_saves, lambda plan: 3 + _turns(plan, plan.rounds, 3, plan.seconds), needs_nats=True),
    "reads": RowKind(measure_reads, lambda plan: 6 + _turns(plan, plan.rounds, 2, plan.seconds), needs_nats=True),
    "consistency": RowKind(
        measure_consistency,
        lambda plan: 6 + _turns(plan, plan.rounds, 2, plan.seconds) + _turns(plan, plan.rounds, 2, plan.lone_seconds),
    ),
    "lone": RowKind(measure_lone, lambda plan: 3 + _turns(plan, plan.rounds, 3, plan.lone_seconds)),
    "hot": RowKind(measure_hot, lambda plan: 2 + _turns(plan, plan.short_rounds, 2, plan.seconds)),
    "counter": RowKind(measure_counter, lambda plan: 2 + plan.short_rounds * 2 * plan.seconds),
    "ycsb": RowKind(
        measure_ycsb, lambda plan: 3 + len(WORKLOADS) * _turns(plan, plan.ycsb_rounds, 3, plan.ycsb_seconds)
    ),
    "flight": RowKind(
        measure_flight,
        lambda plan: 8 + _turns(plan, len(plan.flight_levels), 7, plan.flight_seconds),
        needs_nats=True,
    ),
    "feed": RowKind(measure_feed, estimate_feed),
    "compaction": RowKind(measure_compaction, estimate_compaction),
    "increments": RowKind(measure_increments, estimate_increments),
    "million": RowKind(measure_million, estimate_million),
}
