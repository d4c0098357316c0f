"""The examples in the client's pages do what they say, against services in memory."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.client.encryption import Encryption
from holdfast.testing import MemoryService, Service

DOCS = Path(__file__).parents[2] / "docs"
STORES = ["default", "profiles", "carts"]


def blocks(page: str) -> list[str]:
    """The page's programs."""
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


PROGRAMS = [
    pytest.param(block, id=f"{page}-{number}")
    for page in ("client.md", "encryption.md", "entities.md", "values.md", "testing.md")
    for number, block in enumerate(blocks(page))
    if "def test_" not in block
]


def connect(service: Service, url: str, **options: Any) -> holdfast.Client:
    """As ``holdfast.connect``, to a service that has no address."""
    user = re.search(r"//(\w+):", url)
    return service.connect(user=user[1] if user else None, **options)


def connect_sync(service: Service, url: str, **options: Any) -> holdfast.SyncClient:
    """Likewise."""
    return holdfast.SyncClient(connect(service, url, **options))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs_as_it_stands(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a program of a page, when it is run, then all that it asserts holds."""
    with MemoryService(stores=STORES) as service:
        monkeypatch.setattr(holdfast, "connect", partial(connect, service))
        monkeypatch.setattr(holdfast, "connect_sync", partial(connect_sync, service))
        exec(compile(program, "docs", "exec"), {"__name__": "__main__"})  # noqa: S102 - it is our own
        if "MemoryService" not in program:
            assert service.dead_letters == []


def test_the_tests_of_the_testing_page_pass(tmp_path: Path) -> None:
    """Given the page's tests in the files of a user, when pytest runs them, then they pass."""
    tests = [block for block in blocks("testing.md") if "def test_" in block]
    assert len(tests) == 3
    for number, block in enumerate(tests):
        (tmp_path / f"test_page_{number}.py").write_text(block)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "6 passed" in ended.stdout


def test_the_keys_of_the_encryption_page_are_keys(tmp_path: Path) -> None:
    """Given the file of keys on the page, when it is read, then it is one."""
    page = (DOCS / "encryption.md").read_text(encoding="utf-8")
    lines = [line.strip() for line in page.splitlines() if re.match(r"    \d{4}-\d{2} ", line)]
    path = tmp_path / "keys.txt"
    path.write_text("\n".join(lines))
    assert Encryption.from_file(path).primary == "2026-11"
    assert len(lines) == 2
