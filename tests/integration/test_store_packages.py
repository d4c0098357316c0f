"""A store that comes with a package: built, installed, certified by the contract suite, and used by a worker."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.shell import Done, environment, failed
from support.shell import holdfast as run_cli

import holdfast
from holdfast import UnknownStoreError, field

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/sqlite_store"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which the example package was built and installed, as pip does it."""
    folder = tmp_path_factory.mktemp("package")
    # Building leaves its traces beside what it builds.
    source = shutil.copytree(EXAMPLE, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(folder / "installed"), str(source)]
    subprocess.run(command, check=True, timeout=100)
    return folder / "installed"


def certify(folder: Path, installed: Path, *arguments: str) -> Done:
    """Run pytest in a directory of somebody else's, who has no settings for it."""
    path = os.pathsep.join([str(installed), str(folder)])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", *arguments],
        cwd=folder,
        env=environment() | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_the_example_is_certified(installed: Path, tmp_path: Path) -> None:
    """Given the installed package, when its type is certified, then it passes, and the report says what it lacks."""
    (command,) = re.findall(r"^pytest (.*)$", (EXAMPLE / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    plugin, _, rest = command.partition(" --holdfast-store ")
    kind, _, options = rest.partition(" --holdfast-options ")
    done = certify(
        tmp_path, installed, *plugin.split(), "--holdfast-store", kind, "--holdfast-options", options.strip("'")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed, skipped = re.findall(r"(\d+) (?:passed|skipped)", done.stdout)
    assert int(passed) > 200
    # All that is skipped belongs to what it does not offer.
    assert 0 < int(skipped) < int(passed) / 3
    assert "holdfast contract: indexes: not offered" in done.stdout


BROKEN = """
import pytest
from holdfast.contract import MakeStore
from holdfast.contract.suite.test_append import *
from holdfast.contract.suite.test_life import *
from holdfast.contract.suite.test_reads import *
from holdfast.stores import Appended, MemoryStore, Outcome

class Broken(MemoryStore):
    fault = ""

    async def append(self, records):
        appended = await super().append(records)
        if self.fault == "forgets ids":
            self._by_id.clear()
        if self.fault == "forgets a key":
            self._by_key.pop("b", None)
        if self.fault == "closes":
            self._open = False
        if self.fault == "says yes":
            return Appended([Outcome.APPENDED] * len(records), await self.fence())
        return appended

@pytest.fixture(params=["", "forgets ids", "forgets a key", "closes", "says yes"])
def make_store(request) -> MakeStore:
    def make(name):
        store = Broken(name=name)
        store.fault = request.param
        return store
    return make
"""


def test_stores_that_break_the_contract_fail(installed: Path, tmp_path: Path) -> None:
    """Given a package's own tests with the suite in them, when its store breaks a rule, then a test says which."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["holdfast.contract"]\n')
    (tmp_path / "test_mine.py").write_text(BROKEN)
    done = certify(tmp_path, installed, "-rf", "--tb=no")
    assert done.returncode == 1, done.stdout + done.stderr
    found = set(re.findall(r"^FAILED test_mine\.py::(\w+)\[(.*?)\]", done.stdout, re.MULTILINE))
    assert {
        ("test_one_winner_per_id", "forgets ids"),
        ("test_one_winner_per_version", "says yes"),
        ("test_opened_by_many_at_once", "closes"),
    } <= found
    assert any("forgets a key" in fault for _, fault in found)
    assert not any(fault == "" for _, fault in found)


@contextmanager
def worker(installed: Path, config: Path, amqp_url: str) -> Iterator[None]:
    """A worker of its own process, with this configuration."""
    health = config.with_name("health.json")
    settings = environment(amqp_url=amqp_url, config_file=str(config), partitions="4", health_file=str(health))
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "worker"],
        env=settings | {"PYTHONPATH": str(installed)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if " is ready" in line:
                break
        else:
            pytest.fail("the worker ended before it was ready")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


async def test_a_worker_on_several_stores(installed: Path, amqp_url: str, mongo_url: str, tmp_path: Path) -> None:
    """Given stores of three types in one file, when commands name them, then each is kept in its own."""
    config = tmp_path / "holdfast.toml"
    config.write_text(
        f'[stores.default]\nurl = "{mongo_url}"\nindexes = ["n"]\n'
        f'[stores.notes]\ntype = "sqlite"\npath = "{tmp_path}/notes.db"\n'
        '[stores.scratch]\ntype = "memory"\n'
    )
    for generation in (1, 2):
        with worker(installed, config, amqp_url):
            async with holdfast.connect(amqp_url) as client:
                assert (await client.describe()).stores == ("default", "notes", "scratch")
                for store in ("default", "notes", "scratch"):
                    version = 1 if store == "scratch" else generation
                    saved = await client.save("k", {"n": generation, "store": store}, store=store)
                    assert saved.version == version
                    assert await client.read("k", store=store) == saved
                    assert len(await client.history("k", store=store)) == version
                    found = [entry async for entry in client.iter_query(field("n").gte(1), store=store)]
                    assert [entry.value["store"] for entry in found] in ([store], [])
                page = await client.query(field("n").gte(1), store="notes")
                assert page.scan
                assert len(page.entries) == 1
                for call in (client.save("k", 1, store="nowhere"), client.read("k", store="nowhere")):
                    with pytest.raises(UnknownStoreError, match="no store 'nowhere' is configured"):
                        await call


def test_a_store_that_does_not_open_stops_the_worker(
    installed: Path, amqp_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a file that cannot be opened, or is no database, when a worker starts, then one line names the store."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    config = tmp_path / "holdfast.toml"
    (tmp_path / "text.db").write_text("this is no database" * 100)
    for path, said in (("none/notes.db", "unable to open"), ("text.db", "not a database")):
        config.write_text(
            f'[stores.default]\ntype = "memory"\n[stores.notes]\ntype = "sqlite"\npath = "{tmp_path}/{path}"\n'
        )
        done = run_cli("worker", amqp_url=amqp_url, config_file=str(config))
        failed(done, 1, "store 'notes': ")
        assert said in done.stderr
