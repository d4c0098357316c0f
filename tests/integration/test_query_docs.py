"""docs/queries.md and docs/stores.md: their programs and files work as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.service import Service
from support.shell import environment

from holdfast.config import read_config
from holdfast.stores import StoreConfig, StoreType, types

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("queries", "stores")}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def test_the_program_finds_what_it_says(service: Service) -> None:
    """Given a service, when the page's program runs, then it finds who is here, and in that order."""
    (program,) = blocks("queries", "python")
    settings = environment(amqp_url=service.amqp_url)
    done = subprocess.run(
        [sys.executable, "-c", program], env=settings, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    grace, ada, more, names = done.stdout.splitlines()
    assert grace.startswith("user/2 1-")
    assert grace.endswith("{'name': 'Grace', 'address': {'city': 'New York'}}")
    assert ada.startswith("user/1 1-")
    assert more == "more: None looked at every key: True"
    assert names == "['Ada', 'Grace']"


def test_the_commands_are_those_that_there_are(service: Service) -> None:
    """Given a service, when the page's queries run in a shell, then they are understood."""
    commands = [
        line for block in blocks("queries", "sh") for line in block.splitlines() if line.startswith("holdfast q")
    ]
    assert len(commands) == 2
    script = "\n".join(["set -eu", *commands]).replace("holdfast ", f"{sys.executable} -m holdfast ")
    settings = environment(amqp_url=service.amqp_url)
    done = subprocess.run(["sh", "-c", script], env=settings, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert '"scan":true' in done.stdout


@pytest.mark.parametrize(("page", "stores"), [("queries", {"default"}), ("stores", {"default", "carts", "scratch"})])
def test_the_files_can_be_read(tmp_path: Path, page: str, stores: set[str]) -> None:
    """Given the page's file, when a worker reads it, then it has those stores."""
    file = tmp_path / "holdfast.toml"
    file.write_text(blocks(page, "toml")[0])
    config = read_config(file)
    assert set(config.stores) == stores
    for name, store in config.stores.items():
        store.build(name)


def test_the_tables_have_every_setting() -> None:
    """Given the settings that stores have, when the page lists them, then it has them all, and no others."""
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGES["stores"], re.MULTILINE))
    assert rows == set(StoreConfig.model_fields) | set(types.MongoOptions.model_fields)
    assert set(StoreConfig.model_fields) == types.RESERVED


def test_the_package_is_one() -> None:
    """Given the page's module, when it is loaded, then it has a type whose options are checked."""
    (program,) = blocks("stores", "python")
    module: dict[str, object] = {}
    exec(program, module)  # noqa: S102 - it is ours
    store_type = module["store_type"]
    assert isinstance(store_type, StoreType)
    made = store_type.build("notes", store_type.options.model_validate({"path": "/tmp/x"}))
    assert repr(made) == "MemoryStore(name='notes')"
