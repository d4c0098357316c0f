"""mongod processes of our own on loopback: a single one, and a replica set of one or more."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from pymongo import MongoClient
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError

from .cache import Progress, log_progress
from .errors import ServerStartError, ServerStateError
from .ports import LOOPBACK, free_port
from .provision import find_mongod
from .server import Server

_NOT_YET_INITIALIZED = 94
_ALREADY_INITIALIZED = 23
#: A member that does not answer for so long counts as away. Until then a new primary waits to hear what it has.
_HEARTBEAT_TIMEOUT_SECONDS = 2
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class MongoTls:
    """Files for encrypted connections. `server` and `client` have certificate and key each, in PEM."""

    ca: Path
    server: Path
    client: Path


class MongoServer(Server):
    """One mongod, alone or as a member of the replica set `replica_set`.

    `cache_gb` is WiredTiger's cache, 0.25 at least; `parameters` are server parameters (`--setParameter`). With `tls`
    it takes only encrypted connections, and only of those who have a certificate of its CA. Without `mongod` the
    program is looked for (`find_mongod`) at the first start.
    """

    kind = "MongoDB"

    def __init__(
        self,
        directory: Path | str,
        *,
        detach: bool = False,
        mongod: Path | None = None,
        replica_set: str | None = None,
        cache_gb: float = 1.0,
        oplog_mib: int = 512,
        parameters: Mapping[str, object] | None = None,
        tls: MongoTls | None = None,
        progress: Progress = log_progress,
    ) -> None:
        super().__init__(directory, detach=detach)
        self._mongod = mongod
        self._replica_set = replica_set
        self._cache_gb = cache_gb
        self._oplog_mib = oplog_mib
        self._parameters = dict(parameters or {})
        self._tls = tls
        self._progress = progress

    @property
    def port(self) -> int:
        """The port; chosen at the first start (ServerStateError before that)."""
        if "port" not in self._state:
            raise ServerStateError(f"MongoDB in {self.directory} was never started: start() it first")
        return int(self._state["port"])

    @property
    def address(self) -> str:
        """host:port."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def log_path(self) -> Path:
        """Mongod's log."""
        return self.directory / "mongod.log"

    def url(self, database: str = "") -> str:
        """The address of this one server, whatever set it belongs to."""
        return f"mongodb://{self.address}/{database}?directConnection=true{_tls_options(self._tls)}"

    @contextmanager
    def client(self, timeout: float = 10.0) -> Iterator[MongoClient[dict[str, Any]]]:
        """A client of this one server; each of its calls takes `timeout` seconds at most."""
        with MongoClient[dict[str, Any]](
            self.url(), timeoutMS=int(timeout * 1000), serverSelectionTimeoutMS=int(timeout * 1000)
        ) as client:
            yield client

    def admin(self, command: str, value: object = 1, *, timeout: float = 10.0, **arguments: Any) -> dict[str, Any]:
        """Runs an administrative command on this server. Raises PyMongoError as pymongo does."""
        with self.client(timeout) as client:
            return dict(client.admin.command(command, value, **arguments))

    def role(self) -> dict[str, Any]:
        """What it says of itself (`hello`); nothing if it does not answer within a second."""
        if not self.running:
            return {}
        try:
            return self.admin("hello", timeout=1.0)
        except PyMongoError:
            return {}

    def is_primary(self) -> bool:
        """Whether it takes itself for the primary of its set, as far as it answers within a second."""
        return bool(self.role().get("isWritablePrimary"))

    def _prepare(self) -> tuple[Sequence[str], dict[str, str]]:
        if self._mongod is None:
            self._mongod = find_mongod(self._progress)
        data = self.directory / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        self._remember(port=free_port(self._state.get("port")))
        parameters = {
            "transactionLifetimeLimitSeconds": 5,
            # On SIGTERM a primary waits this long for its clients to leave; the default is 15 s.
            "shutdownTimeoutMillisForSignaledShutdown": 100,
            "diagnosticDataCollectionEnabled": "false",
        } | self._parameters
        command = [str(self._mongod), "--dbpath", str(data), "--port", str(self.port)]
        command += ["--bind_ip", LOOPBACK, "--nounixsocket", "--wiredTigerCacheSizeGB", str(self._cache_gb)]
        command += ["--logpath", str(self.log_path), "--logappend", "--quiet"]
        if self._replica_set is not None:
            command += ["--replSet", self._replica_set, "--oplogSize", str(self._oplog_mib)]
        if self._tls is not None:
            command += ["--tlsMode", "requireTLS", "--tlsCAFile", str(self._tls.ca)]
            command += ["--tlsCertificateKeyFile", str(self._tls.server)]
        for name, value in parameters.items():
            command += ["--setParameter", f"{name}={value}"]
        return command, {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(self.directory)}

    def _probe(self) -> bool:
        try:
            self.admin("ping", timeout=1.0)
        except PyMongoError:
            return False
        return True


