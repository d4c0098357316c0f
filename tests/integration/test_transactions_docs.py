"""docs/transactions.md: its program and its command are run as they stand there, and say what the page says."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
from support.service import Service
from support.shell import environment

from holdfast.events.limits import MAX_OPERATIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/transactions.md").read_text(encoding="utf-8")


def run(*command: str, service: Service, folder: Path) -> list[str]:
    """Run a program with the command of this tree on its path; gives the lines that it prints."""
    (folder / "bin").mkdir(exist_ok=True)
    script = folder / "bin/holdfast"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m holdfast "$@"\n')
    script.chmod(0o755)
    variables = environment(amqp_url=service.amqp_url)
    variables |= {"PATH": f"{folder / 'bin'}:{variables['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_the_examples_of_the_page(service: Service, tmp_path: Path) -> None:
    """Given a running service, when the page's examples are run one after the other, then each does what it says."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (command,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    shell = shutil.which("sh")
    assert shell is not None
    assert run(sys.executable, "-c", program, service=service, folder=tmp_path) == [
        "[('account/ada', 2), ('account/bob', 2), ('account/ada/frozen', 0)]",
        "operation 1, account/ada: etag_mismatch, it is 70",
        "150",
    ]
    saved, checked = map(orjson.loads, run(shell, "-eu", "-c", command, service=service, folder=tmp_path))
    assert (saved["key"], saved["version"], saved["changed"]) == ("account/eve", 1, True)
    assert (checked["key"], checked["version"]) == ("account/ada", 2)


def test_the_numbers_of_the_page() -> None:
    """Given the page's limits, when they are compared with the code's, then they are the same."""
    assert f"At most {MAX_OPERATIONS} steps" in PAGE
    assert "transactionLifetimeLimitSeconds=5" in (ROOT / "compose.yaml").read_text()
