"""A MongoDB replica set whose members know each other, and are known to clients, by proxies in front of them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from holdfast.local import MongoReplicaSet, MongoServer
from holdfast.local.ports import LOOPBACK

from .proxy import Peers, Proxy, Rule


class Partition:
    """A network that is divided. All that was held back in silence goes on its way when it is healed."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = list(rules)

    def heal(self) -> None:
        """Join what was divided. Repeating it is harmless."""
        while self._rules:
            self._rules.pop().lift()


class ProxiedReplicaSet(MongoReplicaSet):
    """A replica set behind proxies, one for each member. Arguments as of MongoReplicaSet.

    The harness itself reaches the members directly: `member.client()` passes no proxy.
    """

    def __init__(self, directory: Path | str, *, members: int = 3, **options: Any) -> None:
        self.proxies = [Proxy(self._server(number)) for number in range(members)]
        super().__init__(directory, members=members, addresses=[proxy.address for proxy in self.proxies], **options)

    def start(self, timeout: float = 60.0) -> None:
        """As of MongoReplicaSet, with the proxies before it."""
        for proxy in self.proxies:
            proxy.start()
        super().start(timeout)

    def stop(self, timeout: float = 30.0) -> None:
        """Ends all members in order, then the proxies."""
        super().stop(timeout)
        self.stop_proxies()

    def stop_proxies(self) -> None:
        """Ends the proxies."""
        for proxy in self.proxies:
            proxy.stop()

    def proxy(self, member: MongoServer) -> Proxy:
        """The proxy in front of a member."""
        return self.proxies[self.members.index(member)]

    def isolate(self, member: MongoServer, *, silently: bool = False) -> Partition:
        """Cut a member off from the others, in both directions. Clients still reach it, and them.

        `silently` loses what they say to each other instead of resetting their connections.
        """
        others = [other for other in self.members if other is not member]
        divide = Proxy.lose if silently else Proxy.cut
        rules = [divide(self.proxy(member), _processes(others))]
        rules += [divide(self.proxy(other), _processes([member])) for other in others]
        return Partition(rules)

    def shut_out(self, peers: Peers, *, members: Iterable[MongoServer] = (), silently: bool = False) -> Partition:
        """Keep processes from these members, or from all. The members still reach each other."""
        divide = Proxy.lose if silently else Proxy.cut
        return Partition([divide(self.proxy(member), peers) for member in members or self.members])

    def _server(self, number: int) -> Callable[[], tuple[str, int]]:
        return lambda: (LOOPBACK, self.members[number].port)


def _processes(members: Iterable[MongoServer]) -> Peers:
    chosen = list(members)
    return lambda: [pid for member in chosen if (pid := member.pid) is not None]
