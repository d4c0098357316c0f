"""The record of what clients called: it survives the death of who writes it, and nothing of it is guessed."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.history import HistoryError, Operation, Outcome, Recorder, load, outcome_of, part_of
from holdfast.events import (
    ClosedError,
    ConflictError,
    DeniedError,
    ExpiredError,
    HoldfastError,
    IdReusedError,
    InvalidError,
    OutcomeUnknown,
    RemoteError,
    StoreError,
    TooLargeError,
    Unavailable,
    UnknownStoreError,
)

ROOT = Path(__file__).parents[2]

CLIENT = """
import sys
from pathlib import Path
from chaos.history import Recorder

recorder = Recorder(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    call = recorder.invoke(client="c", id=f"id-{number}", key="k", op="save", value=number)
    print("call", call, flush=True)
    recorder.ok(call, version=number, etag="e")
    print("return", call, flush=True)
"""


def test_what_was_recorded_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    with Recorder(path) as recorder:
        save = recorder.invoke(client="c1", id="a", key="k", op="save", value={"n": 1}, concurrency="first-write")
        read = recorder.invoke(client="c2", id="b", key="k", op="read", consistency="eventual")
        recorder.ok(read, exists=False)
        recorder.ok(save, version=1, etag="1-x")
        delete = recorder.invoke(client="c1", id="c", store="other", key="k", op="delete", etag="1-y")
        conflict = ConflictError("k", expected="1-y", actual="1-x", version=1, current={"n": 1})
        recorder.failed(delete, conflict)
    first, second, third = load([path])
    assert first.invoked <= second.invoked
    assert second.returned is not None
    assert first.returned is not None
    assert second.invoked <= second.returned <= first.returned <= third.invoked
    assert replace(first, invoked=0, returned=0) == Operation(
        client="c1", id="a", key="k", op="save", value={"n": 1}, concurrency="first-write", invoked=0, returned=0,
        outcome=Outcome.OK, version=1, answer_etag="1-x",
    )  # fmt: skip
    assert replace(second, invoked=0, returned=0) == Operation(
        client="c2",
        id="b",
        key="k",
        op="read",
        consistency="eventual",
        invoked=0,
        returned=0,
        outcome=Outcome.OK,
        exists=False,
    )
    assert replace(third, invoked=0, returned=0) == Operation(
        client="c1", id="c", store="other", key="k", op="delete", etag="1-y",
        invoked=0, returned=0, outcome=Outcome.CONFLICT, exists=True, version=1, answer_etag="1-x",
        answer_value={"n": 1}, error="ConflictError:etag_mismatch",
    )  # fmt: skip


def test_a_conflict_with_an_absent_key_says_so(tmp_path: Path) -> None:
    with Recorder(tmp_path / "one.jsonl") as recorder:
        call = recorder.invoke(client="c", id="a", key="k", op="save", value=1, etag="1-x")
        recorder.failed(call, ConflictError("k", expected="1-x", actual=None, version=2, code="absent"))
    (operation,) = load([tmp_path / "one.jsonl"])
    assert (operation.exists, operation.version, operation.answer_etag) == (False, 2, None)


def test_a_call_without_a_return_is_unknown(tmp_path: Path) -> None:
    with Recorder(tmp_path / "one.jsonl") as recorder:
        recorder.invoke(client="c", id="a", key="k", op="save", value=1)
    (operation,) = load([tmp_path / "one.jsonl"])
    assert (operation.outcome, operation.returned) == (Outcome.UNKNOWN, None)


def test_a_killed_process_loses_no_line_that_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "killed.jsonl"
    with subprocess.Popen([sys.executable, "-c", CLIENT, str(path)], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        seen = [process.stdout.readline() for _ in range(500)]
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read()
    # What the process said after it had written must be in the file. One more line may be, whose report was cut off.
    printed = (b"".join(seen) + rest).split(b"\n")[:-1]
    begun = sum(line.startswith(b"call") for line in printed)
    returned = sum(line.startswith(b"return") for line in printed)
    operations = load([path])
    answered = [operation for operation in operations if operation.outcome is Outcome.OK]
    assert begun <= len(operations) <= begun + 1
    assert returned <= len(answered) <= returned + 1
    assert [operation.version for operation in answered] == list(range(1, len(answered) + 1))
    assert len(operations) - len(answered) <= 1


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_line_that_was_cut_short_was_not_written(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "one.jsonl"
    with Recorder(path) as recorder:
        first = recorder.invoke(client="c", id="a", key="k", op="save", value=1)
        recorder.ok(first, version=1, etag="1-x")
    path.write_bytes(path.read_bytes()[:-cut])
    (operation,) = load([path])
    assert (operation.outcome, operation.returned, operation.version) == (Outcome.UNKNOWN, None, None)


@pytest.mark.parametrize(
    "damage",
    [
        b"nonsense\n",
        b"{}\n",
        b"[1]\n",
        b'{"return":2,"returned":5,"outcome":"ok"}\n',
        b'{"return":1,"returned":5,"outcome":"ok"}\n' * 2,
        b'{"return":1,"returned":5,"outcome":"fine"}\n',
        b'{"return":1,"returned":5,"outcome":"ok","surprise":1}\n',
        b'{"call":3,"client":"c","id":"a","store":"default","key":"k","op":"read","invoked":1}\n',
    ],
)
def test_what_nobody_wrote_is_no_history(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "one.jsonl"
    with Recorder(path) as recorder:
        recorder.invoke(client="c", id="a", key="k", op="save", value=1)
    with path.open("ab") as file:
        file.write(damage)
    with pytest.raises(HistoryError, match=r"one\.jsonl"):
        load([path])


def test_two_recorders_never_share_a_file(tmp_path: Path) -> None:
    with Recorder(tmp_path / "one.jsonl"), pytest.raises(FileExistsError):
        Recorder(tmp_path / "one.jsonl")


def test_parts_are_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    with Recorder(path) as recorder:
        for number in range(200):
            call = recorder.invoke(client="c", id=f"{number}", key=f"k{number % 40}", op="read")
            if number % 3:
                recorder.ok(call, exists=False)
    whole = load([path])
    parts = [load([path], part=part, parts=3) for part in range(3)]
    assert sorted((operation for part in parts for operation in part), key=lambda one: one.invoked) == whole
    assert all(len({part_of(one.store, one.key, 3) for one in part}) == 1 for part in parts)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ConflictError("k", expected=None, actual="1-x"), Outcome.CONFLICT),
        (Unavailable("x"), Outcome.REFUSED),
        (ExpiredError("x"), Outcome.REFUSED),
        (InvalidError("x"), Outcome.REFUSED),
        (TooLargeError("x"), Outcome.REFUSED),
        (IdReusedError("x"), Outcome.REFUSED),
        (UnknownStoreError("x"), Outcome.REFUSED),
        (DeniedError("x"), Outcome.REFUSED),
        (ClosedError("x"), Outcome.REFUSED),
        (OutcomeUnknown("x"), Outcome.UNKNOWN),
        (RemoteError("x"), Outcome.UNKNOWN),
        (StoreError("x"), Outcome.UNKNOWN),
        (HoldfastError("x"), Outcome.UNKNOWN),
        (asyncio.CancelledError(), Outcome.UNKNOWN),
        (KeyError("x"), Outcome.UNKNOWN),
        (TimeoutError(), Outcome.UNKNOWN),
    ],
)
def test_only_what_is_certain_counts_as_refused(error: BaseException, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome
