"""The machine and the software that were measured, without anything that tells one machine's owner from another."""

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "holdfast",
    "aio-pika",
    "motor",
    "pymongo",
    "nats-py",
    "orjson",
    "pydantic",
    "uvloop",
)


def find_nats_server() -> str | None:
    """The nats-server of this system; Debian keeps it where only root looks."""
    return shutil.which("nats-server", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def describe_machine(data: Path) -> dict[str, Any]:
    """What the figures depend on. ``data`` is the folder in which the servers keep their data."""
    return {
        "cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)),
        "cpu": _first(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo")),
        "memory_mib": int(_first(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo")) or 0) // 1024,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
        "data_filesystem": filesystem_of(data),
    }


def describe_software() -> dict[str, Any]:
    """Versions of what runs, apart from those that only a running server tells."""
    return {name: version(name) for name in _PACKAGES} | {
        "nats-server": _first_number([find_nats_server() or "nats-server", "--version"]),
        "commit": _commit(),
    }


def filesystem_of(folder: Path) -> str:
    """The type of the file system that a folder is on: one in memory makes every fsync free."""
    place = str(folder.resolve())
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, found, *_ = line.split()
        point = point.encode().decode("unicode_escape")
        inside = point == "/" or place == point or place.startswith(f"{point}/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


def resident_mib(pid: int) -> float:
    """The memory that a process has in use now (RSS), in MiB."""
    return int(_first(r"^VmRSS:\s*(\d+)", Path(f"/proc/{pid}/status")) or 0) / 1024


def _first(pattern: str, file: Path) -> str | None:
    match = re.search(pattern, file.read_text(), re.MULTILINE)
    return match[1].strip() if match else None


def _first_number(command: list[str]) -> str | None:
    match = re.search(r"\d+\.\d+[\w.+-]*", _output(command))
    return match[0] if match else None


def _commit() -> str | None:
    folder = str(Path(__file__).parent)
    commit = _output(["git", "-C", folder, "rev-parse", "--short=12", "HEAD"]).strip()
    changed = _output(["git", "-C", folder, "status", "--porcelain", "--untracked-files=no"]).strip()
    return f"{commit} with changes" if commit and changed else commit or None


def _output(command: list[str]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout
