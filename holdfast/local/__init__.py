"""Real servers on this machine: RabbitMQ, MongoDB and workers, for development, tests and benchmarks.

Nothing here is needed to run Holdfast in production.
"""

from .errors import LocalStackError, ServerNotFoundError, ServerStartError, ServerStateError
from .mongodb import MongoReplicaSet, MongoServer
from .provision import RabbitProgram, find_mongod, find_rabbitmq
from .rabbitmq import RabbitServer

__all__ = [
    "LocalStackError",
    "MongoReplicaSet",
    "MongoServer",
    "RabbitProgram",
    "RabbitServer",
    "ServerNotFoundError",
    "ServerStartError",
    "ServerStateError",
    "find_mongod",
    "find_rabbitmq",
]
