"""A RabbitMQ node of our own on loopback, without epmd and without a second process."""

import contextlib
import os
import re
import secrets
import socket
import string
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlencode

from tenacity import Retrying, retry_if_exception_message, stop_after_attempt, wait_fixed

from .cache import Progress, log_progress
from .errors import ServerStateError
from .ports import LOOPBACK, free_port
from .provision import RabbitProgram, find_rabbitmq
from .server import Server

_AMQP_HEADER = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME = b"\x01"
_CONTROL_TIMEOUT_SECONDS = 60.0
#: Attempts at talking to a node.
_HANDSHAKES = 4


class RabbitServer(Server):
    """One RabbitMQ node with one user, `holdfast`, whose password is generated and kept in the folder.

    `memory_mib` is where the node stops publishers (its memory alarm). `config` adds or replaces settings in
    rabbitmq.conf; `plugins` are enabled by name. Without `program` the node is looked for (`find_rabbitmq`) at
    the first start. Nodes need no epmd; those of a `RabbitCluster` find each other without it.
    """

    kind = "RabbitMQ"
    user = "holdfast"
    #: Where it listens, for clients and for other nodes.
    address = LOOPBACK
    #: Its name; data is kept under it.
    node = "holdfast@localhost"
    #: What has to be set before the configuration is read.
    emulator_arguments = ""

    def __init__(
        self,
        directory: Path | str,
        *,
        detach: bool = False,
        program: RabbitProgram | None = None,
        memory_mib: int = 1024,
        plugins: Sequence[str] = (),
        config: Mapping[str, str] | None = None,
        progress: Progress = log_progress,
    ) -> None:
        super().__init__(directory, detach=detach)
        self._program = program
        self._memory_mib = memory_mib
        self._plugins = plugins
        self._config = dict(config or {})
        self._progress = progress

    @property
    def amqp_port(self) -> int:
        """The port for AMQP; chosen at the first start (ServerStateError before that)."""
        return int(self._remembered("amqp_port"))

    @property
    def password(self) -> str:
        """The user's password; generated at the first start (ServerStateError before that)."""
        return self._remembered("password")

    @property
    def log_path(self) -> Path:
        """RabbitMQ's log."""
        return self.directory / "log" / "rabbit.log"

    def url(self, vhost: str = "/", query: Mapping[str, object] | None = None) -> str:
        """The AMQP address of a virtual host, user and password included."""
        suffix = f"?{urlencode(query)}" if query else ""
        return f"amqp://{self.user}:{self.password}@{self.address}:{self.amqp_port}/{quote(vhost, safe='')}{suffix}"

    def kill(self) -> None:
        """Ends the node at once by SIGKILL, as `Server.kill`, but not with a quorum queue half declared.

        RabbitMQ 4.0 writes a new queue into its registry of quorum queues half a second late. A node that is killed
        before has the queue afterwards, but empty and for ever without a leader: a flaw in a corner that no test
        here is about. So the registry, and nothing else, is written out before, unless the node hangs.
        """
        if self._process is not None and self._process.main.alive() and not self.paused:
            with contextlib.suppress(ServerStateError):
                self.eval("[dets:sync(Table) || Table <- dets:all()], ok", timeout=2.0)
        super().kill()

    # Administration.

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints for these arguments. About half a second; `eval` takes a hundredth.

        Raises ServerStateError with its output if it fails, and if it takes longer than a minute.
        """
        return self._run([str(self.program.scripts / "rabbitmqctl"), "--quiet", *arguments])

    def eval(self, expressions: str, *, timeout: float = _CONTROL_TIMEOUT_SECONDS) -> str:
        """Evaluates Erlang expressions in the node and returns the value of the last one, as Erlang prints it.

        Raises ServerStateError for whatever the expressions raise, and if the node takes over `timeout` seconds.
        """
        code = expressions.strip().rstrip(".")
        if self.program.erl_call is None:
            return self.ctl("eval", f"{code}.").strip()
        place = f"{self.node.partition('@')[2]}:{self._remembered('dist_port')}"
        # A busy node may be late for the handshake, on which nothing was evaluated yet.
        call = Retrying(
            retry=retry_if_exception_message(match=r"(?s).*failed to connect to node"),
            stop=stop_after_attempt(_HANDSHAKES),
            wait=wait_fixed(0.3),
            reraise=True,
        )
        output = call(
            self._run,
            [str(self.program.erl_call), "-address", place, "-fetch_stdout", "-e"],
            stdin=f'io:format("~0tp", [begin {code} end]).\n',
            timeout=timeout,
        )
        value, answered, _ = output.rpartition("{ok, ok}")
        if not answered:
            raise ServerStateError(f"the node refused {code[:200]!r}: {output[-1000:]}")
        return value

    def create_vhosts(self, names: Sequence[str]) -> None:
        """Creates virtual hosts in which the user may do everything, about 10 ms each."""
        self.eval(
            f"[begin ok = rabbit_vhost:add(Name, {binary(self.user)}), "
            f"ok = rabbit_auth_backend_internal:set_permissions({binary(self.user)}, Name, "
            f'<<".*">>, <<".*">>, <<".*">>, {binary(self.user)}) end || Name <- {_binaries(names)}]'
        )

    def delete_vhosts(self, names: Sequence[str], *, wait: bool = True) -> None:
        """Deletes virtual hosts with all queues, messages and connections in them, whether they exist or not.

        With `wait=False` the node goes on doing it after this has returned.
        """
        work = (
            f"lists:foreach(fun(Name) -> catch rabbit_vhost:delete(Name, {binary(self.user)}) end, {_binaries(names)})"
        )
        self.eval(work if wait else f"spawn(fun() -> {work} end), ok")

    def close_all_connections(self, reason: str = "closed by a test") -> None:
        """Closes every client connection with the AMQP error CONNECTION_FORCED."""
        # A connection registers itself without waiting; sync() returns when that has been dealt with.
        connections = "pg_local:sync(), rabbit_networking:local_connections()"
        self.eval(f"rabbit_networking:close_connections(begin {connections} end, {_string(reason)}), ok")

    def purge_queue(self, vhost: str, queue: str) -> None:
        """Drops the ready messages of a queue. ServerStateError if there is no such queue."""
        self.eval(f"{_lookup(vhost, queue)}, {{ok, _}} = rabbit_amqqueue:purge(Q), ok")

    def delete_queue(self, vhost: str, queue: str) -> None:
        """Deletes a queue with its messages and bindings. ServerStateError if there is no such queue."""
        self.eval(
            f"{_lookup(vhost, queue)}, {{ok, _}} = rabbit_amqqueue:delete(Q, false, false, {binary(self.user)}), ok"
        )

    @property
    def program(self) -> RabbitProgram:
        """The RabbitMQ that is run. Looked for, and if necessary fetched, at the first use."""
        if self._program is None:
            self._program = find_rabbitmq(self._progress)
        return self._program

    # What `Server` asks for.

    def _prepare(self) -> tuple[Sequence[str], dict[str, str]]:
        dist_port = self._choose_dist_port()
        amqp_port = free_port(self._state.get("amqp_port"), address=self.address)
        while dist_port == amqp_port:
            amqp_port = free_port(address=self.address)
        password = self._state.get("password") or secrets.token_urlsafe(24)
        self._remember(amqp_port=amqp_port, dist_port=dist_port, password=password)
        for name in ("etc", "log", "data"):
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        inside = self.program.inside(self.directory)
        settings = {
            "listeners.tcp.1": f"{self.address}:{amqp_port}",
            "default_user": self.user,
            "default_pass": password,
            # What a worker's user needs to keep the author of what it forwards.
            "default_user_tags.administrator": "true",
            "default_user_tags.impersonator": "true",
            "log.file": str(inside / "log/rabbit.log"),
            "log.file.level": "info",
            "log.console": "false",
            "vm_memory_high_watermark.absolute": f"{self._memory_mib}MiB",
            "disk_free_limit.absolute": "50MiB",
            # Quorum queues keep up to three of these in memory; the default of 512 MiB is for big machines.
            "raft.wal_max_size_bytes": str(128 << 20),
        } | self._config
        self._write("etc/rabbitmq.conf", "".join(f"{key} = {value}\n" for key, value in settings.items()))
        self._write("etc/enabled_plugins", f"[{','.join(self._plugins)}].\n")
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            self._write(".erlang.cookie", self._make_cookie())
            cookie.chmod(0o400)
        command = [str(self.program.scripts / "rabbitmq-server")]
        return self.program.command(self.directory, command), self._environment()

    def _choose_dist_port(self) -> int:
        """The port for other nodes and for administration."""
        return free_port(self._state.get("dist_port"), address=self.address)

    def _make_cookie(self) -> str:
        """The secret that nodes and administration prove themselves to each other with."""
        return make_cookie()

    def _probe(self) -> bool:
        """Whether the listener answers the AMQP header with a method, and then the node says that it has booted.

        It listens a moment before it counts itself among the running nodes, and in that moment some things that
        ask for all running nodes quietly do nothing.
        """
        try:
            with socket.create_connection((self.address, self.amqp_port), timeout=1.0) as connection:
                connection.sendall(_AMQP_HEADER)
                if connection.recv(1) != _METHOD_FRAME:
                    return False
            return self.eval("rabbit:is_running()", timeout=5.0) == "true"
        except (OSError, ServerStateError):
            return False

    def _environment(self) -> dict[str, str]:
        inside = self.program.inside(self.directory)
        # A node that is given its name and its port by the emulator skips epmd altogether: one process and about
        # two seconds less at each start, and no daemon that outlives it.
        distribution = f"-start_epmd false -erl_epmd_port {self._remembered('dist_port')}"
        long = "." in self.node.partition("@")[2]
        interface = "{" + self.address.replace(".", ",") + "}"
        return {
            "PATH": self.program.search_path,
            "LANG": "C.UTF-8",
            "HOME": str(inside),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_USE_LONGNAME": "true" if long else "false",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(inside / "etc/rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(inside / "etc/advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(inside / "etc/enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(inside / "data/config"),
            "RABBITMQ_MNESIA_BASE": str(inside / "data"),
            "RABBITMQ_LOG_BASE": str(inside / "log"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"-{'name' if long else 'sname'} {self.node} {distribution} "
                f"-kernel inet_dist_use_interface {interface} {self.emulator_arguments}"
            ),
            "RABBITMQ_CTL_ERL_ARGS": f"{distribution} -dist_listen false",
            # Several nodes share this machine's cores: binding schedulers to cores would make them collide.
            "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
            # Makes the start script replace itself by the node, so that the process we started *is* the node.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)

    def _remembered(self, name: str) -> str:
        if name not in self._state:
            raise ServerStateError(f"RabbitMQ in {self.directory} was never started: start() it first")
        return str(self._state[name])

    def _run(self, command: list[str], *, stdin: str = "", timeout: float = _CONTROL_TIMEOUT_SECONDS) -> str:
        if not self.running:
            raise ServerStateError(f"RabbitMQ in {self.directory} is not running: start() it first")
        try:
            result = subprocess.run(
                self.program.command(self.directory, command),
                env=self._environment(),
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerStateError(
                f"RabbitMQ in {self.directory} did not answer for {timeout:.0f} s; is it paused?"
            ) from error
        if result.returncode != 0:
            raise ServerStateError(f"{Path(command[0]).name} failed: {(result.stderr + result.stdout).strip()}")
        return result.stdout


def make_cookie() -> str:
    """A fresh Erlang cookie."""
    return "".join(secrets.choice(string.ascii_uppercase) for _ in range(32))


def _string(text: str) -> str:
    """An Erlang string literal, in ASCII: erl_call would take other letters for Latin-1."""
    return '"' + re.sub(r'["\\]|[^ -~]', lambda match: f"\\x{{{ord(match[0]):x}}}", text) + '"'


def binary(text: str) -> str:
    """An Erlang binary literal, in UTF-8."""
    return f"<<{_string(text)}/utf8>>"


def _binaries(texts: Sequence[str]) -> str:
    return f"[{', '.join(binary(text) for text in texts)}]"


def _lookup(vhost: str, queue: str) -> str:
    return f"{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r({binary(vhost)}, queue, {binary(queue)}))"
