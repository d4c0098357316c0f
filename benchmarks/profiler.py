"""py-spy on the worker and on the client, while saves run that are not counted."""

import asyncio
import sys
from pathlib import Path

from .bench import HOLDFAST, Bench
from .process import SideFailedError

#: Samples per second.
_RATE = 250
#: Formats, and what their files are called. One at a time: two would get into each other's way.
_FORMATS = {"raw": "txt", "flamegraph": "svg"}
_SECONDS = 8


def estimate_profile() -> float:
    """Seconds, about."""
    return len(_FORMATS) * (_SECONDS + 2)


async def profile_saves(bench: Bench, output: Path) -> list[Path]:
    """Write ``profile-worker`` and ``profile-client`` in each format. The files written."""
    plan = bench.plan
    await bench.fill(HOLDFAST, "save", plan.keys)
    client = await bench.side(HOLDFAST)
    processes = {"worker": bench.servers.worker_pid, "client": client.pid}
    written: list[Path] = []
    for form, suffix in _FORMATS.items():
        bench.display.now(f"profiling, {form}")
        load = asyncio.ensure_future(
            client.measure("save", in_flight=plan.in_flight, seconds=_SECONDS + 2.0, prefix="save", keys=plan.keys)
        )
        try:
            files = {name: output / f"profile-{name}.{suffix}" for name in processes}
            await asyncio.gather(*(_record(pid, form, files[name]) for name, pid in processes.items()))
        finally:
            await load
        written += files.values()
        bench.display.advance(_SECONDS + 2)
    return written


async def _record(pid: int, form: str, file: Path) -> None:
    command = [str(Path(sys.executable).with_name("py-spy")), "record", "--duration", str(_SECONDS)]
    # What waits is not of interest, and on some machines not told apart from what works: only who has the GIL counts.
    command += ["--gil", "--rate", str(_RATE), "--format", form, "--output", str(file), "--pid", str(pid)]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_SECONDS + 60):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        words = errors.decode(errors="replace").strip().splitlines()
        raise SideFailedError(f"py-spy failed: {words[-1] if words else f'exit code {process.returncode}'}")
