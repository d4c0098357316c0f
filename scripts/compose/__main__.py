"""`sh scripts/compose-test`: see there."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

from engine import Engine, Failure, engine, say
from load import LOG_SCRIPT, Writers, verify
from stack import Container, Stack
from standins import ROOT, build_standins, image_names, versions

import holdfast
from holdfast.local.ports import free_port

WORKERS = 3
WRITERS = 16
CALM_SECONDS = 4
LIMIT_SECONDS = 600
"""For everything behind the images: starting, the faults, the comparison."""


async def test(stack: Stack) -> bool:
    """The whole test on a stack that is not up yet. Whether it passed."""
    seconds = await asyncio.to_thread(stack.up, WORKERS)
    say(f"up               {WORKERS} workers, all healthy after {seconds:.1f} s")

    await asyncio.to_thread(quick_start, stack)

    async with holdfast.connect(stack.amqp_url) as client:
        writers = Writers(client, WRITERS)
        writers.start()
        await asyncio.sleep(CALM_SECONDS)
        calm = writers.book.total
        if not calm:
            raise Failure("no save was answered in the first seconds")
        slowest = writers.longest_wait(0)
        say(f"load             {WRITERS} writers, {calm / CALM_SECONDS:.0f} saves/s, slowest {slowest:.2f} s")

        workers = await asyncio.to_thread(stack.containers, "worker")
        broker = await asyncio.to_thread(stack.containers, "rabbitmq")
        database = await asyncio.to_thread(stack.containers, "mongo")
        for name, victims in (
            ("a worker", workers[:1]),
            ("all workers", workers),
            ("rabbitmq", broker),
            ("mongo", database),
        ):
            await fault(writers, f"kill {name}", partial(kill, stack, victims))
            for victim in victims:
                await asyncio.to_thread(stack.wait_healthy, victim)
        await fault(writers, "stop a worker", partial(drain, stack, workers[1]))
        await asyncio.to_thread(stack.start, workers[1])
        await fault(writers, "scale to 4", partial(scale, stack, WORKERS + 1))
        await writers.stop()

    # New containers, old volumes: what an upgrade does.
    await asyncio.to_thread(stack.down, volumes=False)
    seconds = await asyncio.to_thread(stack.up, WORKERS)
    say(f"down, up         new containers on the same volumes, healthy after {seconds:.1f} s")

    book = writers.book
    log = await asyncio.to_thread(stack.run_in_worker, LOG_SCRIPT)
    async with holdfast.connect(stack.amqp_url) as client:
        verdict = await verify(client, book, log)
    unknown = sum(map(len, book.unknown.values()))
    refused = sum(map(len, book.not_applied.values()))
    say(f"saves            {book.total} acknowledged, {refused} reported as not applied, {unknown} of unknown outcome")
    say(f"log              {verdict.events} events of {len(book.sent)} keys")
    passed = not book.errors
    for error in book.errors[:10]:
        say(f"unexpected answer: {error}")
    for what, where in verdict.findings.items():
        say(f"{len(where):>16} {what}")
        for place in where[:10]:
            say(f"{'':17}{place}")
        passed = passed and not where
    return passed


def quick_start(stack: Stack) -> None:
    """What docs/deploy.md has people try first."""
    inside = ("exec", "-T", "worker", "holdfast")
    stack.compose(*inside, "save", "greeting", '"hello"')
    answer = stack.compose(*inside, "read", "greeting")
    if "hello" not in answer:
        raise Failure(f"the greeting reads as {answer!r}")
    say("quick start      saved and read with the command line in a worker's container")


async def fault(writers: Writers, name: str, action: Callable[[], tuple[float, str]]) -> None:
    """Do something to the stack under load and say for how long it was felt.

    `action` returns when it was done, and what there is to say about it.
    """
    since, detail = await asyncio.to_thread(action)
    first, last = await writers.outage(since)
    await asyncio.sleep(CALM_SECONDS)
    say(
        f"{name:<16} {detail}; a new save answered after {first:.1f} s, "
        f"by every writer after {last:.1f} s; slowest save {writers.longest_wait(since):.1f} s"
    )


def kill(stack: Stack, victims: list[Container]) -> tuple[float, str]:
    victims = [stack.now(victim) for victim in victims]
    for victim in victims:
        stack.kill_main_process(victim)
    since = time.monotonic()
    for victim in victims:
        stack.wait_restarted(victim)
    return since, f"restarted by policy after {time.monotonic() - since:.1f} s"


def drain(stack: Stack, victim: Container) -> tuple[float, str]:
    since = time.monotonic()
    code = stack.stop(victim)
    seconds = time.monotonic() - since
    if code != 0:
        raise Failure(f"{victim.name} ended with {code} on SIGTERM, after {seconds:.1f} s")
    return since, f"SIGTERM, gone after {seconds:.1f} s with code 0"


def scale(stack: Stack, workers: int) -> tuple[float, str]:
    since = time.monotonic()
    return since, f"healthy after {stack.up(workers):.1f} s"


def main(current: Engine) -> bool:
    say(current.describe())
    if current.standins:
        build_standins(current)
    with tempfile.TemporaryDirectory(prefix="holdfast-compose-") as folder:
        env_file = Path(folder) / "env"
        secrets = subprocess.run(["sh", str(ROOT / "deploy/make-env")], capture_output=True, text=True, check=True)
        env_file.write_text(secrets.stdout)
        stack = Stack(current, env_file, free_port(5672))
        stack.demands_secrets()
        say("worker image")
        stack.build()
        found = versions(current)
        origin = "stand-ins: " if current.standins else ""
        for part, name in image_names().items():
            say(f"{name:<28} {origin}{part} {found[part]}")
        signal.alarm(LIMIT_SECONDS)
        try:
            return asyncio.run(test(stack))
        except Exception:
            signal.alarm(0)
            say(stack.logs())
            raise
        finally:
            signal.alarm(0)
            stack.down(volumes=True)


def _give_up(number: int, _frame: FrameType | None) -> None:
    """Turn a signal into an exception, so that everything started is ended."""
    # Once: a second one must not interrupt the tidying up.
    signal.signal(number, signal.SIG_IGN)
    if number == signal.SIGALRM:
        raise Failure(f"not done after {LIMIT_SECONDS} s")
    raise KeyboardInterrupt


if __name__ == "__main__":
    os.chdir(ROOT)
    # The broker is going to be killed; how the driver of its protocol feels about that is of no interest here.
    for chatty in ("aio_pika", "aiormq"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, _give_up)
    signal.signal(signal.SIGALRM, _give_up)
    try:
        with engine() as chosen:
            good = main(chosen)
    except Failure as failure:
        sys.exit(f"compose-test: {failure}")
    except KeyboardInterrupt:
        sys.exit("compose-test: interrupted")
    say("PASSED" if good else "FAILED")
    sys.exit(0 if good else 1)
