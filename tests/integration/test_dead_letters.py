"""Dead letters on a real broker: whatever is done to them, and whoever dies doing it, none is lost."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pika  # type: ignore[import-untyped]
import pytest
from support.accounts import OPERATOR, Accounts
from support.service import Service, running_worker
from support.shell import SECRET, Done, environment, failed, holdfast

import holdfast as product
from holdfast.dead import Filter, Named, Replayer, open_dead_letters, open_sender, replay_letters
from holdfast.events.topology import DEAD, DEAD_ARGUMENTS
from holdfast.local import RabbitServer


class Graveyard:
    """The dead letter queue of a virtual host, with letters as workers bury them, and the command line."""

    def __init__(self, amqp_url: str, arguments: Any = DEAD_ARGUMENTS) -> None:
        self.amqp_url = amqp_url
        self.connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.channel.queue_declare(DEAD, durable=True, arguments=arguments)
        self._buried = 0

    def bury(self, body: Any, *, reason: str = "internal", **headers: Any) -> str:
        """Put a letter there, and give its id."""
        self._buried += 1
        letter = f"{self._buried:016x}"
        told = {"letter": letter, "reason": reason, "detail": "why", "time": int(time.time() * 1000)} | headers
        self.channel.basic_publish(
            "",
            DEAD,
            body if isinstance(body, bytes) else orjson.dumps(body),
            pika.BasicProperties(
                delivery_mode=2,
                headers={f"x-holdfast-{name.replace('_', '-')}": value for name, value in told.items()},
            ),
            mandatory=True,
        )
        return letter

    def depth(self) -> int:
        """How many letters nobody has in hand."""
        count: int = self.channel.queue_declare(DEAD, passive=True).method.message_count
        return count

    def until(self, depth: int) -> None:
        """Wait until so many letters are there."""
        ends = time.monotonic() + 30
        while (found := self.depth()) != depth:
            assert time.monotonic() < ends, f"{found} letters, not {depth}"
            self.connection.process_data_events(0.02)

    def cli(self, *arguments: str, **options: Any) -> Done:
        """Run `holdfast dead`."""
        return holdfast("dead", *arguments, **({"amqp_url": self.amqp_url} | options))

    async def look(self) -> list[dict[str, Any]]:
        """The letters, as a list shows them."""
        async with open_dead_letters(self.amqp_url, timeout=60) as queue:
            return [held.letter.summary() async for page in queue.pages() for held in page]

    def letters(self) -> list[dict[str, Any]]:
        """The same, where nothing else runs."""
        return asyncio.run(self.look())

    def ids(self) -> list[str]:
        """The ids of all letters."""
        return [letter["letter"] for letter in self.letters()]

    def listed(self, *arguments: str) -> list[str]:
        """The ids of the letters that the command line lists."""
        done = self.cli("list", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return [json.loads(line)["letter"] for line in done.stdout.splitlines()]

    def replay(self, wanted: Filter | Named | None = None, *, force: bool = False) -> dict[str | None, str]:
        """Replay letters, all of them unless it is said which, and give what became of each command."""
        outcomes: dict[str | None, str] = {}

        async def replay() -> None:
            async with (
                open_dead_letters(self.amqp_url, timeout=60) as queue,
                open_sender(self.amqp_url, timeout=60) as sender,
            ):
                await replay_letters(
                    queue,
                    Replayer(sender, force=force),
                    wanted or Filter(),
                    told=lambda outcome: outcomes.update({outcome.id: outcome.status}),
                )

        asyncio.run(replay())
        return outcomes


@pytest.fixture
def graveyard(amqp_url: str) -> Iterator[Graveyard]:
    """A dead letter queue without a worker."""
    made = Graveyard(amqp_url)
    yield made
    made.connection.close()


@pytest.fixture
def alive(service: Service) -> Iterator[Graveyard]:
    """The dead letter queue of a running service."""
    made = Graveyard(service.amqp_url)
    yield made
    made.connection.close()


def save(number: int | str, key: str = "k", value: Any = 1, **fields: Any) -> dict[str, Any]:
    """A save that was sent a minute ago."""
    sent_at = int(time.time() * 1000) - 60_000
    return {"op": "save", "id": f"id-{number}", "key": key, "value": value, "sent_at": sent_at, **fields}


async def history(amqp_url: str, key: str) -> list[product.HistoryEntry]:
    async with product.connect(amqp_url, timeout=30) as client:
        return list(await client.history(key))


# Looking at letters.


async def test_looking_at_letters_does_not_use_them_up(graveyard: Graveyard) -> None:
    """Given letters, when they are looked at thirty times, then all are there, in their order.

    RabbitMQ 4 drops what was delivered more than twenty times unless the queue says otherwise.
    """
    buried = [graveyard.bury(save(number)) for number in range(250)]
    for _ in range(30):
        async with open_dead_letters(graveyard.amqp_url) as queue:
            assert queue.count == 250
            assert [held.letter.id async for page in queue.pages() for held in page] == buried
    assert graveyard.depth() == 250


def test_a_list_shows_what_is_there(graveyard: Graveyard) -> None:
    """Given letters, when they are listed, then each is a line with what an operator has to know, in the order."""
    first = graveyard.bury(save(1, "user/42"), author="ada", time=1_768_471_200_123)
    second = graveyard.bury([save(2, "cart/1", store="carts"), save(3)], reason="poison", detail="it kills\nworkers")
    third = graveyard.bury(b"\xff\x1b[31m", reason="malformed")
    done = graveyard.cli("list")
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["letter", "op", "key", "store", "reason", "buried", "author", "size", "detail"]
    size = str(len(orjson.dumps(save(1, "user/42"))))
    moment = "2026-01-15T10:00:00.123Z"
    assert rows[0].split() == [first, "save", "user/42", "default", "internal", moment, "ada", size, "why"]
    assert rows[1].split()[:5] == [second, "save+1", "cart/1", "carts", "poison"]
    assert rows[1].endswith("it kills\\nworkers")
    assert rows[2].split()[:3] == [third, "?", "malformed"]

    lines = graveyard.cli("list", "--json").stdout.splitlines()
    assert [json.loads(line)["letter"] for line in lines] == [first, second, third]
    assert json.loads(lines[0]) == {
        "letter": first,
        "reason": "internal",
        "detail": "why",
        "time": 1_768_471_200_123,
        "author": "ada",
        "size": int(size),
        "commands": 1,
        "id": "id-1",
        "op": "save",
        "store": "default",
        "key": "user/42",
    }


def test_a_list_of_some(graveyard: Graveyard) -> None:
    """Given letters of several kinds, when some are asked for, then only those are listed, and no more than asked."""
    internal = [graveyard.bury(save(number, f"user/{number}")) for number in range(5)]
    other = graveyard.bury({"op": "delete", "id": "d", "key": "cart/1"}, reason="poison")
    assert graveyard.listed("--limit", "0") == [*internal, other]
    assert graveyard.listed("--key", "cart/") == [other]
    assert graveyard.listed("--op", "delete", "--store", "default") == [other]
    assert graveyard.listed("--reason", "none") == []
    assert graveyard.listed("--limit", "2", "--reason", "internal") == internal[:2]
    assert "2 shown; 6 letters are in the queue" in graveyard.cli("list", "--limit", "2").stderr
    assert graveyard.depth() == 6


def test_an_empty_list(graveyard: Graveyard) -> None:
    """Given no letters, when they are listed, then nothing is printed."""
    done = graveyard.cli("list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_list_of_many_large_letters_takes_little_memory(graveyard: Graveyard) -> None:
    """Given 300 MB of letters, when all are listed, then no more than a few pages of them are in memory at a time."""
    body = orjson.dumps(save(1, value="x" * 1_000_000))
    for _ in range(300):
        graveyard.bury(body)
    code = (
        "import sys; from pathlib import Path; from holdfast.cli import main\n"
        "try: main()\n"
        # Not getrusage: that begins with what the parent had when it forked.
        "finally: print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "dead", "list", "--json", "--limit", "0"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment(amqp_url=graveyard.amqp_url),
    )
    assert len(done.stdout.splitlines()) == 300
    assert int(done.stderr.split()[-1]) < 200 * 1024
    assert graveyard.depth() == 300


def test_everything_of_one_letter(graveyard: Graveyard) -> None:
    """Given a letter, when it is shown, then with all that is known of it, and its body in a form to be read."""
    letter = graveyard.bury(
        save(1, value={"a": [1]}),
        author="ada",
        queue="holdfast.commands.3",
        deliveries=2,
        message_id="m-1",
        reply_to="r",
    )
    for name in (letter, letter[:12] + letter[12:15], "id-1"):
        shown = graveyard.cli("show", name)
        assert shown.returncode == 0, shown.stderr
    words = [line.split(maxsplit=1) for line in shown.stdout.splitlines() if line]
    for line in (["letter", letter], ["author", "ada"], ["queue", "holdfast.commands.3"], ["deliveries", "2"]):
        assert line in words
    assert ["header", "x-holdfast-message-id: m-1"] in words
    assert '  "value": {\n    "a": [\n      1\n    ]\n  }' in shown.stdout

    record = json.loads(graveyard.cli("show", letter, "--json").stdout)
    assert json.loads(record["body"])["id"] == "id-1"
    assert (record["reply_to"], record["message_id"]) == ("r", "m-1")
    assert record["headers"]["x-holdfast-letter"] == letter


def test_a_body_that_is_no_text(graveyard: Graveyard) -> None:
    """Given a letter of any bytes, when it is shown, then they come out one by one, and none of them as an order."""
    letter = graveyard.bury(b"\xff\x00abc\x1b[31m" + bytes(16))
    shown = graveyard.cli("show", letter)
    assert "00000000  ff 00 61 62 63 1b 5b 33 31 6d 00 00 00 00 00 00  ..abc.[31m......" in shown.stdout
    text = graveyard.bury("no JSON\n\x1b[31m ü".encode())
    assert "no JSON\n\\x1b[31m ü" in graveyard.cli("show", text).stdout


def test_names_that_fit_none_or_several(graveyard: Graveyard) -> None:
    """Given letters, when a name fits none or several, then that is said, with a code of its own, and nothing done."""
    graveyard.bury(save(1))
    graveyard.bury(save(2))
    failed(graveyard.cli("show", "nothing"), 2, "there is no dead letter 'nothing'")
    failed(graveyard.cli("show", "0000000000"), 1, "fits more than one dead letter")
    failed(graveyard.cli("discard", "id-1", "0000", "--yes"), 1, "fits more than one dead letter")
    failed(graveyard.cli("discard", "id-1", "nothing", "--yes"), 2, "there is no dead letter 'nothing'")
    assert graveyard.depth() == 2


# Several at once.


async def test_two_readers_take_turns(graveyard: Graveyard) -> None:
    """Given two who list the letters at once, when both are done, then each has seen all of them, in their order."""
    buried = [graveyard.bury(save(number)) for number in range(300)]

    for letters in await asyncio.gather(*(graveyard.look() for _ in range(4))):
        assert [letter["letter"] for letter in letters] == buried
    assert graveyard.depth() == 300


async def test_who_reads_while_another_reads_is_told(graveyard: Graveyard) -> None:
    """Given somebody who keeps letters in hand, when they are listed, then nobody is shown a part for the whole."""
    graveyard.bury(save(1))
    async with open_dead_letters(graveyard.amqp_url) as queue:
        async for _ in queue.pages():
            done = await asyncio.to_thread(graveyard.cli, "list", "--timeout", "0.5")
            failed(done, 1, "somebody else is reading the dead letters")
    assert len(await graveyard.look()) == 1


def test_letters_that_something_else_has_in_hand(graveyard: Graveyard) -> None:
    """Given a letter that is taken while they are listed, when it does not come, then the list is not called whole."""
    for number in range(30):
        graveyard.bury(save(number))
    code = (
        "import sys, holdfast.dead.queue as queue\n"
        "queue.PATIENCE = 0.5\n"
        "real = queue.DeadLetterQueue._page\n"
        "async def page(self, size):\n"
        "    if self._pages:\n"
        "        print('first', file=sys.stderr, flush=True); sys.stdin.readline()\n"
        "    return await real(self, size)\n"
        "queue.DeadLetterQueue._page = page\n"
        "from holdfast.cli import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "dead", "list"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(amqp_url=graveyard.amqp_url),
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "first\n"
            taken, _, _ = graveyard.channel.basic_get(DEAD)
            _, said = process.communicate("go on\ngo on\ngo on\n", timeout=60)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "what was shown may not be all" in said
    graveyard.channel.basic_nack(taken.delivery_tag)
    graveyard.until(30)


# Replaying.


def test_a_replay_applies_a_command_and_removes_its_letter(alive: Graveyard) -> None:
    """Given a letter that can be processed now, when it is replayed, then its command is applied, and it is gone."""
    alive.bury(save(1, value="replayed"))
    alive.bury(save(2, "other"))
    done = alive.cli("replay", "id-1")
    assert (done.returncode, done.stderr) == (0, "1 done, 0 failed\n")
    assert done.stdout.split()[1:] == ["ok", "save", "default/k", "version", "1"]
    assert [letter["id"] for letter in alive.letters()] == ["id-2"]
    (event,) = asyncio.run(history(alive.amqp_url, "k"))
    assert (event.id, event.value) == ("id-1", "replayed")


def test_what_fails_again_stays_where_it_is_and_once(alive: Graveyard) -> None:
    """Given letters of which some fail again, when all are replayed, twice, then those that fail are there, once."""
    nowhere = alive.bury(save(1, store="nowhere", concurrency="first-write"), reason="unknown_store")
    bad = alive.bury(b"no JSON", reason="malformed")
    alive.bury(save(2, "done"))
    large = alive.bury(save(3, "large", "x" * (1024 * 1024 + 1)), reason="too_large")
    assert alive.replay() == {"id-1": "unknown_store", None: "refused", "id-2": "ok", "id-3": "too_large"}
    assert alive.replay() == {"id-1": "unknown_store", None: "refused", "id-3": "too_large"}
    assert alive.ids() == [nowhere, bad, large]


def test_outcomes_as_json(alive: Graveyard) -> None:
    """Given letters, when they are replayed with --json, then each command is an object, and the code is the same."""
    alive.bury(save(1))
    letter = alive.bury(b"no JSON")
    done = alive.cli("replay", "--all", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    refused, ok = [json.loads(line) for line in done.stdout.splitlines()]
    assert (refused["letter"], refused["status"], refused["id"]) == (letter, "refused", None)
    assert (ok["id"], ok["status"], ok["key"], ok["note"]) == ("id-1", "ok", "k", "version 1")


def test_all_of_one_kind(alive: Graveyard) -> None:
    """Given letters of several kinds, when those of one are replayed, then the others stay."""
    alive.bury(save(1, "a/1"), reason="queue_full")
    kept = alive.bury(save(2, "b/1"), reason="queue_full")
    other = alive.bury(save(3, "a/2"))
    assert alive.cli("replay", "--all", "--reason", "queue_full", "--key", "a/").stderr == "1 done, 0 failed\n"
    assert alive.ids() == [kept, other]
    assert alive.replay(Filter(reason="nothing")) == {}


def test_a_newer_state_is_not_overwritten(alive: Graveyard) -> None:
    """Given a save that became a letter, when its key was saved or deleted since, then only --force undoes that."""
    for key in ("saved", "deleted"):
        alive.bury(save(key, key, "stale"))

    async def values(*changes: Any) -> list[Any]:
        async with product.connect(alive.amqp_url, timeout=60) as client:
            for change in changes:
                await change(client)
            found = await client.read_many(["saved", "deleted"])
            return [entry and entry.value for entry in found.values()]

    newer = asyncio.run(
        values(
            lambda client: client.save_many({"saved": "newer", "deleted": "newer"}),
            lambda client: client.delete("deleted"),
        )
    )
    done = alive.cli("replay", "--all")
    assert (done.returncode, done.stderr) == (1, "0 done, 2 failed\n")
    assert done.stdout.count("  newer  ") == 2
    assert done.stdout.count("came after this was sent; --force overwrites it") == 2
    assert asyncio.run(values()) == newer == ["newer", None]
    assert alive.cli("replay", "--all", "--force").returncode == 0
    assert alive.letters() == []
    assert asyncio.run(values()) == ["stale", "stale"]


def test_the_senders_own_retry_still_gets_its_answer(alive: Graveyard) -> None:
    """Given a command that was replayed, when its sender sends it again, then it is the same command."""
    command = save("mine", value="replayed")
    alive.bury(command, author=None)
    assert alive.replay(Named(["id-mine"])) == {"id-mine": "ok"}
    answers: list[Any] = []
    channel = alive.channel
    channel.basic_consume("amq.rabbitmq.reply-to", lambda *given: answers.append(json.loads(given[-1])), auto_ack=True)
    again = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")
    channel.basic_publish("holdfast.commands", "k", json.dumps(command).encode(), again)
    while not answers:
        alive.connection.process_data_events(0.1)
    assert (answers[0]["status"], answers[0]["version"]) == ("ok", 1)


def test_many_letters_of_many_keys_are_replayed_in_order(alive: Graveyard) -> None:
    """Given hundreds of letters, when all are replayed, then each is applied once, and on each key in its order."""
    for number in range(350):
        alive.bury(save(number, f"k{number % 7}", number))
    outcomes = alive.replay()
    assert set(outcomes.values()) == {"ok"}
    assert len(outcomes) == 350
    assert alive.letters() == []
    for key in range(7):
        events = asyncio.run(history(alive.amqp_url, f"k{key}"))
        assert [event.value for event in events] == list(range(key, 350, 7))


# Names.


@pytest.fixture
def accounts(rabbit: RabbitServer, amqp_vhost: str) -> Iterator[Accounts]:
    """Users of the virtual host."""
    made = Accounts(rabbit, amqp_vhost)
    yield made
    made.remove()


def test_a_command_is_sent_in_its_authors_name_or_not_at_all(
    alive: Graveyard, accounts: Accounts, rabbit: RabbitServer
) -> None:
    """Given a letter of another user, when the operator may not name him, then it is not sent, but in his own name."""
    operator = f"operator-{accounts.vhost}"
    url = accounts.add(operator, OPERATOR)
    adas = [alive.bury(save(number, f"k{number}"), author="ada") for number in range(20)]
    alive.bury(save("own", "own"), author=operator)
    alive.bury(save("nobodys", "nobodys"))

    done = alive.cli("replay", "--all", amqp_url=url)
    assert (done.returncode, done.stderr) == (1, "2 done, 20 failed\n")
    assert done.stdout.count(f"does not let '{operator}' send in the name of 'ada'") == 20
    assert "--as-me" in done.stdout
    assert alive.ids() == adas
    assert [asyncio.run(history(alive.amqp_url, key))[0].author for key in ("own", "nobodys")] == [operator, None]

    assert alive.cli("replay", "id-0", "--as-me", amqp_url=url).returncode == 0
    rabbit.ctl("set_user_tags", operator, "impersonator")
    assert alive.cli("replay", "id-1", amqp_url=url).returncode == 0
    assert [asyncio.run(history(alive.amqp_url, key))[0].author for key in ("k0", "k1")] == [operator, "ada"]
    assert alive.ids() == adas[2:]


def test_users_without_the_rights_are_told_what_they_lack(graveyard: Graveyard, accounts: Accounts) -> None:
    """Given users who may not read the letters, or not send commands, when they try, then that is said in one line."""
    graveyard.bury(save(1))
    nobody = accounts.add(f"nobody-{accounts.vhost}", ("", "", ""))
    failed(graveyard.cli("list", amqp_url=nobody), 1, "it needs to read the queue holdfast.dead")
    reader = accounts.add(f"reader-{accounts.vhost}", (OPERATOR[0], "", OPERATOR[2]))
    assert graveyard.cli("list", amqp_url=reader).returncode == 0
    graveyard.channel.exchange_declare("holdfast.commands", "direct", durable=True)
    failed(graveyard.cli("replay", "--all", amqp_url=reader), 1, "it needs to write to holdfast.commands")
    assert graveyard.depth() == 1


# Discarding.


def test_discarded_letters_are_printed_and_saved(graveyard: Graveyard, tmp_path: Path) -> None:
    """Given letters, when some are discarded, then those are gone and no others, and all of them is in the file."""
    first, second, third = (graveyard.bury(save(number)) for number in range(3))
    binary = graveyard.bury(b"\xff", reason="malformed")
    file = tmp_path / "letters.jsonl"
    done = graveyard.cli("discard", first, "id-1", "--yes", "--save", str(file))
    assert (done.returncode, done.stderr) == (0, "2 discarded\n")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [first, second]
    assert graveyard.ids() == [third, binary]
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(record["letter"], json.loads(record["body"])["id"]) for record in records] == [
        (first, "id-0"),
        (second, "id-1"),
    ]
    again = graveyard.cli("discard", "--all", "--yes", "--save", str(file))
    assert (again.returncode, "File exists" in again.stderr) == (1, True)
    assert graveyard.depth() == 2
    assert graveyard.cli("discard", "--all", "--reason", "malformed", "--yes").returncode == 0
    assert graveyard.ids() == [third]


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 2), ("\n", 1, 2), ("", 130, 2)])
def test_it_is_asked_before(graveyard: Graveyard, answer: str, code: int, left: int) -> None:
    """Given two letters, when they are to be discarded, then they are kept unless somebody says yes."""
    graveyard.bury(save(1))
    graveyard.bury(save(2))
    done = graveyard.cli("discard", "--all", stdin=answer)
    assert done.returncode == code
    assert "Discard 2 letters for good?" in done.stderr
    assert graveyard.depth() == left


def test_what_has_come_since_it_was_asked_is_not_discarded(graveyard: Graveyard) -> None:
    """Given a letter that is buried while the operator thinks, when he says yes, then it stays."""
    graveyard.bury(save(1))
    with subprocess.Popen(
        [sys.executable, "-m", "holdfast", "dead", "discard", "--all"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(amqp_url=graveyard.amqp_url),
    ) as process:
        try:
            assert process.stderr is not None
            asked = ""
            while "1 letter for good?" not in asked:
                asked += process.stderr.read(1)
            late = graveyard.bury(save(2))
            process.communicate("y\n", timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert graveyard.ids() == [late]


def test_nothing_to_discard(graveyard: Graveyard) -> None:
    """Given no letter that fits, when they are discarded, then nobody is asked anything."""
    done = graveyard.cli("discard", "--all")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "there is nothing to discard\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay"],
        ["discard"],
        ["replay", "--reason", "internal"],
        ["discard", "id-1", "--all"],
        ["discard", "id-1", "--op", "save"],
        ["show"],
        ["bury"],
    ],
)
def test_wrong_arguments(graveyard: Graveyard, arguments: list[str]) -> None:
    """Given arguments that could mean too much, when a command runs, then usage is shown and nothing is done."""
    graveyard.bury(save(1))
    done = graveyard.cli(*arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert "Error: " in done.stderr
    assert graveyard.depth() == 1


# Whoever dies in the middle of it.

DYING = """
import os, sys
import holdfast.dead.queue, holdfast.dead.sender
owner, name, when = sys.argv.pop(1), sys.argv.pop(1), sys.argv.pop(1)
owner = {"queue": holdfast.dead.queue.DeadLetterQueue, "sender": holdfast.dead.sender.Sender}[owner]
real = getattr(owner, name)
async def dying(self, *arguments, **options):
    described = arguments and isinstance(arguments[0], dict) and arguments[0]["op"] != "save"
    if when == "before" and not described:
        os._exit(9)
    result = await real(self, *arguments, **options)
    if not described:
        os._exit(9)
    return result
