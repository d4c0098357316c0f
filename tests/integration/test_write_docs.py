"""docs/expiry.md and docs/patch.md: what they show is run as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.service import Service
from support.shell import environment, in_shell

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
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (shell,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment(amqp_url=service.amqp_url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for said in SAID[page]:
        assert said in done.stdout
        assert said == "1000" or said in program
    out = in_shell(shell, service.amqp_url, tmp_path)
    lines = [line for line in shell.splitlines() if line.startswith("holdfast")]
    assert len(out.splitlines()) == len(lines)
    if page == "expiry":
        assert "expires_at" in out.splitlines()[1]
    else:
        assert '"value":{"visits":2,"seconds":5.5,"by":{"ada":1}}' in out
