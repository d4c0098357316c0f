"""docs/expiry.md and docs/patch.md: what they show is run as it stands there."""

import re
from pathlib import Path

import pytest
from support.service import Service, running_worker
from support.shell import holdfast, in_python, in_shell

from holdfast.settings import load_settings

ROOT = Path(__file__).parents[2]
#: Comments of a line that say what it prints.
SAID = {
    "expiry": ["1000", "['saved', 'expired']", "3"],
    "patch": [
        "{'visits': 1, 'seconds': 2.5, 'by': {'ada': 1}}",
        "{'name': 'Ada', 'address': {'city': 'London'}, 'langs': ['en']}",
        "test_failed patch[0]",
    ],
}


@pytest.mark.parametrize("page", SAID)
def test_the_examples_of_the_page(service: Service, page: str, tmp_path: Path) -> None:
    """Given a running service, when the page's examples are run, then they do what the page says."""
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    program, *_ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (shell,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    out = in_python(program, service.amqp_url, tmp_path)
    for said in SAID[page]:
        assert said in out
        assert said == "1000" or said in program
    out = in_shell(shell, service.amqp_url, tmp_path)
    lines = [line for line in shell.splitlines() if line.startswith("holdfast")]
    assert len(out.splitlines()) == len(lines)
    if page == "expiry":
        assert "expires_at" in out.splitlines()[1]
    else:
        assert '"value":{"visits":2,"seconds":5.5,"by":{"ada":1}}' in out


def test_a_store_with_a_lifetime_as_the_page_has_it(amqp_url: str, mongo_url: str, tmp_path: Path) -> None:
    """Given a worker with the page's file, when the page's program is run, then it says what its comments say."""
    text = (ROOT / "docs/expiry.md").read_text(encoding="utf-8")
    (toml,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    _, program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "holdfast.toml"
    file.write_text(re.sub(r"mongodb://[^\"]+", mongo_url, toml))
    settings = load_settings(config_file=file)
    with running_worker(
        amqp_url, mongo_url, stores=settings.stores(), lifetimes=settings.worker_options().lifetimes
    ) as service:
        said = re.findall(r"print.*  # (.+)", program)
        assert (
            in_python(program, service.amqp_url, tmp_path).splitlines()
            == said
            == ["1800000", "60000", "{'sessions': 1800}"]
        )
        forever = '[{"op": "save", "key": "k", "value": 1, "ttl_seconds": -1}]'
        commands = ["save k 1", "save k 1 --ttl 9", "save k 1 --ttl forever", f"transact '{forever}'", "restore k 1"]
        out = in_shell("\n".join(f"holdfast {one} --store sessions" for one in commands), amqp_url, tmp_path)
        assert ["expires_at" in line for line in out.splitlines()] == [True, True, False, False, True]
        for ttl in ("0", "-1", "soon", "1.5"):
            refused = holdfast("save", "k", "1", f"--ttl={ttl}", amqp_url=amqp_url)
            assert (refused.returncode, refused.stdout) == (64, "")
            assert "neither a number of seconds, 1 or more, nor 'forever'" in " ".join(refused.stderr.split())
