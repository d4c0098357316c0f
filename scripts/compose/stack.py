"""The project of compose.yaml, started unchanged, and what is done to it."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import Engine, Failure, say
from standins import ROOT, build_settings

PROJECT = "holdfast-compose-test"
TAG = "compose-test"
UP_SECONDS = 240
HEALTHY_SECONDS = 120


@dataclass(frozen=True)
class Container:
    """What the engine says about a container at the moment."""

    id: str
    name: str
    pid: int
    status: str
    health: str
    exit_code: int
    restarts: int


class Stack:
    """One run of the project, with secrets and a port of its own."""

    def __init__(self, engine: Engine, env_file: Path, port: int) -> None:
        self._engine = engine
        self._env_file = env_file
        self._secrets = dict(line.split("=", 1) for line in env_file.read_text().splitlines() if "=" in line)
        self.amqp_url = f"amqp://holdfast:{self._secrets['RABBITMQ_PASSWORD']}@127.0.0.1:{port}/"
        # What the caller's shell has set for a deployment of theirs would go before the file.
        env = {
            name: value
            for name, value in engine.env.items()
            if not name.startswith(("MONGO_", "RABBITMQ_", "HOLDFAST_", "COMPOSE_"))
        }
        env |= {"HOLDFAST_AMQP_PORT": str(port), "HOLDFAST_VERSION": TAG}
        if engine.standins:
            env |= build_settings()
        self._engine = Engine(env, standins=engine.standins)

    def compose(self, *arguments: str, timeout: float = 120, check: bool = True) -> str:
        project = ("--ansi", "never", "--project-name", PROJECT, "--project-directory", str(ROOT))
        files = ("--file", str(ROOT / "compose.yaml"), "--env-file", str(self._env_file))
        return self._engine.docker("compose", *project, *files, *arguments, timeout=timeout, check=check)

    def demands_secrets(self) -> None:
        """Make sure that no secret can be forgotten: each one left out is a clear refusal, naming it."""
        for name in self._secrets:
            rest = "".join(f"{other}={value}\n" for other, value in self._secrets.items() if other != name)
            incomplete = self._env_file.with_name("incomplete.env")
            incomplete.write_text(rest)
            check: list[str | Path] = [
                "compose",
                "--file",
                ROOT / "compose.yaml",
                "--env-file",
                incomplete,
                "config",
                "--quiet",
            ]
            try:
                self._engine.docker(*check)
            except Failure as refusal:
                if f"required variable {name} is missing" not in str(refusal):
                    raise
            else:
                raise Failure(f"compose.yaml starts without {name}")

    def build(self) -> None:
        self.compose("build", "worker", timeout=600)

    def up(self, workers: int) -> float:
        """`docker compose up --wait`, with so many workers; the seconds that it took."""
        started = time.monotonic()
        self.compose("up", "--detach", "--wait", "--scale", f"worker={workers}", timeout=UP_SECONDS)
        return time.monotonic() - started

    def down(self, *, volumes: bool) -> None:
        """Stop and remove the containers, and the volumes if told so."""
        self.compose("down", "--remove-orphans", *(["--volumes"] if volumes else []), timeout=180)

    def containers(self, service: str) -> list[Container]:
        """The containers of a service, by number, stopped ones too."""
        ids = self.compose("ps", "--all", "--quiet", service).split()
        if not ids:
            return []
        described = json.loads(self._engine.docker("inspect", *ids))
        return sorted(map(_container, described), key=lambda container: container.name)

    def kill_main_process(self, container: Container) -> None:
        """SIGKILL for a container's main process, from outside: what a crash or the OOM killer does.

        Not `docker kill`, which counts as a person's wish, so that the restart policy leaves the container alone.
        """
        cgroup = Path(f"/proc/{container.pid}/cgroup")
        if container.pid and cgroup.exists() and container.id in cgroup.read_text():
            os.kill(container.pid, signal.SIGKILL)
        else:
            # Another machine's process, or a virtual machine's: at least it is killed, and started by us.
            say("  (the engine's processes are out of reach: docker kill, then docker start)")
            self._engine.docker("kill", container.id)
            self._engine.docker("start", container.id)

    def stop(self, container: Container) -> int:
        """SIGTERM, and SIGKILL when compose.yaml's grace period is over; the exit code."""
        self._engine.docker("stop", "--time", "30", container.id)
        return self.now(container).exit_code

    def start(self, container: Container) -> None:
        self._engine.docker("start", container.id)

    def wait_restarted(self, before: Container) -> None:
        """Return once the container runs again as another process; Failure if it doesn't come back."""
        deadline = time.monotonic() + HEALTHY_SECONDS
        while time.monotonic() < deadline:
            now = self.now(before)
            if now.status == "running" and now.pid not in (0, before.pid):
                return
            time.sleep(0.1)
        raise Failure(f"{before.name} was not restarted")

    def wait_healthy(self, container: Container) -> None:
        """Return once the container's health check passes; Failure if it doesn't in time."""
        deadline = time.monotonic() + HEALTHY_SECONDS
        while time.monotonic() < deadline:
            if self.now(container).health == "healthy":
                return
            time.sleep(0.2)
        raise Failure(f"{container.name} did not become healthy")

    def logs(self, lines: int = 25) -> str:
        """The end of every container's log, for a failure's report."""
        return self.compose("logs", "--tail", str(lines), check=False)

    def run_in_worker(self, script: str, timeout: float = 120) -> str:
        """The output of a Python script, run in a fresh container of the workers' image and settings."""
        return self.compose(
            *("run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "worker", "-c", script), timeout=timeout
        )

    def now(self, container: Container) -> Container:
        """The same container as it is at this moment."""
        (described,) = json.loads(self._engine.docker("inspect", container.id))
        return _container(described)


def _container(described: dict[str, Any]) -> Container:
    state = described["State"]
    return Container(
        id=described["Id"],
        name=described["Name"].lstrip("/"),
        pid=state["Pid"],
        status=state["Status"],
        health=state.get("Health", {}).get("Status", "none"),
        exit_code=state["ExitCode"],
        restarts=described["RestartCount"],
    )
