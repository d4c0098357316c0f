"""The parts of the benchmarks that compute: distributions, the load generator, rounds, ratios, the report."""

import asyncio
import random
import sys
from collections import Counter
from itertools import count
from pathlib import Path

import orjson
import pytest

# The benchmarks are no part of the distribution.
sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.load import NothingMeasuredError, Sample, closed_loop, percentile
from benchmarks.plan import Plan
from benchmarks.report import markdown
from benchmarks.result import Comparison, Figure, Goal, Row
from benchmarks.rounds import interleave, ratios, spread, turns
from benchmarks.values import VALUE_BYTES, endless_values, every_key, key_name, make_value, uniform_keys
from benchmarks.ycsb import MissingRecordError, Records, record_key, workload
from benchmarks.zipf import Latest, ScrambledZipfian, Zipfian, fnv64, zeta


def sample(rate: float, p50: float = 1.0) -> Sample:
    return Sample(512, int(rate), 1.0, rate, p50, p50, 2 * p50, 3 * p50)


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - the same numbers each time are what is wanted


# -- values and keys


def test_values_have_the_size_that_is_promised() -> None:
    """Given many random values, then each takes exactly so many bytes of JSON, and they differ."""
    rng = seeded(7)
    values = [orjson.dumps(make_value(rng)) for _ in range(500)]
    assert {len(value) for value in values} == {VALUE_BYTES}
    assert len(set(values)) == 500
    assert len(orjson.dumps(next(endless_values(different=2)))) == VALUE_BYTES


@pytest.mark.parametrize("keys", [1, 2, 1000, 7_368_787])
def test_every_key_comes_once(keys: int) -> None:
    """Given a number of keys, when so many are taken (here a thousand at most), then no key comes twice."""
    next_key = every_key("k", keys)
    taken = [next_key() for _ in range(min(keys, 1000))]
    assert len(set(taken)) == len(taken)
    assert set(taken) <= {key_name("k", number) for number in range(keys)} if keys <= 1000 else True


def test_every_key_goes_on_where_it_is_told() -> None:
    """Given two parts of the same order, then together they are all keys."""
    first, second = every_key("k", 100), every_key("k", 100, first=60)
    assert len({first() for _ in range(60)} | {second() for _ in range(40)}) == 100


def test_uniform_keys_are_within_their_number() -> None:
    """Given ten keys, when many are drawn, then all ten come and no other."""
    next_key = uniform_keys("k", 10)
    assert {next_key() for _ in range(1000)} == {key_name("k", number) for number in range(10)}


# -- YCSB's distributions


def test_the_hash_is_that_of_ycsb() -> None:
    """Given record 0, then its key is the one that YCSB's own runs begin with."""
    assert fnv64(0) == 6284781860667377211
    assert record_key(0) == "ycsb/user6284781860667377211"


def test_zipfian_follows_its_law() -> None:
    """Given a thousand items, when many ranks are drawn, then the first ones are as frequent as 1 / rank ** 0.99."""
    items, draws = 1000, 100_000
    zipfian = Zipfian(items, seeded(3).random)
    seen = Counter(zipfian.next() for _ in range(draws))
    assert min(seen) == 0
    assert max(seen) < items
    for rank in (0, 1):
        expected = (rank + 1) ** -0.99 / zeta(0, items)
        assert seen[rank] / draws == pytest.approx(expected, rel=0.05)


def test_a_zipfian_that_grew_is_as_one_made_so_big() -> None:
    """Given the same random numbers, when one has grown to the other's size, then both draw the same."""
    grown, made = (Zipfian(items, seeded(5).random) for items in (100, 250))
    grown.grow(250)
    assert [grown.next() for _ in range(1000)] == [made.next() for _ in range(1000)]


def test_scrambled_zipfian_has_few_favourites_in_all_places() -> None:
    """Given 10,000 keys, then the most frequent gets about 1 / 26.47 of the draws, as in YCSB, and is not the first."""
    scrambled = ScrambledZipfian(10_000, seeded(11).random)
    seen = Counter(scrambled.next() for _ in range(50_000))
    favourite, times = seen.most_common(1)[0]
    assert favourite == fnv64(0) % 10_000
    assert times / 50_000 == pytest.approx(1 / 26.47, rel=0.1)
    assert 0 <= min(seen) <= max(seen) < 10_000


