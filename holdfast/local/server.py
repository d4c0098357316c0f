"""One server in one folder: start, stop, kill, pause; the same for RabbitMQ and MongoDB."""

import fcntl
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from .errors import ServerStartError, ServerStateError
from .process import SupervisedProcess, load_state, save_state, tail

_POLL_SECONDS = 0.05
#: For all threads of a process to be frozen.
_STOP_SECONDS = 10.0


class Server(ABC):
    """A server process with its data, ports and passwords below `directory`.

    The folder remembers everything in `server.json` (readable by its owner only): an object made later for
    the same folder, in another process too, finds the same data, the same ports if they are still free, and
    the running process if there is one. All methods block; none is meant for two threads at once.

    With `detach` the server outlives this process; without, it is killed as soon as this process is gone.
    """

    kind: ClassVar[str]

    def __init__(self, directory: Path | str, *, detach: bool = False) -> None:
        self.directory = Path(directory).resolve()
        self.detach = detach
        self._state: dict[str, Any] = load_state(self._state_path)
        self._process: SupervisedProcess | None = None
        self._log_starts: dict[Path, int] = {self.console_path: 0, self.log_path: 0}
        if (remembered := self._state.get("process")) is not None:
            process = SupervisedProcess.from_json(remembered)
            self._process = process if process.alive() else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What a kind of server has to say about itself.

    @abstractmethod
    def _prepare(self) -> tuple[Sequence[str], dict[str, str]]:
        """Writes what the server needs into its folder; returns command and environment."""

    @abstractmethod
    def _probe(self) -> bool:
        """Whether the server answers in its own protocol. Must return within about a second."""

    @property
    @abstractmethod
    def log_path(self) -> Path:
        """The server's log, of all its starts."""

    # What they share.

    @property
    def console_path(self) -> Path:
        """What the process printed, beside its log."""
        return self.directory / "console.log"

    @property
    def running(self) -> bool:
        """Whether the process exists; a paused one does."""
        return self._process is not None and self._process.alive()

    @property
    def paused(self) -> bool:
        """Whether the process is frozen by `pause`."""
        return self._process is not None and self._process.main.stopped()

    @property
    def pid(self) -> int | None:
        """Process id of the server itself, None while it doesn't run."""
        return self._process.main.pid if self._process is not None and self.running else None

    def start(self, timeout: float = 60.0) -> None:
        """Starts the server and returns when it answers. A server that runs already is only waited for.

        Raises ServerStartError with the end of the log if it ends, or isn't ready after `timeout` seconds (it
        is killed then), and ServerNotFoundError if it is neither installed nor can be fetched. Fetching comes
        on top of `timeout`.
        """
        deadline = time.monotonic() + timeout
        with self._locked():
            if not self.running:
                if self._process is not None:
                    self.kill()  # what is left of one that ended by itself
                before = time.monotonic()
                command, env = self._prepare()
                deadline += time.monotonic() - before
                self._log_starts = {path: _size(path) for path in self._log_starts}
                self._process = SupervisedProcess.spawn(command, env=env, log=self.console_path, detach=self.detach)
                self._remember(process=self._process.to_json())
        self._wait_until_ready(deadline, timeout)

    def stop(self, timeout: float = 30.0) -> None:
        """Ends the server in order (its data is complete on disk), by force after `timeout` seconds.

        No error if it doesn't run.
        """
        if self._process is not None:
            self._process.terminate(timeout)
            self._forget_process()

    def kill(self) -> None:
        """Ends the server and all its helpers at once by SIGKILL, like a power cut for the process."""
        if self._process is not None:
            self._process.kill()
            self._forget_process()

    def restart(self, timeout: float = 60.0) -> None:
        """Stops and starts it on the same port. Errors as `start`."""
        self.stop()
        self.start(timeout)

    def pause(self) -> None:
        """Freezes the process (SIGSTOP): sockets stay open, nothing answers. ServerStateError if it is not running."""
        self._signal(signal.SIGSTOP)
        # On a busy machine its threads may still run for a moment.
        deadline = time.monotonic() + _STOP_SECONDS
        while self._process is not None and self.running and not self._process.main.stopped():
            if time.monotonic() > deadline:
                raise ServerStateError(f"{self.kind} does not stop")
            time.sleep(0.001)

    def resume(self) -> None:
        """Undoes `pause`. ServerStateError if it is not running."""
        self._signal(signal.SIGCONT)

    def log_tail(self, lines: int = 60) -> str:
        """The last lines of what the server has printed and logged since its last start."""
        return "\n".join(text for path, start in self._log_starts.items() if (text := tail(path, lines, start=start)))

    # Helpers.

    @property
    def _state_path(self) -> Path:
        return self.directory / "server.json"

    def _remember(self, **values: object) -> None:
        self._state.update(values)
        save_state(self._state_path, self._state)

    def _forget_process(self) -> None:
        self._process = None
        self._state.pop("process", None)
        if self.directory.exists():
            save_state(self._state_path, self._state)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or not self._process.main.signal(number):
            raise ServerStateError(f"{self.kind} in {self.directory} is not running: start() it first")

    def _wait_until_ready(self, deadline: float, timeout: float) -> None:
        process = self._process
        if process is None:
            raise ServerStateError(f"{self.kind} in {self.directory} was stopped while it started")
        while not self._probe():
            if process.wait(_POLL_SECONDS):
                tail_of_log = self.log_tail()
                self._forget_process()
                raise ServerStartError(f"{self.kind} ended while it started.", log=self.log_path, log_tail=tail_of_log)
            if time.monotonic() > deadline:
                tail_of_log = self.log_tail()
                self.kill()
                raise ServerStartError(
                    f"{self.kind} was not ready after {timeout:.0f} s and was ended.",
                    log=self.log_path,
                    log_tail=tail_of_log,
                )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps two processes from starting a server in the same folder at the same time."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            current = load_state(self._state_path)
            if not self.running and "process" in current:
                process = SupervisedProcess.from_json(current["process"])
                if process.alive():
                    self._state, self._process = current, process
            yield
        finally:
            os.close(fd)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
