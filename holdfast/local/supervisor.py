"""Runs one command and leaves nothing of it behind. A script, started by path: it imports nothing of ours.

    supervisor.py REPORT_FD PARENT_PID PARENT_STARTED COMMAND…

It writes the command's process id to REPORT_FD, waits for it to end, ends whatever that left running, and
exits with its code. With a PARENT_PID other than 0 it also watches that process (its start time in clock
ticks tells it from a later one with the same id) and kills the command when it is gone. It watches through a
pidfd and not by PR_SET_PDEATHSIG, because that one fires when the *thread* that started the child ends,
which for a server started from a thread pool is far too early.
"""

import ctypes
import os
import select
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def _children() -> list[int]:
    """Process ids of all live children of this process, adopted ones included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue  # ended while we looked
            if int(parent) == os.getpid():
                found.append(int(entry.name))
    return found


def _end_the_rest() -> None:
    """Kills and reaps every child, again and again, as the orphans of one become children of ours."""
    while True:
        for pid in _children():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _watch(parent: int, parent_started: str) -> int | None:
    """A pidfd of the parent, None for no parent; ends this process if the parent is gone already."""
    if parent == 0:
        return None
    try:
        fd = os.pidfd_open(parent)
        if _started(parent) == parent_started:
            return fd
    except OSError:
        pass
    sys.exit("the process that asked for this server is gone")


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code, 128 + signal if a signal ended it, as a shell would."""
    report_fd, parent, parent_started, command = int(arguments[0]), int(arguments[1]), arguments[2], arguments[3:]
    # Whatever else was inherited (a pipe that somebody reads to its end) must not stay open as long as the server.
    os.closerange(3, report_fd)
    os.closerange(report_fd + 1, os.sysconf("SC_OPEN_MAX"))
    watched = _watch(parent, parent_started)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Whoever wants the server to end signals the server itself; this process must outlive it to clean up.
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    own_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            for restored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(restored, signal.SIG_DFL)
            os.close(report_fd)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == own_pid:
                os.execvp(command[0], command)  # noqa: S606 - no shell wanted
        except OSError as error:
            sys.stderr.write(f"cannot run {command[0]}: {error}\n")
            sys.stderr.flush()
        finally:
            os._exit(127)
    os.write(report_fd, f"{pid}\n".encode())
    os.close(report_fd)

    child = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(child, select.POLLIN)
    if watched is not None:
        poller.register(watched, select.POLLIN)
    ready = {fd for fd, _ in poller.poll()}
    if child not in ready:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    _end_the_rest()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