class MongoReplicaSet:
    """A replica set of `members` mongods below `directory`, which sets itself up and waits for its primary.

    `addresses` are the host:port by which members and clients know each member, instead of its own: those of proxies
    in front of them, which have to run before the set is started. Members that have not heard of a primary for
    `election_timeout` seconds elect another. The other arguments are those of `MongoServer`. All methods block.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        members: int = 1,
        addresses: Sequence[str] | None = None,
        election_timeout: float = 2.0,
        name: str = "holdfast",
        detach: bool = False,
        mongod: Path | None = None,
        cache_gb: float = 1.0,
        oplog_mib: int = 512,
        parameters: Mapping[str, object] | None = None,
        tls: MongoTls | None = None,
        progress: Progress = log_progress,
    ) -> None:
        self.directory = Path(directory).resolve()
        self.name = name
        self._addresses = addresses
        self._election_timeout = election_timeout
        self._tls = tls
        self.members = [
            MongoServer(
                self.directory / f"member-{number}",
                detach=detach,
                mongod=mongod,
                replica_set=name,
                cache_gb=cache_gb,
                oplog_mib=oplog_mib,
                parameters=parameters,
                tls=tls,
                progress=progress,
            )
            for number in range(members)
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether all members run."""
        return all(member.running for member in self.members)

    @property
    def addresses(self) -> list[str]:
        """host:port of each member, as members and clients know it."""
        return list(self._addresses or (member.address for member in self.members))

    def url(self, database: str = "") -> str:
        """The address of the set: all members, so that clients follow a failover."""
        return f"mongodb://{','.join(self.addresses)}/{database}?replicaSet={self.name}{_tls_options(self._tls)}"

    @contextmanager
    def client(self, timeout: float = 10.0) -> Iterator[MongoClient[dict[str, Any]]]:
        """A client of the set; each of its calls takes `timeout` seconds at most."""
        with MongoClient[dict[str, Any]](
            self.url(), timeoutMS=int(timeout * 1000), serverSelectionTimeoutMS=int(timeout * 1000)
        ) as client:
            yield client

    def start(self, timeout: float = 60.0) -> None:
        """Starts all members that don't run and returns when there is a primary that takes writes.

        Raises what `Server.start` raises, and ServerStartError if the set has no primary after `timeout` seconds.
        What this call started is ended again then.
        """
        deadline = time.monotonic() + timeout
        started = [member for member in self.members if not member.running]
        try:
            with ThreadPoolExecutor(len(self.members)) as pool:
                list(pool.map(lambda member: member.start(timeout), self.members))
            self._configure(deadline)
            self.primary(max(1.0, deadline - time.monotonic()))
        except BaseException as error:
            first = self.members[0]
            log_tail = first.log_tail()
            for member in started:
                member.kill()
            if isinstance(error, PyMongoError):
                raise ServerStartError(
                    f"MongoDB refused to set up its replica set: {error}.", log=first.log_path, log_tail=log_tail
                ) from error
            raise

    def stop(self, timeout: float = 30.0) -> None:
        """Ends all members in order, the primary last."""
        for member in sorted(self.members, key=MongoServer.is_primary):
            member.stop(timeout)

    def kill(self) -> None:
        """Kills all members at once (SIGKILL)."""
        for member in self.members:
            member.kill()

    def restart(self, timeout: float = 60.0) -> None:
        """Stops and starts the set on the same ports."""
        self.stop()
        self.start(timeout)

    def pause(self) -> None:
        """Freezes all members (SIGSTOP)."""
        for member in self.members:
            member.pause()

    def resume(self) -> None:
        """Undoes `pause`."""
        for member in self.members:
            member.resume()

    def primary(self, timeout: float = 30.0, *, other_than: MongoServer | None = None) -> MongoServer:
        """The member that takes writes; waits for an election. ServerStartError after `timeout` seconds without.

        One that is cut off from the others may take itself for the primary for a while: `other_than` leaves it out.
        """
        deadline = time.monotonic() + timeout
        while True:
            for member in self.members:
                if member is not other_than and member.is_primary():
                    return member
            if time.monotonic() > deadline:
                log = self.members[0]
                raise ServerStartError(
                    f"the replica set {self.name} has had no primary for {timeout:.0f} s.",
                    log=log.log_path,
                    log_tail=log.log_tail(),
                )
            time.sleep(_POLL_SECONDS)

    def wait_until_whole(self, timeout: float = 60.0) -> None:
        """Returns when one member is the primary and all others have what it has.

        Raises ServerStartError if that is not so after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            roles = [member.role() for member in self.members]
            leaders = {role.get("primary") for role in roles}
            steady = all(role.get("isWritablePrimary") or role.get("secondary") for role in roles)
            if steady and len(leaders) == 1 and None not in leaders and self._all_follow():
                return
            if time.monotonic() > deadline:
                log = self.members[0]
                raise ServerStartError(
                    f"the members of {self.name} have not come together for {timeout:.0f} s: {roles}",
                    log=log.log_path,
                    log_tail=log.log_tail(),
                )
            time.sleep(_POLL_SECONDS)

    def _all_follow(self) -> bool:
        """Whether all members copy what the primary writes, or do so within a second."""
        concern = {"w": len(self.members), "wtimeout": 1000}
        try:
            reply = self.primary(1.0).admin("appendOplogNote", data={"note": "do all follow?"}, writeConcern=concern)
        except (PyMongoError, ServerStartError):
            return False
        return "writeConcernError" not in reply

    def elect(self, member: MongoServer, timeout: float = 30.0) -> None:
        """Has a member stand for election at once, whatever it knows of the primary; returns when it has won.

        Raises OperationFailure, as pymongo does, if it has not after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not member.is_primary():
            try:
                member.admin("replSetStepUp")
            except OperationFailure:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)

    def step_down(self, seconds: int = 10) -> None:
        """Makes the primary give up its office and not stand again for `seconds` (a set of one: until they are over).

        Returns as soon as it has stepped down; `primary()` waits for the next one.
        """
        try:
            self.primary().admin("replSetStepDown", seconds, force=True, secondaryCatchUpPeriodSecs=0)
        except AutoReconnect:
            return  # a primary may close its connections as it steps down

    def _configure(self, deadline: float) -> None:
        """Initiates the set, or tells it the new addresses if its members had to move to other ports."""
        addresses = dict(enumerate(self.addresses))
        first = self.members[0]
        while True:
            try:
                current = first.admin("replSetGetConfig")["config"]
                break
            except OperationFailure as error:
                if error.code != _NOT_YET_INITIALIZED:
                    raise
            if self._initiate(addresses):
                self.elect(first, max(1.0, deadline - time.monotonic()))
                # As long as the others do not copy what the first one writes, they are no majority with it.
                self.wait_until_whole(max(1.0, deadline - time.monotonic()))
                return
            # The set exists, but after a start a server answers before it has read its configuration.
            if time.monotonic() > deadline:
                raise ServerStartError(
                    "MongoDB does not find its replica set again.", log=first.log_path, log_tail=first.log_tail()
                )
            time.sleep(_POLL_SECONDS)
        known = {entry["_id"]: entry for entry in current["members"]}
        if {number: entry["host"] for number, entry in known.items()} != addresses:
            current["members"] = [
                known.get(number, {"_id": number}) | {"host": host} for number, host in addresses.items()
            ]
            current["version"] += 1
            first.admin("replSetReconfig", current, force=True)

    def _initiate(self, addresses: Mapping[int, str]) -> bool:
        """Makes the set, False if it was made before."""
        config: dict[str, Any] = {
            "_id": self.name,
            "members": [{"_id": number, "host": host} for number, host in addresses.items()],
        }
        if len(addresses) > 1:
            config["settings"] = {
                "electionTimeoutMillis": round(1000 * self._election_timeout),
                "heartbeatTimeoutSecs": _HEARTBEAT_TIMEOUT_SECONDS,
            }
        try:
            self.members[0].admin("replSetInitiate", config)
        except OperationFailure as error:
            if error.code == _ALREADY_INITIALIZED:
                return False
            raise
        return True


def _tls_options(tls: MongoTls | None) -> str:
    if tls is None:
        return ""
    return "&" + urlencode(
        {"tls": "true", "tlsCAFile": str(tls.ca), "tlsCertificateKeyFile": str(tls.client)}, safe="/"
    )
