"""A running service for tests that look at it from outside."""

from collections.abc import Iterator

import pytest
from support.service import Service, running_worker


@pytest.fixture
def service(amqp_url: str, mongo_url: str) -> Iterator[Service]:
    """A worker of four partitions on an empty virtual host and an empty database."""
    with running_worker(amqp_url, mongo_url) as service:
        yield service
