"""The how-tos in examples/, as a reader starts them, on real servers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.testing import ServerService

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("name", "last"), [("user_grain", "version 4: cleared"), ("dapr", "unchanged: [2, 3]")])
def test_a_how_to_on_real_servers(amqp_url: str, mongo_url: str, name: str, last: str) -> None:
    """Given a service, when a how-to is started as it says, then it runs through to its last line."""
    service = ServerService(amqp_url, mongo_url, stores=["default", "profiles", "carts"])
    service.start()
    try:
        ended = subprocess.run(
            [sys.executable, "-m", f"examples.howto.{name}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=ROOT,
            env=os.environ | {"HOLDFAST_AMQP_URL": amqp_url},
        )
    finally:
        service.close()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1].strip() == last
