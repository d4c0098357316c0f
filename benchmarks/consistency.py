"""The row of what eventual reads buy: beside strong ones, with much in flight and alone."""

from .bench import HOLDFAST, Bench
from .result import Comparison, Row, medians, rates


async def measure_consistency(bench: Bench) -> Row:
    """Eventual reads beside strong ones, of the same keys, by the same client."""
    plan = bench.plan
    await bench.fill(HOLDFAST, "read", plan.keys, plan.versions)
    side = await bench.side(HOLDFAST)
    operations = {"eventual": "read-eventual", "strong": "read"}
    many = await bench.interleave(
        {
            name: bench.measurement(side, operation, in_flight=plan.in_flight, prefix="read", keys=plan.keys)
            for name, operation in operations.items()
        },
        plan.rounds,
    )
    lone = await bench.interleave(
        {
            name: bench.measurement(
                side, operation, in_flight=1, seconds=plan.lone_seconds, prefix="read", keys=plan.keys
            )
            for name, operation in operations.items()
        },
        plan.rounds,
    )
    return Row(
        "consistency",
        f"Eventual reads beside strong ones, uniform over {plan.keys:,} keys of {plan.versions} versions each",
        [
            Comparison(
                f"eventual reads, {plan.in_flight} in flight",
                rates("eventual", many["eventual"]),
                rates("strong", many["strong"]),
            ),
            Comparison(
                "p50 of a lone eventual read", medians("eventual", lone["eventual"]), medians("strong", lone["strong"])
            ),
        ],
        ["A strong read waits for a fence, one write of a majority that all reads of a batch share."],
    )
