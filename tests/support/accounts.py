"""Users of the broker, made quickly: `rabbitmqctl` takes half a second for each word."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from holdfast.local import RabbitServer

#: What a client needs, a worker, and an operator of dead letters; as in docs/security.md.
CLIENT = (r"^amq\.gen-", r"^holdfast\.commands$", r"^amq\.gen-")
WORKER = (r"^holdfast\.", r"^(holdfast\.|amq\.default$)", r"^holdfast\.")
OPERATOR = (r"^(amq\.gen-|holdfast\.dead\.lock$)", r"^holdfast\.commands$", r"^(amq\.gen-|holdfast\.dead$)")


class Accounts:
    """Users of one virtual host."""

    def __init__(self, rabbit: RabbitServer, vhost: str) -> None:
        self.rabbit = rabbit
        self.vhost = vhost
        self.names: list[str] = []

    def add(self, name: str, permissions: tuple[str, str, str] = CLIENT, *, tag: str = "") -> str:
        """Make a user, and give the address with it."""
        password = uuid.uuid4().hex
        strings = ", ".join(_binary(each) for each in permissions)
        tags = f"[{tag}]"
        self.rabbit.eval(
            f"ok = rabbit_auth_backend_internal:add_user({_binary(name)}, {_binary(password)}, <<>>), "
            f"ok = rabbit_auth_backend_internal:set_tags({_binary(name)}, {tags}, <<>>), "
            f"rabbit_auth_backend_internal:set_permissions({_binary(name)}, {_binary(self.vhost)}, {strings}, <<>>)"
        )
        self.names.append(name)
        credentials = f"{quote(name, safe='')}:{password}"
        return f"amqp://{credentials}@127.0.0.1:{self.rabbit.amqp_port}/{quote(self.vhost, safe='')}"

    def remove(self) -> None:
        """Delete them all."""
        for name in self.names:
            self.rabbit.eval(f"rabbit_auth_backend_internal:delete_user({_binary(name)}, <<>>)")


@contextmanager
def accounts_on_vhost(rabbit: RabbitServer) -> Iterator[Accounts]:
    """A fresh virtual host and users of it, all gone afterwards."""
    vhost = f"accounts-{uuid.uuid4().hex[:12]}"
    rabbit.create_vhosts([vhost])
    accounts = Accounts(rabbit, vhost)
    yield accounts
    accounts.remove()
    rabbit.delete_vhosts([vhost], wait=False)


def _binary(text: str) -> str:
    return "<<" + ",".join(str(byte) for byte in text.encode()) + ">>"