def test_latest_prefers_the_newest() -> None:
    """Given records that grow in number, then the newest of them is drawn most and none that is not there."""
    latest = Latest(100, seeded(13).random)
    seen = Counter(latest.next(200) for _ in range(20_000))
    assert seen.most_common(1)[0][0] == 199
    assert 0 <= min(seen) <= max(seen) <= 199


def test_records_count_when_all_before_them_do() -> None:
    """Given two inserts, when the second is acknowledged first, then it counts only with the first."""
    records = Records(10)
    first, second = records.begin(), records.begin()
    records.acknowledge(second)
    assert records.count == 10
    records.acknowledge(first)
    assert records.count == 12


class Store:
    """Saves and reads in memory, and counts what was asked."""

    def __init__(self, records: int) -> None:
        self.data: dict[str, object] = {record_key(number): {} for number in range(records)}
        self.calls: Counter[str] = Counter()

    async def save(self, key: str, value: object) -> None:
        self.calls["insert" if key not in self.data else "save"] += 1
        self.data[key] = value

    async def read(self, key: str) -> object | None:
        self.calls["read"] += 1
        return self.data.get(key)


@pytest.mark.parametrize(
    ("letter", "reads", "saves", "inserts"),
    [("A", 0.5, 0.5, 0), ("B", 0.95, 0.05, 0), ("C", 1, 0, 0), ("D", 0.95, 0, 0.05), ("F", 1, 0.5, 0)],
)
async def test_workloads_have_their_shares(letter: str, reads: float, saves: float, inserts: float) -> None:
    """Given a workload, when it has run many operations, then its kinds of calls have the shares that YCSB gives."""
    store, operations = Store(100), 4000
    run = workload(letter, store, Records(100), endless_values(different=5))
    for _ in range(operations):
        await run()
    assert store.calls["read"] / operations == pytest.approx(reads, abs=0.03)
    assert store.calls["save"] / operations == pytest.approx(saves, abs=0.03)
    assert store.calls["insert"] / operations == pytest.approx(inserts, abs=0.03)


async def test_a_record_that_is_gone_fails_the_workload() -> None:
    """Given a store that has lost its records, when one is read, then that is no quick read but a failure."""
    run = workload("C", Store(0), Records(100), endless_values(different=5))
    with pytest.raises(MissingRecordError):
        await run()


# -- the load generator


def test_percentiles_by_nearest_rank() -> None:
    """Given the numbers from 1 to 100, then p50 is 50 and p99 is 99; of one number both are that."""
    ordered = [float(number) for number in range(1, 101)]
    assert (percentile(ordered, 0.5), percentile(ordered, 0.99)) == (50.0, 99.0)
    assert percentile([4.0], 0.99) == 4.0


async def test_the_closed_loop_keeps_so_many_in_flight() -> None:
    """Given seven callers, when they run for a while, then seven calls are on their way, and are counted."""
    running = most = 0

    async def operation() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1

    found = await closed_loop(operation, in_flight=7, seconds=0.2, warmup=0.02)
    assert most == 7
    assert found.in_flight == 7
    assert 0 < found.operations <= 7 * 40
    assert found.rate == pytest.approx(found.operations / 0.2)
    assert 5.0 <= found.p50 <= found.p99 <= found.longest


async def test_the_closed_loop_ends_at_its_limit() -> None:
    """Given a limit, when so many calls have been made, then no more are, long before the time is over."""
    calls = count()

    async def operation() -> None:
        next(calls)
        await asyncio.sleep(0)

    found = await closed_loop(operation, in_flight=16, seconds=60, limit=100)
    assert next(calls) == 100
    assert found.operations == 100
    assert found.seconds < 10


async def test_what_an_operation_raises_ends_the_loop() -> None:
    """Given a contender that fails, when it is measured, then its error comes out as it is."""

    async def operation() -> None:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        await closed_loop(operation, in_flight=3, seconds=5)


async def test_a_loop_in_which_nothing_ends_has_no_rate() -> None:
    """Given calls that take longer than the measurement, then there is an error and no figure."""
    with pytest.raises(NothingMeasuredError, match="2 in flight"):
        await closed_loop(lambda: asyncio.sleep(0.1), in_flight=2, seconds=0.02)


def test_samples_survive_the_way_between_processes() -> None:
    """Given a sample, when it has gone through JSON, then it is the same."""
    assert Sample.from_json(orjson.loads(orjson.dumps(sample(5.0).to_json()))) == sample(5.0)


# -- rounds and ratios


def test_contenders_take_turns_at_being_first() -> None:
    """Given three contenders, then every round has all of them, and each begins another."""
    order = turns(["a", "b", "c"], 4)
    rounds = [[name for number, name in order if number == wanted] for wanted in range(4)]
    assert [names[0] for names in rounds] == ["a", "b", "c", "a"]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)


async def test_results_of_a_round_belong_together() -> None:
    """Given two contenders in turns, then the n-th results of both are those of the n-th round."""
    clock = count()

    async def measure() -> int:
        return next(clock)

    results = await interleave({"a": measure, "b": measure}, 3)
    assert results == {"a": [0, 3, 4], "b": [1, 2, 5]}


def test_ratios_are_of_pairs() -> None:
    """Given a round in which everything was slow, then it disturbs the ratio of that pair no more than of any other."""
    found = ratios([100, 10, 110], [50, 5, 50])
    assert found.median == 2
    assert (found.low, found.high) == (2, 2.2)
    assert spread([3, 1, 2]).median == 2


@pytest.mark.parametrize(
    ("goal", "ratio", "reached"),
    [
        (Goal("at least", 5), 5.0, True),
        (Goal("at least", 5), 4.99, False),
        (Goal("at most", 1.3), 1.3, True),
        (Goal("at most", 1.3), 1.31, False),
    ],
)
def test_goals(goal: Goal, ratio: float, reached: bool) -> None:
    """Given a goal, then it is reached at its own value and on its good side."""
    assert goal.reached(ratio) is reached


def test_the_report_says_which_goals_are_missed() -> None:
    """Given one goal reached and one missed, then the table has the medians, the ratios, and which is which."""
    ours = Figure("Holdfast", "/s", [9000.0, 10_000.0, 11_000.0], [sample(10_000.0)])
    row = Row(
        "saves",
        "Saves",
        [
            Comparison("saves", ours, Figure("Motor", "/s", [2000.0, 2000.0, 2000.0]), Goal("at least", 5)),
            Comparison("saves", ours, Figure("NATS", "/s", [20_000.0, 20_000.0, 20_000.0]), Goal("at least", 1)),
        ],
        ["A note."],
        curves={"save": {"Holdfast": [sample(10_000.0)]}},
    )
    circumstances = {
        "started": "2000-01-01T00:00:00+00:00",
        "machine": {
            "usable_cpus": 2,
            "cpu": "some",
            "memory_mib": 4096,
            "data_filesystem": "ext4",
            "load_average_before": [0.5, 1.0, 2.0],
            "python": "3.11",
        },
        "software": {"rabbitmq": "4", "mongod": "6", "nats-server": "2"},
    }
    page = markdown([row], circumstances, ["save-throughput.png"])
    assert (
        "| saves | 10,000/s (9,000-11,000) | Motor | 2,000/s (2,000-2,000) | **5.00** (4.50-5.50) | ≥ 5, reached |"
        in page
    )
    assert any("**0.50** (0.45-0.55) | ≥ 1, **missed** |" in line for line in page)
    assert "- Saves: A note." in page
    assert "| Holdfast | 10,000/s, 1 / 2 ms |" in page
    assert page[-1] == "![save throughput](save-throughput.png)"
    assert orjson.loads(orjson.dumps(row.to_json()))["comparisons"][1]["reached"] is False


def test_a_plan_takes_only_what_is_given() -> None:
    """Given options of which some are not set, then those stay as they were."""
    plan = Plan.quick().with_changes(rounds=7, seconds=None)
    assert (plan.rounds, plan.seconds) == (7, Plan.quick().seconds)
    assert Plan(preload=1_000_000).full_keys == 200_000
