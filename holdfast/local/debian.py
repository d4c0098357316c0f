"""A Debian beside the system, for a RabbitMQ newer than the system's own: fetched by debootstrap, run by chroot."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .cache import Progress, install
from .errors import ServerNotFoundError
from .process import SupervisedProcess, tail

RELEASE = "trixie"
"""The Debian release that carries RabbitMQ 4.0."""

MOUNT_POINT = "/srv/holdfast"
"""Where a command started by `enter` finds the folder it was given."""

_APT_SOURCES = Path("/etc/apt")
_APT_TIMEOUT_SECONDS = 600
_SUCCESS = "Base system installed successfully"

# Mounts live in a namespace of the command's own: they vanish with it, and nothing outside ever sees them.
_ENTER = """
mount --rbind /dev "$1/dev"
mount --rbind /proc "$1/proc"
mount --bind "$2" "$1{point}"
root=$1
shift 2
exec chroot "$root" "$@"
""".replace("{point}", MOUNT_POINT)


def enter(root: Path, data: Path, command: list[str]) -> list[str]:
    """The command line that runs `command` inside `root`, with `data` mounted at `MOUNT_POINT`."""
    return ["unshare", "--mount", "sh", "-ec", _ENTER, "enter", str(root), str(data), *command]


def debian_with_rabbitmq(progress: Progress) -> Path:
    """The root folder of a minimal Debian with rabbitmq-server, from the cache or fetched (about a minute).

    Raises ServerNotFoundError where that is impossible; the message says why.
    """
    for obstacle in _obstacles():
        raise ServerNotFoundError(obstacle)
    return install(f"rabbitmq-debian-{RELEASE}", lambda root: _bootstrap(root, progress), progress) / "root"


def _obstacles() -> Iterator[str]:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        yield f"a RabbitMQ can be fetched for Linux on x86_64 only, this is {platform.system()} on {platform.machine()}"
    if shutil.which("apt-get") is None:
        yield "a RabbitMQ can be fetched on Debian and its relatives only, and there is no apt-get here"
    if os.geteuid() != 0:
        yield "fetching a RabbitMQ needs root (debootstrap, chroot)"
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        yield (
            "a fetched RabbitMQ needs a mount namespace, which this machine refuses "
            f"(a container without the capability SYS_ADMIN?): {tried.stderr.strip()}"
        )


def _bootstrap(folder: Path, progress: Progress) -> None:
    if shutil.which("debootstrap") is None:
        apt_install("debootstrap", progress)
    mirror = apt_mirror()
    root = folder / "root"
    progress(f"fetching RabbitMQ with a minimal Debian {RELEASE}, about 100 MB, into {folder.parent}")
    # In a namespace of its own, too: debootstrap mounts /proc in there, and would leave it mounted if it were killed.
    # And supervised: with this process gone, it must not go on writing to a folder that the next one deletes.
    command = ["unshare", "--mount", "debootstrap", "--variant=minbase", "--include=rabbitmq-server"]
    log = folder / "debootstrap.log"
    process = SupervisedProcess.spawn(
        [*command, RELEASE, str(root), mirror],
        env=os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        log=log,
    )
    try:
        stage = ""
        while not process.wait(1.0):
            # Hundreds of "Retrieving x", "Unpacking y": one line per stage is enough.
            word = tail(log, 1).removeprefix("I: ").split(" ", 1)[0]
            if word != stage and word in {"Retrieving", "Extracting", "Unpacking", "Configuring"}:
                stage = word
                progress(f"debootstrap: {word.lower()} packages")
    except BaseException:
        process.kill()
        raise
    if _SUCCESS not in tail(log, 1):
        raise ServerNotFoundError(
            f"debootstrap could not fetch Debian {RELEASE} from {mirror}; its output ends with:\n{tail(log, 15)}"
        )
    (root / MOUNT_POINT.lstrip("/")).mkdir(parents=True, exist_ok=True)
    hosts = root / "etc/hosts"
    known = hosts.read_text() if hosts.exists() else ""
    if not re.search(r"^127\.0\.0\.1\s.*\blocalhost\b", known, re.MULTILINE):
        hosts.write_text(f"127.0.0.1 localhost\n{known}")
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    progress("RabbitMQ is unpacked")


def apt_install(package: str, progress: Progress) -> None:
    """Installs a package of this system. Raises ServerNotFoundError if that fails, or can't be done here."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise ServerNotFoundError(f"the package {package} is missing, and installing it needs apt-get and root")
    progress(f"installing {package} with apt-get")
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "install", "-qq", "-y", "--no-install-recommends", package],
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-qq", "-y", "--no-install-recommends", package],
    ):
        result = subprocess.run(
            command, env=env, capture_output=True, text=True, check=False, timeout=_APT_TIMEOUT_SECONDS
        )
        if result.returncode == 0 and "install" in command:
            return
    raise ServerNotFoundError(f"apt-get could not install {package}: {result.stderr.strip()[-500:]}")


def apt_mirror(etc_apt: Path = _APT_SOURCES, os_release: Path = Path("/etc/os-release")) -> str:
    """The address from which this system gets its own packages, read from apt's sources.

    The first source that serves the running release itself, so that neither a vendor's own archive nor the
    one for security updates is taken. Raises ServerNotFoundError if there is none.
    """
    codename = _codename(os_release)
    for address, suites in _apt_entries(etc_apt):
        if codename in suites and address.startswith(("http://", "https://")):
            return address
    raise ServerNotFoundError(
        f"no mirror to fetch Debian {RELEASE} from: apt's sources in {etc_apt} have none for {codename!r}"
    )


def _codename(os_release: Path) -> str:
    match = re.search(r'^VERSION_CODENAME="?([\w-]+)"?$', os_release.read_text(), re.MULTILINE)
    return match[1] if match else "stable"


def _apt_entries(etc_apt: Path) -> Iterator[tuple[str, list[str]]]:
    """(address, suites) of every source of binary packages, in deb822 and in one-line files."""
    folder = etc_apt / "sources.list.d"
    for path in sorted(folder.glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = _fields(stanza)
            if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() != "no":
                for address in fields.get("uris", "").split():
                    yield address, fields.get("suites", "").split()
    for path in (etc_apt / "sources.list", *sorted(folder.glob("*.list"))):
        if path.exists():
            for line in path.read_text().splitlines():
                match = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)", line)
                if match:
                    yield match[1], [match[2]]


def _fields(stanza: str) -> dict[str, str]:
    """The fields of one deb822 stanza, names in lower case, continuation lines joined."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t"):
            if name:
                fields[name] += " " + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields
