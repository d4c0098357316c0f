"""Images under the names that compose.yaml and the Dockerfile use, for an engine that can fetch none.

The official images can't be had there, so these are built from a Debian and what else packages provide. They stand in
for what compose.yaml needs of the official ones, no more: other versions, other entry points.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from engine import Engine, base_folder, say

from holdfast.local.provision import find_mongod

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BASE = "holdfast-standin/base"


def build_standins(engine: Engine) -> None:
    """Build them all, as far as they aren't there yet."""
    rootfs = base_folder() / "rootfs.tar"
    if not engine.docker("image", "ls", "-q", BASE).strip():
        engine.docker("import", rootfs, BASE, timeout=300)
    names = image_names()
    with tempfile.TemporaryDirectory(prefix="holdfast-standins-") as folder:
        context = Path(folder)
        for path in (HERE / "standins").iterdir():
            shutil.copy(path, context)
        shutil.copyfile(find_mongod(say), context / "mongod")
        for part in ("python", "rabbitmq", "mongo"):
            say(f"stand-in for {names[part]}")
            file = context / f"{part}.Dockerfile"
            # The host's network: containers of this engine have no way out.
            engine.docker("build", "--network=host", "-q", "-t", names[part], "-f", file, context, timeout=600)


def image_names() -> dict[str, str]:
    """The names that have to be stood in for, from the files that use them."""
    compose = (ROOT / "compose.yaml").read_text()
    names = {part: _only(rf"^    image: ({part}:\S+)$", compose) for part in ("rabbitmq", "mongo")}
    names["python"] = _only(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "deploy/Dockerfile").read_text())
    return names


def build_settings() -> dict[str, str]:
    """Settings for the build in compose.yaml, so that it finds the package index that this machine uses."""
    settings = {"HOLDFAST_BUILD_NETWORK": "host"}
    for name in ("index-url", "extra-index-url"):
        if value := _pip_setting(name):
            settings[f"PIP_{name.upper().replace('-', '_')}"] = value
    return settings


def versions(engine: Engine) -> dict[str, str]:
    """The versions of what is inside the images, whoever made them."""
    names = image_names()
    commands = {
        "rabbitmq": ["rabbitmqctl", "version"],
        "mongo": ["mongod", "--version"],
        "python": ["python", "--version"],
    }
    found = {}
    for part, (program, argument) in commands.items():
        text = engine.docker("run", "--rm", "--network=none", "--entrypoint", program, names[part], argument)
        match = re.search(r"\d+\.\d+\.\d+", text)
        found[part] = match[0] if match else "?"
    return found


def _only(pattern: str, text: str) -> str:
    (name,) = re.findall(pattern, text, re.MULTILINE)
    return str(name)


def _pip_setting(name: str) -> str:
    """What pip on this machine is told by its environment or its configuration files, if anything."""
    for key in (f":env:.{name}", f"global.{name}", f"install.{name}"):
        command = [sys.executable, "-m", "pip", "config", "get", key]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if result.returncode == 0 and result.stdout.strip():
            return result.stdout.strip()
    return ""
