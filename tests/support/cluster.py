"""Services of real worker processes, which a test may kill, freeze and starve: those of the chaos runs."""

from chaos.cluster import PARTITIONS, Cluster

__all__ = ["PARTITIONS", "Cluster"]
