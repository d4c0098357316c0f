"""The folder where fetched servers are kept, and how they get into it: whole, once, by one process."""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import LocalStackError

_log = logging.getLogger(__name__)

Progress = Callable[[str], None]
"""Takes one line of progress at a time."""


def log_progress(line: str) -> None:
    """The default `Progress`: the log of this package, at level info."""
    _log.info("%s", line)


def cache_directory() -> Path:
    """`$HOLDFAST_CACHE_DIR`, else `$XDG_CACHE_HOME/holdfast`, else `~/.cache/holdfast`."""
    if own := os.environ.get("HOLDFAST_CACHE_DIR"):
        return Path(own).resolve()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).resolve() / "holdfast"
    return Path.home() / ".cache" / "holdfast"


def install(name: str, build: Callable[[Path], None], progress: Progress) -> Path:
    """The folder `name` in the cache, made by `build` if it isn't there yet.

    `build` fills an empty folder that gets its name only after `build` has returned, so whatever carries the
    name is whole. Processes that want it at the same time wait for the one that builds. Whatever `build`
    raises passes through, and nothing stays behind.
    """
    cache = cache_directory()
    target = cache / name
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / f"{name}.lock", name, progress):
        if target.is_dir():
            return target
        for leftover in cache.glob(f"{name}.partial-*"):
            _remove(leftover)
        partial = cache / f"{name}.partial-{os.getpid()}"
        partial.mkdir()
        try:
            build(partial)
            partial.rename(target)
        except BaseException:
            _remove(partial)
            raise
    return target


@contextmanager
def _lock(path: Path, name: str, progress: Progress) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        waiting_since = time.monotonic()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"another process is fetching {name}; waiting for it")
            fcntl.flock(fd, fcntl.LOCK_EX)
            progress(f"waited {time.monotonic() - waiting_since:.0f} s")
        yield
    finally:
        os.close(fd)


def _remove(folder: Path) -> None:
    """Deletes a folder, but never through a mount: a bind-mounted /dev below it would be the host's own."""
    below = f"{folder.resolve()}/"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if point.startswith(below):
            raise LocalStackError(f"{point} is a mount left over from a fetch: unmount it, then delete {folder}")
    shutil.rmtree(folder)
