"""PersistentState under faults at random: what it promises whatever happens, one after another and many at once."""

import asyncio
import contextlib
from random import Random
from typing import Any

import pytest

import holdfast
from holdfast.testing import MemoryService

State = holdfast.PersistentState[list[int]]
RATES: dict[str, float] = {"conflicts": 0.15, "lost_replies": 0.1, "timeouts": 0.2, "unavailable": 0.1}


async def operate(state: State, kind: str, number: int) -> None:
    """One operation, that appends a number if it writes."""
    match kind:
        case "read":
            await state.read()
        case "write":
            state.value = [*state.value, number]
            await state.write()
        case "clear":
            await state.clear()
        case "update":
            await state.update(lambda value: value.append(number))


def seen(state: State) -> tuple[Any, ...]:
    """What a handle shows."""
    return state.etag, state.version, list(state.value)


@pytest.mark.parametrize("seed", range(8))
async def test_a_failure_leaves_value_and_etag_as_they_were(seed: int) -> None:
    """Given one operation after another, when one fails, then the handle shows what it showed before; and what became
    of those with an unknown outcome is found out before the next.
    """
    random = Random(seed)  # noqa: S311
    failures: set[str] = set()
    doubtful = False
    with MemoryService() as service:
        async with service.connect() as client:
            state: State = client.state("a", list[int], default=list)
            await state.read()
            service.faults.at_random(seed, **RATES)
            for number in range(60):
                kind = random.choice(["read", "write", "write", "clear", "update"])
                if kind == "write":
                    # Set beforehand, so that it is no part of what the operation changes.
                    state.value = [*state.value, number]
                before = seen(state)
                outcome = "done"
                try:
                    await (state.write() if kind == "write" else operate(state, kind, number))
                except holdfast.HoldfastError as fault:
                    outcome = type(fault).__name__
                if outcome == "done":
                    doubtful = False
                    continue
                failures.add(outcome)
                # It may have found out on its way what became of the one before.
                assert seen(state) == before or doubtful, f"{kind} {number} failed with {outcome}"
                doubtful = doubtful or outcome == "OutcomeUnknown"
            service.faults.stop()
            await state.read()
            found = await client.read("a")
            assert (found.etag, found.value) == (state.etag, state.value) if found else not state.exists
    assert failures >= {"ConflictError", "OutcomeUnknown", "Unavailable"}


@pytest.mark.parametrize("seed", range(8))
async def test_no_interleaving_corrupts_a_handle(seed: int) -> None:
    """Given many callers of one handle, some of them cancelled, when all have ended, then the handle works on, shows
    what is stored, and the log has each number at most once for each version that holds it.
    """
    random = Random(100 + seed)  # noqa: S311
    with MemoryService() as service:
        async with service.connect() as client:
            state: State = client.state("a", list[int], default=list)
            service.faults.at_random(seed, **RATES)

            async def call(number: int) -> None:
                for _ in range(random.randrange(6)):
                    await asyncio.sleep(0)
                with contextlib.suppress(holdfast.HoldfastError):
                    await operate(state, random.choice(["read", "write", "clear", "update", "update"]), number)

            callers = [asyncio.ensure_future(call(number)) for number in range(80)]
            for caller in random.sample(callers, 20):
                for _ in range(random.randrange(4)):
                    await asyncio.sleep(0)
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
            service.faults.stop()
            await state.read()
            found = await client.read("a")
            assert (found.etag, found.value) == (state.etag, state.value) if found else not state.exists
            await state.update(lambda value: value.append(-1))
            events = await client.history("a", limit=1000)
            assert [event.version for event in events] == list(range(1, len(events) + 1))
            for event in events:
                if event.type == "saved":
                    assert len(set(event.value)) == len(event.value), "something was appended twice"
            assert events[-1].value[-1] == -1
