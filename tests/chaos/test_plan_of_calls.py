"""What callers plan: the same from the same seed, contention on few keys, histories that can be checked."""

from collections import Counter, defaultdict
from itertools import product

from chaos.plan import GROUP, OPERATIONS_PER_HOT_KEY, Intent, Kind, Plan, Route
from chaos.transaction_plan import WARM_KEYS, StepKind
from holdfast.events import partition_of

CALLERS = 4 * GROUP
GROUPS = 4


def intents(seed: str, *, operations: int, generation: int = 0) -> dict[int, list[Intent]]:
    return {
        caller: [plan.next() for _ in range(operations)]
        for caller in range(CALLERS)
        if (plan := Plan(seed, "client", caller, groups=GROUPS, partitions=8, generation=generation))
    }


def test_the_same_seed_plans_the_same() -> None:
    """And another one plans something else, for every caller."""
    assert intents("a", operations=50) == intents("a", operations=50)
    other = intents("b", operations=50)
    assert all(other[caller] != mine for caller, mine in intents("a", operations=50).items())


def test_hot_keys_have_contention_and_bounded_histories() -> None:
    """A hot key belongs to one group of callers, and each of them leaves it after the same number of operations."""
    callers: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for caller, planned in intents("a", operations=400).items():
        for intent in planned:
            if intent.key.startswith("hot"):
                callers[intent.key][caller] += 1

    finished = {key: counts for key, counts in callers.items() if key.endswith(("-0", "-1", "-2"))}
    assert len(finished) == 3 * GROUPS
    for counts in finished.values():
        assert len(counts) == GROUP
        assert set(counts.values()) == {OPERATIONS_PER_HOT_KEY}


def test_a_caller_stays_on_one_partition_while_its_hot_key_lasts() -> None:
    """So a partition that stands still holds up its own callers only."""
    for planned in intents("a", operations=60).values():
        assert len({partition_of("default", intent.key, 8) for intent in planned}) == 1


def test_everything_is_planned() -> None:
    """Every kind of operation by every route, and calls that are never repeated beside those that are."""
    planned = [intent for each in intents("a", operations=2_000).values() for intent in each]

    assert {(intent.kind, intent.route) for intent in planned} == {(kind, route) for kind in Kind for route in Route}
    assert {intent.repeats == 0 for intent in planned} == {True, False}
    numbers = [intent.number for intent in planned[:2_000]]
    assert numbers == list(range(1, 2_001))


def test_transactions_are_planned() -> None:
    """Of two to four keys each: the first is on the caller's partition, others are everybody's and anywhere."""
    each = intents("a", operations=600)
    planned = [intent for mine in each.values() for intent in mine if intent.kind is Kind.TRANSACT]

    assert 0.02 < len(planned) / (600 * CALLERS) < 0.06
    assert {len(intent.steps) for intent in planned} == {2, 3, 4}
    assert all(len({step.key for step in intent.steps}) == len(intent.steps) for intent in planned)
    assert all(intent.steps[0].key == intent.key for intent in planned)
    assert {step.kind for intent in planned for step in intent.steps} == set(StepKind)
    assert {step.key.partition("-")[0] for intent in planned for step in intent.steps} == {"hot", "warm", "cold"}
    assert {(intent.looks_before, intent.looks_after) for intent in planned} == set(product((True, False), repeat=2))
    apart = [len({partition_of("default", step.key, 8) for step in intent.steps}) > 1 for intent in planned]
    assert sum(apart) > len(apart) / 2
    groups: defaultdict[str, set[int]] = defaultdict(set)
    for caller, mine in each.items():
        for intent in mine:
            for step in intent.steps:
                groups[step.key].add(caller % GROUPS)
    assert all(len(groups[f"warm-1-{number}"]) > 1 for number in range(WARM_KEYS))


def test_a_successor_begins_with_new_keys() -> None:
    """Who takes the place of a client that was killed begins at the generation that it is told."""
    (first, *_) = intents("a", operations=1, generation=7)[0]
    planned = intents("a", operations=20, generation=7)[0]

    assert first == planned[0]
    assert {intent.key.rsplit("-", 1)[1] for intent in planned if intent.key.startswith("hot")} == {"7"}
