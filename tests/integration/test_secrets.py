"""Passwords in what programs print, log and write when something is wrong, and in what others can see of them."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import holdfast
from holdfast.local import Addresses, LocalStack, MongoReplicaSet, RabbitServer
from holdfast.stores import MongoStore, StoreConfig
from holdfast.worker import WorkerOptions

SECRET = "hunter2"
#: As a careful and as a careless person puts it into a URL.
ENCODED = quote(f"p@{SECRET}/:#?", safe="")
CARELESS = f"p@{SECRET}/:x"
TALKATIVE = {"HOLDFAST_LOG_LEVEL": "DEBUG", "PYTHONASYNCIODEBUG": "1"}


async def run(
    *arguments: str, environment: Mapping[str, str], until: str | None = None, times: int = 1
) -> tuple[int | None, str]:
    """Run Python as a process of its own; gives its exit code and everything that it wrote.

    :param until: stop it by SIGTERM when it has said this so many times.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env={**os.environ, **TALKATIVE, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        async with asyncio.timeout(90):
            while line := (await process.stdout.readline()).decode():
                said.append(line)
                if until is not None and sum(until in each for each in said) == times and until in line:
                    process.send_signal(signal.SIGTERM)
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, "".join(said)


def worker_faults(rabbit: RabbitServer, mongo: MongoReplicaSet) -> dict[str, tuple[dict[str, str], str]]:
    """Environments with which a worker cannot work, and what it says then."""
    good_mongo, good_amqp = mongo.url("secrets"), rabbit.url()
    amqp_place, mongo_place = good_amqp.partition("@")[2], good_mongo.partition("//")[2]
    return {
        "AMQP password": ({"AMQP_URL": f"amqp://ada:{ENCODED}@{amqp_place}", "MONGO_URL": good_mongo}, "session lost"),
        "AMQP away": ({"AMQP_URL": f"amqp://ada:{ENCODED}@127.0.0.1:1/", "MONGO_URL": good_mongo}, "session lost"),
        "AMQP without TLS": (
            {"AMQP_URL": f"amqps://ada:{ENCODED}@{amqp_place}", "MONGO_URL": good_mongo},
            "session lost",
        ),
        "AMQP host": ({"AMQP_URL": f"amqp://ada:{ENCODED}@none.invalid/", "MONGO_URL": good_mongo}, "session lost"),
        "AMQP careless": ({"AMQP_URL": f"amqp://ada:{CARELESS}@{amqp_place}", "MONGO_URL": good_mongo}, ""),
        "Mongo password": ({"AMQP_URL": good_amqp, "MONGO_URL": f"mongodb://ada:{ENCODED}@{mongo_place}"}, ""),
        "Mongo away": ({"AMQP_URL": good_amqp, "MONGO_URL": f"mongodb://ada:{ENCODED}@127.0.0.1:1/x"}, ""),
        "Mongo TLS": ({"AMQP_URL": good_amqp, "MONGO_URL": f"mongodb://ada:{ENCODED}@{mongo_place}&tls=true"}, ""),
        "Mongo host": ({"AMQP_URL": good_amqp, "MONGO_URL": f"mongodb://ada:{ENCODED}@none.invalid/x"}, ""),
        "Mongo careless": ({"AMQP_URL": good_amqp, "MONGO_URL": f"mongodb://ada:{CARELESS}@{mongo_place}"}, ""),
        "Mongo option": ({"AMQP_URL": good_amqp, "MONGO_URL": f"mongodb://ada:{ENCODED}@{mongo_place}&nonsense=1"}, ""),
    }


async def test_a_worker_that_cannot_work_keeps_its_secrets(
    rabbit: RabbitServer, mongo: MongoReplicaSet, tmp_path: Path
) -> None:
    """Given every way in which an address can be wrong, when workers run, most talkative, then none says a password."""
    faults = worker_faults(rabbit, mongo)
    at_once = asyncio.Semaphore(3)

    async def fail(number: int, settings: dict[str, str], said: str) -> str:
        health = tmp_path / f"health-{number}.json"
        environment = {f"HOLDFAST_{name}": value for name, value in settings.items()}
        environment |= {"HOLDFAST_HEALTH_FILE": str(health), "HOLDFAST_PARTITIONS": "1"}
        async with at_once:
            code, output = await run("-m", "holdfast", "worker", environment=environment, until=said or None, times=2)
        assert code == (0 if said else 1), output
        assert said in output
        return output + (health.read_text() if health.exists() else "")

    outputs = await asyncio.gather(*(fail(number, *fault) for number, fault in enumerate(faults.values())))
    for fault, output in zip(faults, outputs, strict=True):
        assert output.strip(), fault
        assert SECRET not in output, (fault, output)
        assert rabbit.password not in output, (fault, output)
        # Whose password it is may be known, if it can be told apart.
        assert "ada:***@" in output or "HOLDFAST_AMQP_URL" in output, (fault, output)


SCRIPT = """
import asyncio, logging, sys, holdfast
logging.basicConfig(level=logging.DEBUG)
async def main():
    client = holdfast.connect(sys.argv[1], timeout=3)
    print(repr(client), client)
    async with client:
        await client.save("k", 1)
asyncio.run(main(), debug=True)
"""


async def test_a_client_that_cannot_connect_keeps_its_secrets(rabbit: RabbitServer) -> None:
    """Given wrong addresses, when a program with all logs and uncaught errors connects, then no password is shown."""
    place = rabbit.url().partition("@")[2]
    addresses = {
        "password": f"amqp://ada:{ENCODED}@{place}",
        "away": f"amqp://ada:{ENCODED}@127.0.0.1:1/",
        "TLS": f"amqps://ada:{ENCODED}@{place}",
        "host": f"amqp://ada:{ENCODED}@none.invalid/",
        "careless": f"amqp://ada:{CARELESS}@{place}",
        "no worker": f"{rabbit.url()}?heartbeat=5",
    }
    told = await asyncio.gather(*(run("-c", SCRIPT, url, environment={}) for url in addresses.values()))
    for fault, (code, output) in zip(addresses, told, strict=True):
        assert code == 1
        assert "Traceback" in output
        assert SECRET not in output, (fault, output)
        assert rabbit.password not in output, (fault, output)


async def test_the_command_line_keeps_its_secrets(rabbit: RabbitServer, tmp_path: Path) -> None:
    """Given wrong addresses, when the command line is used, then its error and its warning show no password."""
    place = rabbit.url().partition("@")[2]
    file = tmp_path / "holdfast.toml"
    file.write_text(f'[stores.default]\nurl = "mongodb://ada:{SECRET}@db"\nspeed = 1\n')
    told = await asyncio.gather(
        run("-m", "holdfast", "read", "k", environment={"HOLDFAST_AMQP_URL": f"amqp://ada:{ENCODED}@{place}"}),
        run("-m", "holdfast", "read", "k", environment={"HOLDFAST_AMQP_URL": f"amqp://ada:{CARELESS}@{place}"}),
        run("-m", "holdfast", "read", "k", environment={"HOLDFAST_AMQP_URL": f"amqp://ada:{ENCODED}@none.invalid/"}),
        run("-m", "holdfast", "worker", environment={"HOLDFAST_CONFIG_FILE": str(file)}),
    )
    for code, output in told:
        assert code == 1, output
        assert SECRET not in output
    warning, error = told[2][1].splitlines()
    assert warning.startswith("holdfast: warning: the connection to none.invalid is not encrypted")
    assert error.startswith("holdfast: cannot connect to amqp://ada:***@none.invalid/")
    assert "warning" not in told[0][1]


async def test_plaintext_is_warned_of_once_and_can_be_meant(mongo: MongoReplicaSet) -> None:
    """Given a broker on another machine without TLS, when a worker starts, then it warns once, unless that is meant."""
    environment = {"HOLDFAST_AMQP_URL": f"amqp://ada:{ENCODED}@mq.invalid/", "HOLDFAST_MONGO_URL": mongo.url("plain")}
    arguments = ("-m", "holdfast", "worker")
    _, loud = await run(*arguments, environment=environment, until="session lost", times=3)
    assert loud.count("the connection to mq.invalid is not encrypted") == 1
    meant = environment | {"HOLDFAST_PLAINTEXT_HOSTS": "other, mq.invalid"}
    _, quiet = await run(*arguments, environment=meant, until="session lost")
    assert "not encrypted" not in quiet


def test_representations_show_no_secret() -> None:
    """Given objects that hold an address, when they are printed, then the password is not in it."""
    amqp, mongo = f"amqp://ada:{SECRET}@localhost/", f"mongodb://ada:{SECRET}@localhost/x"
    shown = [
        WorkerOptions(amqp_url=amqp),
        Addresses(amqp, mongo),
        StoreConfig(url=mongo),
        MongoStore(mongo),
        LocalStack("unused", amqp_url=amqp, mongo_url=mongo),
    ]
    for thing in shown:
        assert SECRET not in f"{thing!r} {thing}", type(thing)


async def test_clients_show_no_secret() -> None:
    """Given a client, when it is printed, then the password is not in it."""
    assert SECRET not in repr(holdfast.connect(f"amqp://ada:{SECRET}@localhost/"))


def test_the_local_stack_shows_its_passwords_to_its_owner_only(rabbit: RabbitServer) -> None:
    """Given a RabbitMQ of our own, when others look at processes and files, then they do not see its password."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_bytes())
        except OSError:  # it has just ended
            continue
    assert len(lines) > 1
    assert not any(rabbit.password.encode() in line for line in lines)
    for file in rabbit.directory.rglob("*"):
        if file.is_file() and rabbit.password.encode() in file.read_bytes():
            assert file.stat().st_mode & 0o077 == 0, file
