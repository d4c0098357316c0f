"""A container engine: one of our own, which leaves no trace on the machine, or the one that is there.

Our own consists of Debian's packages `docker.io` (with containerd, runc, iptables) and Debian 13's `docker-compose`,
unpacked into the cache and never installed. Its daemon has a socket, a data folder and bridges of its own, changes no
firewall rule and no kernel setting, and is ended by the process id that it was started under.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from holdfast.local.cache import cache_directory, install
from holdfast.local.debian import apt_mirror

RELEASE = "trixie"
FOLDER = "compose-test"
"""Below Holdfast's cache folder."""

# Private addresses that nothing else is likely to route: dockerd's own choice would avoid only what it sees now.
ADDRESS_POOL = "base=10.213.0.0/16,size=24"

START_SECONDS = 60
STOP_SECONDS = 60


class Failure(Exception):  # noqa: N818 - it is how the test fails, and is shown to people as it is
    """The test failed, or could not be run; the message says why."""


def say(text: str) -> None:
    print(text, flush=True)


def run(*command: str | Path, timeout: float, env: dict[str, str] | None = None, check: bool = True) -> str:
    """The standard output of a command. Failure, with the end of its error output, if it fails."""
    try:
        result = subprocess.run(
            [str(part) for part in command],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{command[0]} {command[1]} took more than {timeout:.0f} s") from error
    if check and result.returncode != 0:
        output = (result.stderr.strip() or result.stdout.strip())[-3000:]
        raise Failure(f"{' '.join(map(str, command))} failed ({result.returncode}):\n{output}")
    return result.stdout


class Engine:
    """Whatever `docker` talks to with the environment `env`."""

    def __init__(self, env: dict[str, str], *, standins: bool) -> None:
        self.env = env
        self.standins = standins
        """Whether images have to be built, because none can be fetched."""

    def docker(self, *arguments: str | Path, timeout: float = 60, check: bool = True) -> str:
        return run("docker", *arguments, timeout=timeout, env=self.env, check=check)

    def describe(self) -> str:
        server = self.docker("version", "--format", "{{.Server.Version}}").strip()
        compose = self.docker("compose", "version", "--short").strip()
        return f"engine {server}, Compose {compose}"


@contextmanager
def engine() -> Iterator[Engine]:
    """The engine that COMPOSE_TEST_ENGINE names: `own` (the default) or `system`."""
    choice = os.environ.get("COMPOSE_TEST_ENGINE", "own")
    if choice == "system":
        yield Engine(os.environ | {"DOCKER_BUILDKIT": "1"}, standins=False)
    elif choice == "own":
        with _own_engine() as own:
            yield own
    else:
        raise Failure(f"COMPOSE_TEST_ENGINE={choice}: `own` or `system`")


def base_folder() -> Path:
    """The folder with Debian 13 as `rootfs.tar` and its Compose as `docker-compose`, from the cache or fetched."""
    return install(f"{FOLDER}/base-{RELEASE}", _fetch_base, say)


def _fetch_base(folder: Path) -> None:
    say(f"fetching a minimal Debian ({RELEASE}) for the stand-in images, about a minute")
    if shutil.which("debootstrap") is None:
        raise Failure("debootstrap is missing: apt-get install debootstrap")
    root = folder / "root"
    packages = "python3,python3-venv,ca-certificates,libcurl4t64"
    # In a mount namespace of its own: what debootstrap mounts in there vanishes with it, however it ends.
    run(
        *("unshare", "--mount", "debootstrap", "--variant=minbase", f"--include={packages}"),
        *(RELEASE, root, apt_mirror()),
        timeout=900,
        env=os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    )
    inside = ("chroot", root, "sh", "-ec")
    run(*inside, "apt-get -q update; cd /tmp; apt-get -q download docker-compose", timeout=300)
    (package,) = (root / "tmp").glob("docker-compose_*.deb")
    unpacked = folder / "compose"
    run("dpkg-deb", "-x", package, unpacked, timeout=60)
    (plugin,) = unpacked.glob("usr/libexec/docker/cli-plugins/docker-compose")
    shutil.move(plugin, folder / "docker-compose")
    shutil.rmtree(unpacked)
    package.unlink()
    run(*inside, "apt-get clean; rm -rf /var/lib/apt/lists/* /etc/resolv.conf", timeout=60)
    # Whatever authorities this machine trusts its package index with, the build inside has to trust as well.
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        shutil.copyfile(bundle, root / "etc/ssl/certs/ca-certificates.crt")
    run("tar", "-C", root, "-cf", folder / "rootfs.tar", ".", timeout=300)
    shutil.rmtree(root)


def _fetch_packages(folder: Path) -> None:
    """Unpack `docker.io` and whatever it needs that this system doesn't have, without installing any of it."""
    say("fetching a container engine, 65 MB")
    archives = folder / "archives"
    (archives / "partial").mkdir(parents=True)
    fetch = (
        *("apt-get", "-q", "-y", "--no-install-recommends", "--download-only"),
        *("-o", f"Dir::Cache::archives={archives}", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"),
        *("install", "docker.io", "iptables"),
    )
    try:
        run(*fetch, timeout=600)
    except Failure:
        # The lists are missing, or so old that the mirror has moved on.
        run("apt-get", "-q", "update", timeout=300)
        run(*fetch, timeout=600)
    for package in archives.glob("*.deb"):
        run("dpkg-deb", "-x", package, folder / "root", timeout=120)
    shutil.rmtree(archives)
    (folder / "root").mkdir(exist_ok=True)
    # What the package's installation would have chosen: the names that the daemon calls.
    chosen = folder / "root/usr/sbin/xtables-nft-multi"
    if chosen.exists():
        for name in ("iptables", "ip6tables"):
            (chosen.parent / name).symlink_to(chosen.name)


def _search_path(root: Path) -> str:
    own = [str(root / place) for place in ("usr/sbin", "usr/bin")]
    return os.pathsep.join([*own, os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


@contextmanager
def _own_engine() -> Iterator[Engine]:
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Failure(
            "an engine of our own needs Linux of the Debian family, and root. "
            "With an engine that is running already: COMPOSE_TEST_ENGINE=system sh scripts/compose-test"
        )
    cache = cache_directory() / FOLDER
    cache.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lock = stack.enter_context((cache / "running.lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"another compose-test is running (it holds {lock.name})") from None
        packages = install(f"{FOLDER}/engine", _fetch_packages, say) / "root"
        plugin = base_folder() / "docker-compose"

        # Not in the cache: a socket's path may have 107 bytes, which a cache folder could use up.
        folder = tempfile.TemporaryDirectory(prefix="holdfast-engine-", ignore_cleanup_errors=True)
        scratch = Path(stack.enter_context(folder))
        (scratch / "config/cli-plugins").mkdir(parents=True)
        (scratch / "config/cli-plugins/docker-compose").symlink_to(plugin)
        libraries = packages / "usr/lib" / f"{os.uname().machine}-linux-gnu"
        env = os.environ | {
            "PATH": _search_path(packages),
            "DOCKER_HOST": f"unix://{scratch}/docker.sock",
            "DOCKER_CONFIG": str(scratch / "config"),
            "DOCKER_BUILDKIT": "1",
            # As a plain progress log, which is readable when something fails.
            "BUILDKIT_PROGRESS": "plain",
        }
        for unwanted in ("DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "COMPOSE_FILE"):
            env.pop(unwanted, None)
        daemon_env = env | {"LD_LIBRARY_PATH": str(libraries), "XTABLES_LIBDIR": str(libraries / "xtables")}
        log = cache / "dockerd.log"
        proxy = shutil.which("docker-proxy", path=env["PATH"])
        with log.open("wb") as output:
            daemon = subprocess.Popen(
                [
                    # Even if this program is killed, its daemon doesn't stay.
                    *("setpriv", "--pdeathsig", "TERM", "dockerd"),
                    *("--host", env["DOCKER_HOST"], "--pidfile", str(scratch / "docker.pid")),
                    *("--data-root", str(cache / "images"), "--exec-root", str(scratch / "exec")),
                    *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
                    *("--default-address-pool", ADDRESS_POOL),
                    *(("--userland-proxy-path", proxy) if proxy else ()),
                ],
                env=daemon_env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # An interrupt from the terminal is for us; the daemon is stopped when its containers are gone.
                start_new_session=True,
            )
        try:
            own = Engine(env, standins=True)
            _wait_until_ready(own, daemon, log)
            _sweep(own)
            yield own
        finally:
            with suppress(Failure):
                _sweep(own)
            _stop(daemon)


def _wait_until_ready(own: Engine, daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while daemon.poll() is None and time.monotonic() < deadline:
        if own.docker("version", "--format", "{{.Server.Version}}", check=False).strip():
            return
        time.sleep(0.25)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise Failure(f"dockerd did not start; its log ({log}) ends with:\n{tail}")


def _sweep(own: Engine) -> None:
    """Remove what a run left that could not clean up. Everything in this engine is ours; images stay."""
    if containers := own.docker("ps", "-aq").split():
        own.docker("rm", "-f", "-v", *containers)
    own.docker("network", "prune", "-f")
    if volumes := own.docker("volume", "ls", "-q").split():
        own.docker("volume", "rm", "-f", *volumes)
    own.docker("image", "prune", "-f")
    own.docker("builder", "prune", "-f", "--keep-storage", "2gb", timeout=120)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
