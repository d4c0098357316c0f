"""A service of one worker that has to live through bad input."""

import asyncio

from chaos.fuzz.aftermath import faults, look
from chaos.fuzz.campaign import Campaign

from .cluster import Cluster


class FuzzedService:
    """A cluster of one worker, and a campaign against it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        (self.worker,) = asyncio.run(cluster.start(1))
        self._before = look(self.worker)
        self.campaign = Campaign(cluster.amqp_url, partitions=cluster.partitions, patience=60)

    def check(self) -> None:
        """Nothing that came of the inputs was wrong, and the worker is the one that it was, and at peace."""
        # pytest explains no asserts of modules like this one.
        failures = [str(failure) for failure in self.campaign.report.failures]
        assert not failures, "\n".join(failures)
        found = faults(self.cluster, self.worker, self._before)
        assert not found, "\n".join(found)
