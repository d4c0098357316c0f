"""All faults there are, by kind."""

from collections.abc import Callable, Mapping, Sequence
from random import Random

from .faults import Fault
from .faults.broker import broker_faults
from .faults.clients import client_faults
from .faults.network import network_faults
from .faults.store import store_faults
from .faults.workers import worker_faults
from .history import Recorder
from .stage import Stage

KINDS = ("workers", "broker", "store", "network", "clients")

Make = Callable[[], Fault]


def catalogue(stage: Stage, recorder: Recorder, random: Random) -> Mapping[str, Sequence[Make]]:
    """What can be injected on a stage. Faults of one kind are not injected at the same time.

    :param recorder: for what faults call themselves.
    """
    return {
        "workers": worker_faults(stage.cluster, random),
        "broker": broker_faults(stage.cluster, random),
        "store": store_faults(stage.mongo, random),
        "network": network_faults(
            stage.cluster, stage.mongo, random, at_clients=stage.at_clients, at_workers=stage.at_workers
        ),
        "clients": client_faults(stage.cluster, stage.crowd, recorder, random),
    }
