"""The row of the hot counter: increments of one key, beside plain saves of many."""

from .bench import HOLDFAST, Bench
from .plan import Plan
from .result import Comparison, Goal, Row, rates

_COUNTER = "hits"


async def measure_increments(bench: Bench) -> Row:
    """Increments and saves by one client on one worker, in turns, and the proof that the counter is right."""
    plan = bench.plan
    await bench.fill(HOLDFAST, "save", plan.keys)
    side = await bench.side(HOLDFAST)
    contenders = {
        "increments": bench.measurement(side, "increment", in_flight=plan.in_flight, key=_COUNTER),
        "saves": bench.measurement(side, "save", in_flight=plan.in_flight, prefix="save", keys=plan.keys),
    }
    found = await bench.interleave(contenders, plan.short_rounds)
    proof = await side.ask("prove_increments", options={"key": _COUNTER}, patience=60)
    return Row(
        "increments",
        "Increments of one hot counter",
        [
            Comparison(
                f"increments of one key, {plan.in_flight} in flight",
                rates("one hot counter", found["increments"]),
                rates(f"Holdfast, saves, uniform over {plan.keys:,} keys", found["saves"]),
                Goal("at least", 0.5),
            )
        ],
        [f"The counter is {proof['value']:,}, at that version, and {proof['acknowledged']:,} were acknowledged."],
    )


def estimate_increments(plan: Plan) -> float:
    """Seconds that it takes, about."""
    return 5 + plan.short_rounds * 2 * (plan.seconds + plan.warmup)
