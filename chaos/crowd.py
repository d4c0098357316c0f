"""The crowd: all client processes of a run, dead ones included."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .client_process import ClientOptions, ClientProcess
from .cluster import until
from .plan import GROUP

#: Seconds that a client may take to connect, while a fault may be going on …
START_TIMEOUT = 180.0
#: … and to finish what it is at: its longest timeout, for each of its repeats.
STOP_TIMEOUT = 180.0


class CrowdError(Exception):
    """A client process did not do what it should."""


class Crowd:
    """Client processes on one service.

    :param callers: of each process.
    """

    def __init__(
        self, directory: Path, *, amqp_url: str, seed: str, processes: int, callers: int, partitions: int
    ) -> None:
        self._directory = directory
        self._names = itertools.count(1)
        self._partitions = partitions
        self._groups = max(1, processes * callers // GROUP)
        self.living: list[ClientProcess] = []
        self._dead: list[ClientProcess] = []
        for number in range(processes):
            self.living.append(
                self._make(
                    ClientOptions(
                        name="",
                        amqp_url=amqp_url,
                        seed=seed,
                        first_caller=number * callers,
                        last_caller=(number + 1) * callers,
                        groups=self._groups,
                        partitions=partitions,
                    )
                )
            )

    def _make(self, options: ClientOptions) -> ClientProcess:
        name = f"client-{next(self._names)}"
        return ClientProcess(self._directory / name, replace(options, name=name))

    async def start(self) -> None:
        """Start all; returns when they call."""
        await asyncio.gather(*(asyncio.to_thread(client.start, START_TIMEOUT) for client in self.living))

    async def kill(self, client: ClientProcess) -> None:
        """Kill a process in the middle of its calls."""
        await asyncio.to_thread(client.kill)

    async def replace(self, client: ClientProcess) -> None:
        """Have a new process do what a killed one would have done."""
        generation = max((int(each.report().get("generation", 0)) for each in self._all()), default=0)
        following = self._make(replace(client.options, generation=generation))
        self.living.remove(client)
        self._dead.append(client)
        self.living.append(following)
        await asyncio.to_thread(following.start, START_TIMEOUT)

    async def stop(self) -> None:
        """Let all callers finish what they are at.

        :raises CrowdError: if a process is gone already, or fails.
        :raises TimeoutError: if one does not end.
        """
        for client in self.living:
            if not client.running:
                raise CrowdError(f"{client.options.name} is gone; its log is {client.log_path}")
            client.ask_to_stop()
        await until(lambda: not any(client.running for client in self.living), "all callers are done", STOP_TIMEOUT)
        for client in self.living:
            if client.report().get("ready") is not False:
                raise CrowdError(f"{client.options.name} failed; its log is {client.log_path}")

    def kill_all(self) -> None:
        """End everything at once. Repeating it is harmless."""
        for client in self._all():
            client.kill()

    def _all(self) -> Iterator[ClientProcess]:
        yield from self._dead
        yield from self.living

    @property
    def histories(self) -> list[Path]:
        """What all have called, the dead included."""
        return [client.history_path for client in self._all() if client.history_path.exists()]

    @property
    def outcomes(self) -> Counter[str]:
        """How many calls ended how, as far as it was reported."""
        total: Counter[str] = Counter()
        for client in self._all():
            total.update(client.report().get("outcomes", {}))
        return total

    @property
    def findings(self) -> list[str]:
        """What the processes themselves found wrong."""
        return [finding for client in self._all() for finding in client.report().get("findings", [])]

    def acknowledged_since(self, moment: int) -> bool:
        """Whether every partition has acknowledged a write after this moment of CLOCK_MONOTONIC, in nanoseconds."""
        last = [0] * self._partitions
        for client in self._all():
            reported = client.report().get("acknowledged", last)
            last = [max(pair) for pair in zip(last, reported, strict=True)]
        return min(last) > moment
