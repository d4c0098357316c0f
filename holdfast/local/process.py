"""Processes that we started: told apart from strangers, ended as whole trees, never by name."""

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from .errors import ServerStartError, ServerStateError

_SUPERVISOR = Path(__file__).with_name("supervisor.py")


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third (state) on; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One process for all time: its id, its start time in clock ticks, and the boot that these count from.

    Process ids are reused; the three together are not, so a reference kept in a file never names a stranger.
    """

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The process that has this id now, None if there is none."""
        fields = _stat(pid)
        return None if fields is None else cls(pid, int(fields[19]), _boot_id())

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(int(data["pid"]), int(data["started"]), str(data["boot"]))

    def to_json(self) -> dict[str, Any]:
        """A form that fits into a state file."""
        return asdict(self)

    def alive(self) -> bool:
        """Whether the process still runs; one that ended and was not reaped yet doesn't."""
        fields = _stat(self.pid)
        return (
            fields is not None and fields[0] not in "ZX" and int(fields[19]) == self.started and _boot_id() == self.boot
        )

    def stopped(self) -> bool:
        """Whether the process, with all of its threads, is frozen by SIGSTOP."""
        try:
            threads = [int(thread.name) for thread in Path(f"/proc/{self.pid}/task").iterdir()]
        except OSError:
            return False
        states = [fields[0] for thread in threads if (fields := _stat(thread)) is not None]
        return bool(states) and all(state in "Tt" for state in states)

    def signal(self, number: signal.Signals) -> bool:
        """Sends a signal to this process and no other; False if it is gone."""
        with self._pidfd() as fd:
            if fd is None:
                return False
            try:
                signal.pidfd_send_signal(fd, number)
            except ProcessLookupError:
                return False
            return True

    def wait(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the process to end; whether it has."""
        with self._pidfd() as fd:
            if fd is None:
                return True
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            ended = bool(poller.poll(max(0.0, timeout) * 1000))
        if ended:
            # If it is a child of ours its entry has to be taken off the process table, by nobody but us.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
        return ended

    @contextlib.contextmanager
    def _pidfd(self) -> Any:
        """A pidfd, checked after it was opened, so that the id cannot change hands in between."""
        try:
            fd = os.pidfd_open(self.pid)
        except (ProcessLookupError, FileNotFoundError):
            # The second one in the moment in which it is taken off the process table.
            yield None
            return
        try:
            yield fd if self.alive() else None
        finally:
            os.close(fd)


def descendants(pid: int) -> list[ProcessRef]:
    """All processes below `pid` at this moment, parents before their children."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[ProcessRef] = []
    queue = [pid]
    while queue:
        for child in children.get(queue.pop(0), []):
            queue.append(child)
            if (ref := ProcessRef.of(child)) is not None:
                found.append(ref)
    return found


@dataclass(frozen=True, slots=True)
class SupervisedProcess:
    """A command under a supervisor of its own, in a session of its own.

    The supervisor ends everything that the command leaves running, and, unless the command was started with
    `detach`, kills it as soon as the process that started it is gone, however that came about.
    """

    supervisor: ProcessRef
    main: ProcessRef

    @classmethod
    def spawn(cls, command: Sequence[str], *, env: Mapping[str, str], log: Path, detach: bool = False) -> Self:
        """Starts `command`; what it prints is appended to the file `log`.

        Raises ServerStartError if not even the supervisor came up. A command that can't be run is seen later,
        as a process that ended, with the reason in the log.
        """
        reader, writer = os.pipe()
        parent = None if detach else ProcessRef.of(os.getpid())
        watched = ("0", "0") if parent is None else (str(parent.pid), str(parent.started))
        report_fd = 3
        try:
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", str(_SUPERVISOR), str(report_fd), *watched, *command],
                dict(env),
                file_actions=[
                    # The log first: it may be given any free number, the report's included.
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                    (os.POSIX_SPAWN_DUP2, writer, report_fd),
                ],
                setsid=True,
                setsigmask=[],
            )
            os.close(writer)
            writer = -1
            with os.fdopen(reader, "rb", closefd=False) as report:
                answer = report.readline()
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)
        supervisor = ProcessRef.of(pid)
        main = ProcessRef.of(int(answer)) if answer else None
        if supervisor is None or not answer:
            raise ServerStartError(f"{command[0]} could not be started", log=log, log_tail=tail(log))
        # A command that ended at once has no entry any more: a reference that is never alive stands for it.
        return cls(supervisor, main or ProcessRef(int(answer), -1, ""))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(ProcessRef.from_json(data["supervisor"]), ProcessRef.from_json(data["main"]))

    def to_json(self) -> dict[str, Any]:
        """A form that fits into a state file."""
        return {"supervisor": self.supervisor.to_json(), "main": self.main.to_json()}

    def alive(self) -> bool:
        """Whether the command runs."""
        return self.main.alive()

    def wait(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds until the command and all that it left behind are gone."""
        return self.supervisor.wait(timeout)

    def terminate(self, timeout: float) -> bool:
        """Asks the command to end (SIGTERM), then kills what is left after `timeout` seconds.

        True if it ended by itself.
        """
        self.main.signal(signal.SIGTERM)
        # A stopped process takes no SIGTERM.
        self.main.signal(signal.SIGCONT)
        if self.supervisor.wait(timeout):
            return True
        self.kill()
        return False

    def kill(self, timeout: float = 10.0) -> None:
        """Kills the command and everything below it at once (SIGKILL), and waits until they are gone.

        Raises ServerStateError if something survives that for `timeout` seconds (a process stuck in the kernel).
        """
        below = descendants(self.supervisor.pid) if self.supervisor.alive() else []
        for ref in (self.main, *below):
            ref.signal(signal.SIGKILL)
        if not self.supervisor.wait(timeout):
            raise ServerStateError(f"process {self.main.pid} does not end, not even by SIGKILL")
        for ref in (self.main, *below):
            ref.wait(timeout)


def tail(path: Path, lines: int = 30, *, start: int = 0) -> str:
    """The last lines of a text file, from the byte `start` on at most; "" if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - 65536))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote to `path`; an empty dict if there is nothing, or nothing readable."""
    try:
        data = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return data if isinstance(data, dict) else {}


def save_state(path: Path, data: Mapping[str, Any]) -> None:
    """Replaces a state file atomically. Only its owner can read it: such files hold passwords."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(data, file, indent=2)
    partial.replace(path)
