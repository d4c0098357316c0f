"""A service whose every connection passes a proxy: workers and clients to the broker, all to MongoDB's members."""

from dataclasses import dataclass

from chaos.cluster import Cluster
from chaos.proxy import Proxy
from chaos.replicas import ProxiedReplicaSet


@dataclass(frozen=True)
class ProxiedService:
    """Workers, and what lies between them, their servers and their clients."""

    cluster: Cluster
    replicas: ProxiedReplicaSet
    #: Between workers and the broker.
    at_workers: Proxy
    #: Between clients and the broker.
    at_clients: Proxy
    #: The broker's address for clients.
    amqp_url: str