setattr(owner, name, dying)
from holdfast.cli import main
main()
"""


def die(graveyard: Graveyard, where: str, *arguments: str) -> None:
    """Run a command that is ended, as by SIGKILL, at a step of its work."""
    command = [sys.executable, "-c", DYING, *where.split(), "dead", *arguments]
    done = subprocess.run(
        command, capture_output=True, timeout=100, check=False, env=environment(amqp_url=graveyard.amqp_url)
    )
    assert done.returncode == 9, done.stderr


@pytest.mark.parametrize(
    "where",
    ["sender ask before", "sender _publish after", "sender ask after", "queue remove before", "queue give_back before"],
)
def test_a_replay_that_dies_loses_nothing_and_applies_nothing_twice(alive: Graveyard, where: str) -> None:
    """Given a replay that dies at a step, when it is done again, then each command is applied once, and no letter left.

    Before that each letter is either there, or done.
    """
    for number in range(5):
        alive.bury(save(number, f"k{number}"))
    die(alive, where, "replay", "--all")
    done = where == "queue give_back before"
    alive.until(0 if done else 5)
    assert set(alive.replay().values()) == (set() if done else {"ok"})
    assert alive.letters() == []
    for number in range(5):
        assert [event.id for event in asyncio.run(history(alive.amqp_url, f"k{number}"))] == [f"id-{number}"]


@pytest.mark.parametrize("where", ["queue _page after", "queue remove before", "queue give_back before"])
def test_whoever_dies_with_letters_in_hand_loses_none(graveyard: Graveyard, tmp_path: Path, where: str) -> None:
    """Given a discard that dies at a step, when the queue is looked at again, then every letter is there."""
    buried = {graveyard.bury(save(number)) for number in range(30)}
    file = tmp_path / "letters.jsonl"
    # It looks at them first, without removing any: that gives them back, too.
    arguments = ["list"] if where == "queue give_back before" else ["discard", "--all", "--yes", "--save", str(file)]
    die(graveyard, where, *arguments)
    graveyard.until(30)
    assert set(graveyard.ids()) == buried
    if where == "queue remove before":
        saved = {json.loads(line)["letter"] for line in file.read_text().splitlines()}
        assert saved
        assert saved <= buried


def test_a_reader_that_is_killed_leaves_the_lock(graveyard: Graveyard) -> None:
    """Given a reader that was killed, when the next one comes, then nothing has to be cleaned up for him."""
    graveyard.bury(save(1))
    die(graveyard, "queue _page after", "list")
    assert len(graveyard.listed("--timeout", "60")) == 1


# What can be wrong.


def test_without_a_broker_a_queue_or_a_worker(amqp_url: str, rabbit: RabbitServer) -> None:
    """Given what is missing, when dead letters are asked for, then one line says what it is."""
    failed(holdfast("dead", "list", amqp_url="amqp://ada:hunter2@127.0.0.1:1/"), 1, "cannot connect to amqp://ada:***@")
    failed(holdfast("dead", "list", amqp_url=amqp_url), 1, "no worker has ever run here")
    wrong = f"{amqp_url.partition('//')[0]}//ada:{SECRET}@{amqp_url.rpartition('@')[2]}"
    failed(holdfast("dead", "list", amqp_url=wrong), 1, "refused the login")
    graveyard = Graveyard(amqp_url)
    letter = graveyard.bury(save(1))
    failed(graveyard.cli("replay", "--all"), 1, "no worker has ever run here")
    graveyard.channel.exchange_declare("holdfast.commands", "direct", durable=True)
    graveyard.channel.queue_declare("somewhere")
    graveyard.channel.queue_bind("somewhere", "holdfast.commands", "0")
    failed(graveyard.cli("replay", "--all", "--timeout", "0.5"), 1, "no worker answers")
    assert graveyard.ids() == [letter]
    graveyard.connection.close()


def test_a_queue_that_may_drop_letters_is_told(amqp_url: str, rabbit: RabbitServer, amqp_vhost: str) -> None:
    """Given a queue from before, whose letters do not bear many looks, when they are listed, then that is said.

    The policy of the docs makes them bear it.
    """
    graveyard = Graveyard(amqp_url, {"x-queue-type": "quorum"})
    graveyard.bury(save(1))
    done = graveyard.cli("list")
    assert done.returncode == 0
    assert "RabbitMQ may drop a letter that was looked at 20 times" in done.stderr
    rabbit.ctl(
        "set_policy", "-p", amqp_vhost, "holdfast-dead", r"^holdfast\.dead$", '{"delivery-limit": 1000000000}',
        "--apply-to", "quorum_queues",
    )  # fmt: skip

    async def look() -> None:
        for _ in range(25):
            async with open_dead_letters(amqp_url) as queue:
                assert queue.fragile
                assert [len(page) async for page in queue.pages()] == [1]

    asyncio.run(look())
    assert graveyard.depth() == 1
    graveyard.connection.close()


def test_letters_of_the_broker(amqp_url: str, mongo_url: str) -> None:
    """Given messages that RabbitMQ has given up, with properties of all kinds, then they can be shown and replayed."""
    with running_worker(amqp_url, mongo_url):
        pass
    graveyard = Graveyard(amqp_url)
    channel = graveyard.channel
    for properties in (
        {"message_id": "m-1", "correlation_id": "c-1", "user_id": "holdfast", "headers": {"own": "x" * 3000}},
        {"correlation_id": b"\xff\xfe", "headers": {"x-holdfast-author": "root"}},
    ):
        body = orjson.dumps({"op": "save", "key": "k", "value": 1, "sent_at": int(time.time() * 1000) - 1000})
        channel.basic_publish(
            "holdfast.commands", "0", body, pika.BasicProperties(expiration="1", delivery_mode=2, **properties)
        )
    graveyard.until(2)
    sound, odd = graveyard.letters()
    assert (sound["reason"], sound["id"], sound["author"]) == ("expired", "m-1", "holdfast")
    assert abs(sound["time"] - time.time() * 1000) < 3600_000
    shown = json.loads(graveyard.cli("show", "m-1", "--json").stdout)
    assert (shown["queue"], shown["correlation_id"]) == ("holdfast.commands.0", "c-1")
    assert shown["headers"]["own"] == "x" * 3000
    assert odd["author"] is None
    assert "its properties cannot be read" in odd["detail"]
    assert graveyard.ids() == [sound["letter"], odd["letter"]]
    with running_worker(amqp_url, mongo_url):
        outcomes = graveyard.cli("replay", "--all")
        assert "nobody knows who sent it" in outcomes.stdout
        assert graveyard.ids() == [odd["letter"]]
        (event,) = asyncio.run(history(amqp_url, "k"))
        assert (event.id, event.author) == ("m-1", "holdfast")
    graveyard.connection.close()


def test_a_reader_that_is_interrupted_gives_everything_back(graveyard: Graveyard) -> None:
    """Given a reader with letters in hand, when Ctrl-C ends it, then they are there again, in their order."""
    buried = [graveyard.bury(save(number)) for number in range(200)]
    code = (
        "import os, signal, holdfast.dead.queue as queue\n"
        "real = queue.DeadLetterQueue._page\n"
        "async def page(self, size):\n"
        "    if len(self._pages) == 2: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return await real(self, size)\n"
        "queue.DeadLetterQueue._page = page\n"
        "from holdfast.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "dead", "list", "--limit", "0"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment(amqp_url=graveyard.amqp_url),
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    graveyard.until(200)
    assert graveyard.ids() == buried


def test_help_of_every_command() -> None:
    """Given the commands around dead letters, when --help is asked for, then each explains itself."""
    for command in ([], ["list"], ["show"], ["replay"], ["discard"]):
        done = holdfast("dead", *command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage: " in done.stdout
