"""A service in memory and a client of it, for tests that want them as they are."""

from collections.abc import AsyncIterator, Iterator

import pytest

import holdfast
from holdfast.testing import MemoryService


@pytest.fixture
def service() -> Iterator[MemoryService]:
    with MemoryService() as service:
        yield service


@pytest.fixture
async def client(service: MemoryService) -> AsyncIterator[holdfast.Client]:
    async with service.connect() as client:
        yield client
