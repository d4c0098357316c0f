"""Bad input by the million: ``python -m chaos.fuzz``, or ``make fuzz``."""

import asyncio
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from holdfast.local import MongoReplicaSet, RabbitServer, find_mongod, find_rabbitmq

from ..cluster import Cluster
from .aftermath import faults, look, memory, where_it_is
from .campaign import Campaign, Report
from .codec import DisagreementError, mutate_and_check
from .costs import dear_messages, table
from .generate import Generator, Input, Reply, Route

console = Console(highlight=False)
PARTITIONS = 4
#: Seconds between two lines of progress.
INTERVAL = 15.0
#: Of each of the dearest messages, pairs that are sent at the end.
DEAR = 3
#: Seconds between heartbeats of the worker to the broker, fewer than it has by itself.
HEARTBEAT = 4
#: Bodies that the codec begins with.
CORPUS = 400


def main(
    inputs: Annotated[int, typer.Option(min=0, help="Commands and unreadable messages through the queue.")] = 1_000_000,
    codec: Annotated[int, typer.Option(min=0, help="Bodies for the codec alone.")] = 3_000_000,
    seed: Annotated[str, typer.Option(help="Makes the inputs. [default: a random one]")] = "",
    only: Annotated[int, typer.Option(help="Send the one input of this number, and show what comes of it.")] = -1,
) -> None:
    """Send bad input through the real queue of a real service, and compare what comes of it with the protocol page.

    Exit code 0 if nothing is wrong, 1 otherwise.
    """
    seed = seed or secrets.token_hex(4)
    directory = Path("build/fuzz") / seed
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    console.print(f"seed {seed}; everything is in {directory}")
    wrong = False
    if inputs or only >= 0:
        wrong |= not through_the_queue(directory.resolve(), seed, inputs, only)
    if codec and only < 0:
        wrong |= not through_the_codec(directory, seed, codec)
        console.print(table())
    console.print(f"seed {seed}: {'something is wrong' if wrong else 'nothing is wrong'}")
    sys.exit(wrong)


def through_the_queue(directory: Path, seed: str, inputs: int, only: int) -> bool:
    """Give back whether all was as it should be."""
    find_rabbitmq(console.print)
    find_mongod(console.print)
    rabbit, mongo = RabbitServer(directory / "rabbitmq"), MongoReplicaSet(directory / "mongodb", cache_gb=0.5)
    cluster: Cluster | None = None
    try:
        rabbit.start()
        mongo.start()
        cluster = Cluster(directory, rabbit, "/", mongo, "fuzz", partitions=PARTITIONS, heartbeat=HEARTBEAT)
        (worker,) = asyncio.run(cluster.start(1))
        before, began_with = look(worker), memory(worker)

        def on_stuck() -> None:
            for each in where_it_is(cluster, worker):
                console.print(each, markup=False, soft_wrap=True)

        campaign = Campaign(cluster.amqp_url, partitions=PARTITIONS, tell=_tell_wrong, on_stuck=on_stuck)
        generator = Generator(seed, partitions=PARTITIONS, now=time.time_ns() // 1_000_000, user=rabbit.user)
        numbers = [generator.make(only)] if only >= 0 else _until(generator, campaign.report, inputs)
        try:
            report = campaign.run(numbers)
        finally:
            campaign.close()
        found = faults(cluster, worker, before)
        _tell(report)
        if worker.pid == before.pid:
            console.print(f"worker: one process, {began_with >> 20} MiB before and {memory(worker) >> 20} MiB after")
        for each in found:
            _tell_wrong(each)
        return not report.failures and not found
    finally:
        if cluster is not None:
            cluster.stop()
        for server in (rabbit, *mongo.members):
            server.kill()
            shutil.rmtree(server.directory / "data", ignore_errors=True)


def _until(generator: Generator, report: Report, inputs: int) -> Iterator[Input]:
    """As many messages as it takes, with progress."""
    began = told = time.monotonic()
    number = 0
    while report.commands < inputs:
        yield generator.make(number)
        number += 1
        now = time.monotonic()
        if now - told > INTERVAL:
            told = now
            rate = report.commands / (now - began)
            console.print(
                f"{report.commands:,} inputs in {report.inputs:,} messages, {rate:,.0f}/s, "
                f"{len(report.failures)} wrong, {(inputs - report.commands) / rate / 60:.0f} min left"
            )
    # At last what takes a worker longest, all of it at once: heartbeats have to go on.
    for _, body in dear_messages():
        for reply in (Reply.SHARED, Reply.NONE) * DEAR:
            route = Route("holdfast.commands", str(number % PARTITIONS).encode())
            yield Input(number, "dear", body, route, reply)
            number += 1


def _tell_wrong(what: object) -> None:
    console.print("wrong:", what, style="red", markup=False, soft_wrap=True)


def _tell(report: Report) -> None:
    console.print(
        f"{report.commands:,} inputs in {report.inputs:,} messages ({report.body_bytes / 2**20:,.0f} MiB) in "
        f"{report.seconds / 60:.1f} min: {report.answers:,} messages of answers, {report.letters:,} dead letters, "
        f"{report.buried_by_broker:,} of them by the broker; {report.controls:,} ordinary commands answered right"
    )
    for family, count in sorted(report.families.items(), key=lambda each: -each[1]):
        console.print(f"  {count:>9,} {family}")


def through_the_codec(directory: Path, seed: str, runs: int) -> bool:
    """Give back whether all was as it should be. With atheris, where there is one; plainly otherwise."""
    generator = Generator(f"{seed}/codec", partitions=PARTITIONS, now=0, user="nobody")
    bodies = [made.body for number in range(CORPUS) if len((made := generator.make(number)).body) < 4096]
    if find_spec("atheris") is None:
        console.print("atheris is not installed: bodies are changed blindly")
        try:
            mutate_and_check(bodies, seed, runs)
        except DisagreementError as wrong:
            _tell_wrong(wrong)
            return False
        console.print(f"{runs:,} bodies through the codec")
        return True
    corpus = directory / "corpus"
    corpus.mkdir()
    for number, body in enumerate(bodies):
        (corpus / f"{number}").write_bytes(body + b"\0")
    number = int.from_bytes(seed.encode()[:3], "big") or 1
    command = [sys.executable, "-m", "chaos.fuzz.coverage", str(corpus), f"-runs={runs}", f"-seed={number}"]
    command += ["-max_len=4096", "-print_final_stats=1", "-verbosity=0", f"-artifact_prefix={directory}/"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    done = re.search(r"number_of_executed_units: (\d+)", ended.stderr)
    if ended.returncode or done is None:
        _tell_wrong(ended.stdout[-3000:] + ended.stderr[-3000:])
        return False
    console.print(f"{int(done[1]):,} bodies through the codec, guided by coverage")
    return True


if __name__ == "__main__":
    typer.run(main)
