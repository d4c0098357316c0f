"""docs/history.md: its programs and commands are run as they stand there, and say what the page says."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from support.service import Service
from support.shell import environment

from holdfast.config import read_config
from holdfast.stores import RetentionConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/history.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


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


def test_the_programs_and_commands_of_the_page(service: Service, tmp_path: Path) -> None:
    """Given a running service, when the page's examples are run one after the other, then each does what it says."""
    what_happened, which_keys = blocks("python")
    shell = shutil.which("sh")
    assert shell is not None
    on_history, on_keys, on_purge = ([shell, "-eu", "-c", block] for block in blocks("sh"))

    assert run(sys.executable, "-c", what_happened, service=service, folder=tmp_path) == [
        "1 saved signup holdfast request-1",
        "2 saved rename holdfast None",
        "3 deleted by mistake holdfast None",
        "last: deleted",
        "lately: 3",
        "between: 2 {'name': 'Ada L.'}",
        "version 1: {'name': 'Ada'}",
        "at that time: 1",
        "restored as version 4 {'name': 'Ada L.'}",
    ]
    lines = run(*on_history, service=service, folder=tmp_path)
    assert [line.split()[:2] for line in lines[3:5]] == [["2", "saved"], ["1", "saved"]]
    assert '"version":2' in lines[5]
    assert '"value":{"name":"Grace"}' in lines[6]
    assert lines[7] == "exit code 2: it was absent"
    assert '"version":3,"restored":1' in lines[8]

    assert run(sys.executable, "-c", which_keys, service=service, folder=tmp_path) == [
        "249",
        "['order/000', 'order/001', 'order/002'] order/002",
        "['order/003', 'order/004', 'order/005'] 1",
        "100",
    ]
    lines = run(*on_keys, service=service, folder=tmp_path)
    assert lines[:3] == ["249", "order/248", "order/249"]
    assert lines[3].startswith('{"key":"order/000","etag":"1-')

    lines = run(*on_purge, service=service, folder=tmp_path)
    assert lines[1] == '{"key":"user/44","purged":true}'
    assert [line.split()[:2] for line in lines[3:5]] == [["1", "saved"], ["2", "purged"]]
    assert lines[3].endswith("(erased)")
    assert lines[5] == "exit code 1: erased"


def test_the_configuration_of_the_page(tmp_path: Path) -> None:
    """Given the page's configuration file, when it is read, then it says what the page says."""
    (toml,) = blocks("toml")
    path = tmp_path / "holdfast.toml"
    path.write_text(toml)
    assert read_config(path).stores["default"].retention == RetentionConfig(versions=10, days=30, forget_days=60)
    defaults = RetentionConfig(versions=1)
    assert f"{defaults.forget_days:g} if it is not given, 7 at least" in toml
    assert defaults.interval_seconds == 600
    assert "ten minutes (`interval_seconds`)" in PAGE
