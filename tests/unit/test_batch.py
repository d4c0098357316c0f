"""Deliveries of one command are folded into one; whatever else shares an id is kept apart."""

from support.commands import delete, read, request, requests, save

from holdfast.worker import Batch

OK = {"status": "ok", "exists": True, "changed": True, "etag": "1-0", "version": 1, "updated_at": 0}
OTHER = {"status": "ok", "exists": False, "etag": None, "version": 0}


def test_a_repeat_shares_the_answer_of_the_first() -> None:
    """Given a command delivered twice in one batch, when the first is answered, then the second has that answer."""
    command = save("k", 1)
    original, repeat = requests(command, command)
    batch = Batch.of([original, repeat])
    assert batch.pending == [original]
    original.answer = OK
    batch.settle()
    assert repeat.answer == OK
    assert batch.pending == []


def test_a_repeat_makes_the_first_doubtful() -> None:
    """Given a repeat that the broker had delivered before, when it is folded, then its id is looked up."""
    command = save("k", 1)
    original, repeat = request(command), request(command, redelivered=True)
    Batch.of([original, repeat])
    assert original.redelivered


def test_another_command_under_the_same_id_is_not_folded() -> None:
    """Given two commands under one id, when they meet, then both go on: only the log knows whose id it is."""
    one, other = requests(save("k", 1, id="x"), save("k", 2, id="x"))
    batch = Batch.of([one, other])
    assert batch.pending == [one, other]
    assert other.answer is None


def test_the_same_command_of_another_author_is_not_folded() -> None:
    """Given one body sent by two users, when they meet, then neither is given the other's answer."""
    command = save("k", 1)
    ada, bob = request(command, author="ada"), request(command, author="bob")
    assert Batch.of([ada, bob]).pending == [ada, bob]


def test_a_repeat_that_asks_for_more_is_not_folded() -> None:
    """Given a repeat that wants the current value on a conflict, when the first did not, then it is no repeat."""
    plain, curious = requests(save("k", 1, id="x"), save("k", 1, id="x", return_current=True))
    assert Batch.of([plain, curious]).pending == [plain, curious]


def test_reads_are_never_folded() -> None:
    """Given a read delivered twice, when they meet, then each is answered for itself."""
    command = read("k")
    one, other = requests(command, command)
    assert Batch.of([one, other]).pending == [one, other]


def test_a_read_under_the_id_of_a_write_does_not_answer_the_write() -> None:
    """Given a read that carries the id of a save and its repeat, when it is answered first, then the repeat waits."""
    command = save("k", 1, id="x")
    looking, original, repeat = requests(read("other", id="x"), command, command)
    batch = Batch.of([looking, original, repeat])
    looking.answer = OTHER
    batch.settle()
    assert repeat.answer is None
    original.answer = OK
    batch.settle()
    assert repeat.answer == OK


def test_what_is_taken_apart_keeps_its_order_its_doubt_and_its_repeats() -> None:
    """Given a batch with a repeat, when it is split, then each part is on its own, and the repeat with its first."""
    command = save("a", 1)
    first, repeat, second, looking = requests(command, command, delete("b"), read("c"))
    batch = Batch.of([first, repeat, second, looking])
    batch.uncertain = True
    parts = batch.split()
    assert [part.pending for part in parts] == [[first], [second], [looking]]
    assert all(part.uncertain for part in parts)
    first.answer = OK
    parts[0].settle()
    assert repeat.answer == OK


def test_a_part_does_not_answer_repeats_of_another() -> None:
    """Given a read under the id of a repeated save, when the batch is split, then the repeat stays with the save."""
    command = save("k", 1, id="x")
    looking, original, repeat = requests(read("k", id="x"), command, command)
    reading, writing = Batch.of([looking, original, repeat]).split()
    looking.answer = OTHER
    reading.settle()
    assert repeat.answer is None
    original.answer = OK
    writing.settle()
    assert repeat.answer == OK
