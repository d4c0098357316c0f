"""The checker on histories made at random: what happened is accepted, and its verdict is that of the definition."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.simulation import damage, is_linearizable, refuse, simulate

from chaos import linearizability
from chaos.history import Operation, Outcome
from chaos.linearizability import Result, Verdict, check_key

#: Commands that the definition can be tried on: it takes all orders of them.
FEW = 6

#: Histories in which something can be learnt come up once in ten.
LESSONS = 600


def verdict(history: list[Operation]) -> Result:
    return check_key("default", "k", history).result


@settings(max_examples=300)
@given(
    seed=st.integers(0, 2**32),
    commands=st.integers(1, 120),
    unknown=st.sampled_from([0, 0.1, 0.5, 0.9]),
    happened=st.sampled_from([0, 0.5, 1]),
    spread=st.sampled_from([0, 1, 5, 30]),
)
def test_what_happened_is_accepted(seed: int, commands: int, unknown: float, happened: float, spread: float) -> None:
    random = Random(seed)  # noqa: S311
    history = simulate(random, commands=commands, unknown=unknown, happened=happened, spread=spread)
    assert verdict(history) is Result.LINEARIZABLE


@settings(max_examples=1000)
@given(
    seed=st.integers(0, 2**32),
    commands=st.integers(1, FEW),
    unknown=st.sampled_from([0, 0.3, 0.7]),
    spread=st.sampled_from([0, 1, 3, 10]),
    damages=st.integers(1, 2),
)
def test_the_verdict_is_that_of_the_definition(
    seed: int, commands: int, unknown: float, spread: float, damages: int
) -> None:
    random = Random(seed)  # noqa: S311
    history = simulate(random, commands=commands, unknown=unknown, spread=spread)
    for _ in range(damages):
        history = damage(random, history)
    assert verdict(history) is (Result.LINEARIZABLE if is_linearizable(history) else Result.VIOLATED)


def test_both_verdicts_come_up_often_enough_to_mean_something() -> None:
    seen: Counter[tuple[Result, int]] = Counter()
    for seed in range(2000):
        random = Random(seed)  # noqa: S311
        history = simulate(random, commands=random.randint(2, FEW), unknown=random.choice((0, 0.3, 0.7)))
        damaged = damage(random, history)
        result = verdict(damaged)
        assert result is (Result.LINEARIZABLE if is_linearizable(damaged) else Result.VIOLATED), seed
        seen[result, len(damaged)] += 1
    assert sum(count for (result, _), count in seen.items() if result is Result.VIOLATED) > 300
    assert sum(count for (result, _), count in seen.items() if result is Result.LINEARIZABLE) > 300


def test_what_happened_is_accepted_although_hardly_anything_is_known() -> None:
    found: Counter[Result] = Counter()
    for seed in range(500, 1000):
        random = Random(seed)  # noqa: S311
        found[check_key("default", "k", hard(random, 40, 70), budget=20_000).result] += 1
    assert found[Result.VIOLATED] == 0
    assert found[Result.UNDECIDED] < 5


def test_what_the_search_learns_changes_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[list[Operation], Verdict]] = []
    for seed in range(LESSONS):
        random = Random(seed)  # noqa: S311
        history = hard(random, 20, 40)
        for _ in range(random.randint(0, 2)):
            place = random.randrange(len(history))
            if history[place].outcome is Outcome.UNKNOWN:
                history[place] = refuse(history[place])
        found.append((history, check_key("default", "k", history)))
    monkeypatch.setattr(linearizability._Search, "_lesson", lambda *_: None)
    saved: Counter[Result] = Counter()
    for history, verdict in found:
        again = check_key("default", "k", history, budget=50_000)
        if again.result is not Result.UNDECIDED:
            assert verdict.result is again.result
        saved[verdict.result] += verdict.steps < again.steps
    assert saved[Result.LINEARIZABLE] > 10
    assert saved[Result.VIOLATED] > 10


def hard(random: Random, least: int, most: int) -> list[Operation]:
    """What happened, although nearly all outcomes are unknown and nothing says which write made which version."""
    commands, spread = random.randint(least, most), random.choice((6, 30))
    history = simulate(random, commands=commands, unknown=0.8, happened=1, repeats=0, conditions=0.2, spread=spread)
    return [one for one in history if one.op != "read" or (one.consistency == "strong" and not one.exists)]
