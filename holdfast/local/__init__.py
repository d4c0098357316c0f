"""Real servers on this machine: RabbitMQ, MongoDB and workers, for development, tests and benchmarks.

Nothing here is needed to run Holdfast in production.
"""

from .errors import LocalStackError, ServerNotFoundError, ServerStartError, ServerStateError
from .mongodb import MongoReplicaSet, MongoServer, MongoTls
from .provision import RabbitProgram, find_mongod, find_rabbitmq
from .rabbit_cluster import RabbitCluster, RabbitNode
from .rabbitmq import RabbitServer
from .server import Server
from .stack import DEFAULT_DIRECTORY, LocalStack, Status
from .worker import Addresses, WorkerServer

__all__ = [
    "DEFAULT_DIRECTORY",
    "Addresses",
    "LocalStack",
    "LocalStackError",
    "MongoReplicaSet",
    "MongoServer",
    "MongoTls",
    "RabbitCluster",
    "RabbitNode",
    "RabbitProgram",
    "RabbitServer",
    "Server",
    "ServerNotFoundError",
    "ServerStartError",
    "ServerStateError",
    "Status",
    "WorkerServer",
    "find_mongod",
    "find_rabbitmq",
]
