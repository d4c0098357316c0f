"""Queues that say nothing."""

import contextlib
from collections.abc import Iterator

from chaos.cluster import Cluster


@contextlib.contextmanager
def stuck(cluster: Cluster, queue: str) -> Iterator[None]:
    """A quorum queue confirms nothing, refuses nothing and delivers nothing, like one without its majority."""
    name = f'rabbit_misc:r(<<"{cluster.vhost}">>, queue, <<"{queue}">>)'
    leader = f"begin {{ok, Q}} = rabbit_amqqueue:lookup({name}), whereis(element(1, amqqueue:get_pid(Q))) end"
    cluster.rabbit.eval(f"ok = sys:suspend({leader})")
    try:
        yield
    finally:
        cluster.rabbit.eval(f"ok = sys:resume({leader})")
