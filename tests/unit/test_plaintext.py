"""Which hosts a URL sends its password to in plain text."""

import pytest

import holdfast
from holdfast.plaintext import exposed_hosts


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("amqp://ada:pw@mq.example/", ["mq.example"]),
        ("amqp://ada:pw@mq.example:5672/vhost?heartbeat=8", ["mq.example"]),
        ("AMQP://ada:pw@mq.example", ["mq.example"]),
        ("amqp://ada:p@w@mq.example/", ["mq.example"]),
        ("amqp://ada:p/w@mq.example/", ["mq.example"]),
        ("amqp://ada:pw@10.0.0.1/", ["10.0.0.1"]),
        ("amqp://ada:pw@[2001:db8::1]:5672/", ["2001:db8::1"]),
        ("amqp://ada:pw@one/, amqp://ada:pw@two/,amqps://ada:pw@three/\namqp://ada:pw@localhost", ["one", "two"]),
        # Encrypted.
        ("amqps://ada:pw@mq.example/", []),
        # Nothing to be read.
        ("amqp://mq.example/", []),
        ("amqp://ada@mq.example/", []),
        # It does not leave the machine.
        ("amqp://ada:pw@localhost/", []),
        ("amqp://ada:pw@LOCALHOST:5672/", []),
        ("amqp://ada:pw@mq.localhost/", []),
        ("amqp://ada:pw@127.8.9.1/", []),
        ("amqp://ada:pw@[::1]:5672/", []),
        ("amqp://ada:pw@localhost.example/", ["localhost.example"]),
        ("amqp://ada:pw@127.example/", ["127.example"]),
        ("mongodb://ada:pw@db/x", ["db"]),
        ("mongodb://ada:pw@db1:27017,127.0.0.1:27018,[::1],db2/x?replicaSet=rs0", ["db1", "db2"]),
        ("mongodb://ada:pw@db/x?tls=false", ["db"]),
        ("mongodb://ada:pw@db/x?TLS=True&replicaSet=rs0", []),
        ("mongodb://ada:pw@db/x?ssl=true", []),
        ("mongodb://db/x", []),
        ("mongodb://ada:pw@%2Ftmp%2Fmongodb-27017.sock/x", []),
        ("mongodb+srv://ada:pw@cluster.example/x", []),
        ("mongodb+srv://ada:pw@cluster.example/x?tls=false", ["cluster.example"]),
        ("", []),
        ("nonsense", []),
    ],
)
def test_hosts(url: str, hosts: list[str]) -> None:
    """Given a URL, when it is looked at, then those hosts are found that get a password which others can read."""
    assert exposed_hosts(url) == hosts


def test_a_client_warns_once() -> None:
    """Given such a URL, when clients are made of it, then each warns; Python shows the first of one place."""
    with pytest.warns(holdfast.PlaintextWarning, match="the connection to mq.example is not encrypted") as caught:
        holdfast.connect("amqp://ada:hunter2@mq.example/")
    assert [warning.filename for warning in caught] == [__file__]
    assert "hunter2" not in str(caught[0].message)
