"""ETags: a version and a hash that ties it to the command that made it."""

import re

from hypothesis import given
from hypothesis import strategies as st

from holdfast.events import make_etag

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def test_known_etags() -> None:
    """The form is part of what clients may keep for long, so it does not change by accident."""
    assert make_etag(1, "a") == "1-ca234c55"
    assert make_etag(12, "0193a7c0-0000-7000-8000-000000000000") == "12-b9277b64"


@given(st.integers(1, 2**63 - 1), ids)
def test_form(version: int, command: str) -> None:
    """``<version>-<8 hex digits>``."""
    assert re.fullmatch(rf"{version}-[0-9a-f]{{8}}", make_etag(version, command))
    assert make_etag(version, command) == make_etag(version, command)


def test_another_command_makes_another_etag() -> None:
    """The same version made by another command, as after a restore from a backup, does not match."""
    assert len({make_etag(4, f"command-{number}") for number in range(1000)}) == 1000
