"""The demo on a few departures, and the count at its end, which has to notice when something is off."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from holdfast.events import Event, Refusal
from holdfast.stores import MongoStore

if TYPE_CHECKING:
    from examples.flights.departures import Departures

ROOT = Path(__file__).parents[2]
LIMIT = 2000


@pytest.mark.usefixtures("local_servers")
def test_the_demo_keeps_its_promises() -> None:
    """Given two thousand departures, when the demo runs without a terminal, then it ends well and says so plainly."""
    command = [sys.executable, "-m", "examples.flights", "--limit", str(LIMIT)]
    plain = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    done = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, timeout=110, check=False)
    shown = done.stdout
    assert done.returncode == 0, shown + done.stderr
    assert done.stderr == ""
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert "2,000 departures: " in shown
    assert re.search(r"2,000 saves acknowledged in [\d.]+ s", shown)
    assert re.search(r"worker-[12] \(process \d+, [1-8] of the 8 partitions\) was killed after 1,000\s", shown)
    assert "ConflictError" in shown
    assert "1,000 of 1,000 got the answer of the first time" in shown
    assert "2,000 departures, 0 missing, 0 twice: 2,000 events" in shown
    assert "2 other events (Anna's and Ben's), 0 refusals" in shown
    assert "The count is exact." in shown


@pytest.fixture
def departures(monkeypatch: pytest.MonkeyPatch) -> "Departures":
    """The first departures of the data."""
    monkeypatch.syspath_prepend(str(ROOT))
    from examples.flights.departures import Departures, fetch

    return Departures(fetch(print), 600)


async def test_the_count_notices_what_is_off(mongo_url: str, departures: "Departures") -> None:
    """Given a log with one fault of each kind, when it is counted, then each is seen."""
    from examples.flights.tour import count_log

    newest: dict[str, int] = {}
    answered: list[int] = []
    events: list[Event] = []
    for number in range(len(departures)):
        departure = departures[number]
        version = newest[departure.key] = newest.get(departure.key, 0) + 1
        answered.append(version)
        events.append(
            Event(
                id=departure.id,
                key=departure.key,
                type="saved",
                version=version,
                value=departure.value,
                time=number,
                digest=b"",
            )
        )
    store = MongoStore(mongo_url)
    await store.open()
    await store.append(events)
    count = await count_log(mongo_url, departures, answered)
    assert (count.found, len(count.seen)) == (600, 600)
    assert (count.twice, count.wrong, count.disordered, count.gaps, count.other, count.refusals) == (0,) * 6

    # A gap, a stranger, a refusal; an answer that was not what stands there.
    last = events[-1]
    await store.append([last.model_copy(update={"id": "stranger", "version": last.version + 2})])
    await store.append([Refusal(id="refused", key="k", time=0, digest=b"", answer={})])
    count = await count_log(mongo_url, departures, [*answered[:-1], answered[-1] + 1])
    assert (count.gaps, count.other, count.refusals, count.wrong) == (1, 1, 1, 1)
    await store.close()


async def test_the_count_notices_what_is_lost_or_out_of_order(mongo_url: str, departures: "Departures") -> None:
    """Given a log without the last departure and with two of one key exchanged, when it is counted, then both show."""
    from examples.flights.tour import count_log

    places: dict[str, list[int]] = {}
    for number in range(len(departures) - 1):
        places.setdefault(departures[number].key, []).append(number)
    key = next(key for key, numbers in places.items() if len(numbers) > 1)
    answered = [0] * len(departures)
    events = []
    for other, own in places.items():
        order = [own[1], own[0], *own[2:]] if other == key else own
        for version, number in enumerate(order, 1):
            answered[number] = version
            value = departures[number].value
            events.append(
                Event(
                    id=departures[number].id,
                    key=other,
                    type="saved",
                    version=version,
                    value=value,
                    time=0,
                    digest=b"",
                )
            )
    store = MongoStore(mongo_url)
    await store.open()
    await store.append(events)
    count = await count_log(mongo_url, departures, answered)
    await store.close()
    assert len(departures) - len(count.seen) == 1
    assert (count.found, count.wrong, count.gaps, count.disordered) == (len(departures) - 1, 0, 0, 1)
