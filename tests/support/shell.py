"""The command line, as a shell sees it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

SECRET = "hunter2"

Done = subprocess.CompletedProcess[str]


def environment(**settings: str) -> dict[str, str]:
    """The variables of the tests, without settings of Holdfast and what makes colours; then the given settings."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        own.pop(name, None)
    if "HOLDFAST_CACHE_DIR" in os.environ:
        own["HOLDFAST_CACHE_DIR"] = os.environ["HOLDFAST_CACHE_DIR"]
    return own | {f"HOLDFAST_{name.upper()}": value for name, value in settings.items()}


def passwords(settings: dict[str, str]) -> set[str]:
    return {SECRET} | {found for url in settings.values() for found in re.findall(r"//[^:/@]+:([^@]+)@", url)}


def holdfast(*arguments: str, stdin: str | None = None, **settings: str) -> Done:
    """Run a command. Whatever it is, it shows neither a traceback nor a password nor control codes."""
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", *arguments],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment(**settings),
    )
    shown = done.stdout + done.stderr
    assert "Traceback" not in shown
    assert "\x1b" not in shown
    for secret in passwords(settings):
        assert secret not in shown
    return done


def failed(done: Done, code: int, said: str) -> None:
    """The command failed with this code, nothing on standard output, and one line that says why."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("holdfast: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def in_shell(block: str, amqp_url: str, folder: Path) -> str:
    """Run a block as a shell does, with the command of this tree, and stop at the first that fails."""
    shell = shutil.which("sh")
    assert shell is not None
    return run(shell, "-eu", "-c", block, amqp_url=amqp_url, folder=folder)


def in_python(program: str, amqp_url: str, folder: Path) -> str:
    """Run a program, in which a warning is an error."""
    return run(sys.executable, "-W", "error", "-c", program, amqp_url=amqp_url, folder=folder)


def run(*command: str, amqp_url: str, folder: Path) -> str:
    """Run something that is to succeed, with the command of this tree on its path; gives what it prints."""
    (folder / "bin").mkdir(exist_ok=True)
    script = folder / "bin/holdfast"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m holdfast "$@"\n')
    script.chmod(0o755)
    variables = environment(amqp_url=amqp_url)
    variables |= {"PATH": f"{folder / 'bin'}:{variables['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
