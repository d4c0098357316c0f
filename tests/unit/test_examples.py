"""The how-tos in examples/ do what they say, in memory; tests/integration runs them on real servers."""

import re

import pytest

from examples.howto import dapr, user_grain
from holdfast.testing import Service

USER_GRAIN = """\
welcome back, Ada
welcome back, Ada
Ada has {'apple': 1, 'pear': 2}
the twin is behind: 2-<etag> is there, it knew 1-<etag>
both know Ada Lovelace
the cart is gone; its past is not:
  version 1: {'apple': 1}
  version 2: {'apple': 1, 'pear': 1}
  version 3: {'apple': 1, 'pear': 2}
  version 4: cleared
"""

DAPR = """\
saved and read: {'orderId': 250}
read without waiting for the latest: {'orderId': 250}
deleted: None
conflict: expected 3-<etag>, found 4-<etag> with {'orderId': 2}
conflict: it is not what was to be deleted
conflict: first-write wins, and it has been written
twenty increments at the same time: {'count': 20}
saved: ['a', 'b']
read: {'a': 1, 'b': 2, 'c': None}
deleted: {'a': True, 'b': True, 'c': False}
conflict: operation 2, order_1 is absent
unchanged: [2, 3]
"""


@pytest.mark.holdfast(stores=["default", "profiles", "carts"])
async def test_orleans_user_grain(holdfast_service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a service with both stores, when the tour is made, then it prints what it is about."""
    async with holdfast_service.connect() as client:
        await user_grain.tour(client)
    assert without_hashes(capsys.readouterr().out) == USER_GRAIN


async def test_dapr_how_to(holdfast_service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a service, when the tour is made, then it prints what it is about."""
    async with holdfast_service.connect() as client:
        await dapr.tour(client)
    assert without_hashes(capsys.readouterr().out) == DAPR


def without_hashes(text: str) -> str:
    """The text without the parts of etags that differ from run to run."""
    return re.sub(r"(\d)-[0-9a-f]{8}", r"\1-<etag>", text)
