"""A RabbitMQ cluster of our own, each node on a loopback address of its own. For Linux: all of 127.0.0.0/8 is loopback.

Nodes that share one port need no daemon to tell them each other's ports: the address in a node's name is enough.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from .cache import Progress, log_progress
from .errors import LocalStackError, ServerStartError, ServerStateError
from .ports import free_port, is_free
from .process import load_state, save_state
from .provision import RabbitProgram
from .rabbitmq import RabbitServer, binary, make_cookie

#: Seconds, more or less a quarter, after which nodes take a silent one for down. RabbitMQ's default is 60.
NET_TICKTIME = 8

_POLL_SECONDS = 0.05
_JOIN_TIMEOUT_SECONDS = 60.0


class RabbitNode(RabbitServer):
    """A node of a cluster: what `RabbitServer` is, at an address of its own."""

    emulator_arguments = f"-kernel net_ticktime {NET_TICKTIME}"

    def __init__(
        self,
        directory: Path,
        *,
        number: int,
        shared: Callable[[], Mapping[str, str]],
        detach: bool,
        program: RabbitProgram | None,
        memory_mib: int,
        config: Mapping[str, str] | None,
        progress: Progress,
    ) -> None:
        super().__init__(
            directory, detach=detach, program=program, memory_mib=memory_mib, config=config, progress=progress
        )
        self.address = f"127.0.0.{number + 2}"
        self.node = f"holdfast@{self.address}"
        self._shared = shared

    def _prepare(self) -> tuple[Sequence[str], dict[str, str]]:
        self._remember(password=self._shared()["password"])
        return super()._prepare()

    def _choose_dist_port(self) -> int:
        return int(self._shared()["dist_port"])

    def _make_cookie(self) -> str:
        return self._shared()["cookie"]


class RabbitCluster:
    """`nodes` RabbitMQ nodes below `directory` that form one cluster, with one user and its password.

    With `khepri` the cluster keeps its metadata in Khepri, as RabbitMQ 4.2 does by default; without, in Mnesia, whose
    minority pauses when the network splits (`pause_minority`). The other arguments are those of `RabbitServer`.
    All methods block.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        nodes: int = 3,
        khepri: bool = True,
        detach: bool = False,
        program: RabbitProgram | None = None,
        memory_mib: int = 1024,
        config: Mapping[str, str] | None = None,
        progress: Progress = log_progress,
    ) -> None:
        self.directory = Path(directory).resolve()
        self._khepri = khepri
        self._state_path = self.directory / "cluster.json"
        self.members = [
            RabbitNode(
                self.directory / f"node-{number}",
                number=number,
                shared=self._shared,
                detach=detach,
                program=program,
                memory_mib=memory_mib,
                config={"cluster_partition_handling": "pause_minority"} | dict(config or {}),
                progress=progress,
            )
            for number in range(nodes)
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether all nodes run."""
        return all(member.running for member in self.members)

    def url(self, vhost: str = "/", query: Mapping[str, object] | None = None) -> str:
        """The AMQP addresses of a virtual host on all nodes, separated by commas, as clients and workers take them."""
        return ",".join(member.url(vhost, query) for member in self.members)

    def start(self, timeout: float = 120.0) -> None:
        """Starts all nodes that don't run and returns when all are members of one cluster and see each other.

        Raises what `Server.start` raises, and ServerStartError if they do not find together within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        self._choose_what_is_shared()
        with ThreadPoolExecutor(len(self.members)) as pool:
            list(pool.map(lambda member: member.start(timeout), self.members))
        first = self.members[0]
        if self._khepri and first.eval("rabbit_khepri:is_enabled()") != "true":
            first.ctl("enable_feature_flag", "--opt-in", "khepri_db")
        known = first.eval("rabbit_nodes:list_members()")
        for member in self.members[1:]:
            if f"'{member.node}'" not in known:
                member.eval(
                    f"ok = rabbit:stop(), rabbit_db_cluster:join('{first.node}', disc), ok = rabbit:start(), ok",
                    timeout=_JOIN_TIMEOUT_SECONDS,
                )
        self.wait_until_whole(max(1.0, deadline - time.monotonic()))

    def wait_until_whole(self, timeout: float = 60.0) -> None:
        """Returns when every node sees all others run. ServerStartError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        for member in self.members:
            while not self._sees_all(member):
                if time.monotonic() > deadline:
                    raise ServerStartError(
                        f"{member.node} does not see all nodes of its cluster.",
                        log=member.log_path,
                        log_tail=member.log_tail(),
                    )
                time.sleep(_POLL_SECONDS)

    def _sees_all(self, member: RabbitNode) -> bool:
        try:
            seen = member.eval("{rabbit:is_running(), rabbit_nodes:list_running()}", timeout=5.0)
        except ServerStateError:
            return False
        return seen.startswith("{true,") and all(f"'{other.node}'" in seen for other in self.members)

    def stop(self, timeout: float = 30.0) -> None:
        """Ends all nodes, side by side: one that is left alone waits in vain for the others before it ends."""
        with ThreadPoolExecutor(len(self.members)) as pool:
            list(pool.map(lambda member: member.stop(timeout), self.members))

    def kill(self) -> None:
        """Kills all nodes at once (SIGKILL)."""
        with ThreadPoolExecutor(len(self.members)) as pool:
            list(pool.map(RabbitNode.kill, self.members))

    def restart(self, timeout: float = 120.0) -> None:
        """Stops and starts the whole cluster on the same ports."""
        self.stop()
        self.start(timeout)

    def pause(self) -> None:
        """Freezes all nodes (SIGSTOP)."""
        for member in self.members:
            member.pause()

    def resume(self) -> None:
        """Undoes `pause`."""
        for member in self.members:
            member.resume()

    # Queues.

    def leader(self, vhost: str, queue: str) -> RabbitNode:
        """The node that leads a quorum queue. ServerStateError if there is no such queue, or it has no leader now."""
        name = self.eval(f"{self._members_of(vhost, queue)}, {{_, Leader}} = L, Leader").strip("'")
        return next(member for member in self.members if member.node == name)

    def replicas(self, vhost: str, queue: str) -> list[RabbitNode]:
        """The nodes that hold a quorum queue. ServerStateError as `leader`."""
        names = self.eval(f"{self._members_of(vhost, queue)}, [Node || {{_, Node}} <- Ms]")
        return [member for member in self.members if f"'{member.node}'" in names]

    def _members_of(self, vhost: str, queue: str) -> str:
        resource = f"rabbit_misc:r({binary(vhost)}, queue, {binary(queue)})"
        return (
            f"{{ok, Q}} = rabbit_amqqueue:lookup({resource}), {{Name, _}} = amqqueue:get_pid(Q), "
            "{ok, Ms, L} = ra:members({Name, node()})"
        )

    # Network.

    def isolate(self, member: RabbitNode) -> None:
        """Cuts a node off from the others; its clients still reach it. Until `rejoin`, or until it starts again.

        Its connections to them are closed, and new ones refused, since it shows another cookie than theirs.
        """
        others = ", ".join(f"'{other.node}'" for other in self.members if other is not member)
        member.eval(
            f"[begin erlang:set_cookie(Other, cut_off), erlang:disconnect_node(Other) end || Other <- [{others}]], ok"
        )

    def rejoin(self, member: RabbitNode) -> None:
        """Undoes `isolate`. It takes some seconds until the node is back among the others: `wait_until_whole`."""
        others = ", ".join(f"'{other.node}'" for other in self.members if other is not member)
        member.eval(f"[erlang:set_cookie(Other, erlang:get_cookie()) || Other <- [{others}]], ok")

    # Administration, by way of any node that can be asked.

    def node(self) -> RabbitNode:
        """A node that runs and is not frozen. ServerStateError if there is none."""
        for member in self.members:
            if member.running and not member.paused:
                return member
        raise ServerStateError(f"no node of the RabbitMQ cluster in {self.directory} is running: start() it first")

    def ctl(self, *arguments: str) -> str:
        """As `RabbitServer.ctl`."""
        return self.node().ctl(*arguments)

    def eval(self, expressions: str, *, timeout: float = 60.0) -> str:
        """As `RabbitServer.eval`."""
        return self.node().eval(expressions, timeout=timeout)

    def create_vhosts(self, names: Sequence[str]) -> None:
        """As `RabbitServer.create_vhosts`."""
        self.node().create_vhosts(names)

    def delete_vhosts(self, names: Sequence[str], *, wait: bool = True) -> None:
        """As `RabbitServer.delete_vhosts`."""
        self.node().delete_vhosts(names, wait=wait)

    def purge_queue(self, vhost: str, queue: str) -> None:
        """As `RabbitServer.purge_queue`."""
        self.node().purge_queue(vhost, queue)

    def delete_queue(self, vhost: str, queue: str) -> None:
        """As `RabbitServer.delete_queue`."""
        self.node().delete_queue(vhost, queue)

    def close_all_connections(self, reason: str = "closed by a test") -> None:
        """Closes every client connection to every node that can be asked."""
        for member in self.members:
            if member.running and not member.paused:
                member.close_all_connections(reason)

    # Helpers.

    def _shared(self) -> Mapping[str, str]:
        state = load_state(self._state_path)
        if not state:
            raise ServerStateError(f"the RabbitMQ cluster in {self.directory} was never started: start() it first")
        return state

    def _choose_what_is_shared(self) -> None:
        """Chooses password, cookie and port at the first start; the port also later, if it is taken by now."""
        state = load_state(self._state_path)
        if state and any(member.running for member in self.members):
            return
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = {"password": secrets.token_urlsafe(24), "cookie": make_cookie()} | state
        state["dist_port"] = str(self._free_port(state.get("dist_port")))
        save_state(self._state_path, state)

    def _free_port(self, preferred: str | None) -> int:
        """A port that is free on the addresses of all nodes."""
        port = int(preferred) if preferred else free_port()
        for _ in range(1000):
            if all(is_free(port, member.address) for member in self.members):
                return port
            port = free_port()
        raise LocalStackError("no port is free on the addresses of all nodes")
