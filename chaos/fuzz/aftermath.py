"""What a service has to look like when a campaign is over."""

import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from holdfast.events import partition_queue
from holdfast.events.topology import DEAD, INGRESS
from holdfast.local import WorkerServer

from ..cluster import Cluster

#: Lines of a worker's log that must not be there, whatever was sent: bad input is no reason to complain.
_COMPLAINT = re.compile(r"^(?:\S+ \S+ (?:WARNING|ERROR|CRITICAL) .*|Traceback .*|.*session lost.*)$", re.MULTILINE)

#: Stands in every worker's account of where it is.
_TOLD: Final = "Lane.run"

#: Seconds for the last acknowledgements, and between two looks.
_PATIENCE: Final = 20.0
_PAUSE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Before:
    """A worker as it was before the campaign."""

    pid: int | None
    log_bytes: int


def look(worker: WorkerServer) -> Before:
    """Note what it is like now."""
    return Before(worker.pid, worker.log_path.stat().st_size)


def memory(worker: WorkerServer) -> int:
    """Its resident memory in bytes."""
    pages = Path(f"/proc/{worker.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def where_it_is(cluster: Cluster, worker: WorkerServer) -> list[str]:
    """What a worker does at this moment, and what waits for it, of a service in which something is stuck."""
    began_with = worker.log_path.stat().st_size
    if worker.pid is None:
        return ["the worker has ended"]
    os.kill(worker.pid, signal.SIGUSR1)
    deadline = time.monotonic() + _PATIENCE
    said = ""
    while _TOLD not in said and time.monotonic() < deadline:
        time.sleep(_PAUSE)
        with worker.log_path.open("rb") as log:
            log.seek(began_with)
            said = log.read().decode(errors="replace")
    columns = ("name", "messages", "consumers")
    queues = cluster.rabbit.ctl("list_queues", "-p", cluster.vhost, "--no-table-headers", *columns)
    return [said, *(f"queue, messages, consumers: {line}" for line in queues.splitlines() if line.split()[1] != "0")]


def _left_in(cluster: Cluster, queue: str) -> int:
    """Messages that stay in a queue. They leave it after their answers, when the change feed has what they made."""
    deadline = time.monotonic() + _PATIENCE
    while (left := cluster.depth(queue)) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return left


def faults(cluster: Cluster, worker: WorkerServer, before: Before) -> list[str]:
    """What is not as it should be: another process, complaints in its log, messages that are left anywhere."""
    found = []
    if worker.pid is None or worker.pid != before.pid:
        found.append(f"the worker was process {before.pid} and is {worker.pid}")
    with worker.log_path.open("rb") as log:
        log.seek(before.log_bytes)
        said = log.read().decode(errors="replace")
    found += [f"the worker's log: {line[:500]}" for line in _COMPLAINT.findall(said)[:20]]
    for queue in (*(partition_queue(partition) for partition in range(cluster.partitions)), INGRESS, DEAD):
        left = _left_in(cluster, queue)
        if left:
            found.append(f"{left} messages are left in {queue}")
    return found
