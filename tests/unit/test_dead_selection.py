"""Which dead letters are meant: never another one than the one that was named."""

import pytest
from support.dead import letter

from holdfast.dead import DeadLetter, Filter, Named, NoSuchLetterError
from holdfast.events import InvalidError

A = letter({"op": "save", "id": "c1", "key": "user/1"}, id="00ff00000000000a", reason="internal")
B = letter({"op": "delete", "id": "c2", "key": "cart/1", "store": "carts"}, id="00ff00000000000b", reason="bad_op")
C = letter(
    {"op": "save", "id": "c3", "key": "cart/2"},
    {"op": "read", "id": "c4", "key": "user/2"},
    id="abcd000000000001",
    reason="poison",
)
D = letter(body=b"\xff", id="abcd000000000002", reason="malformed")
ALL = [A, B, C, D]


def named(*names: str) -> list[DeadLetter]:
    wanted = Named(names)
    found = [each for each in ALL if wanted.takes(each)]
    wanted.check()
    return found


@pytest.mark.parametrize(
    ("name", "meant"),
    [(A.id, A), ("00ff00000000000b", B), ("abcd000000000001", C), (D.id, D), ("c1", A), ("c4", C)],
)
def test_a_letter_by_its_name(name: str, meant: DeadLetter) -> None:
    """Given letters, when one is named by its id or by that of a command in it, then it is meant and no other."""
    assert named(name) == [meant]


def test_the_beginning_of_an_id_is_enough() -> None:
    """Given two letters that begin alike, when enough digits are named, then one is meant."""
    short = letter({}, id="12340000000000ff")
    wanted = Named(["1234"])
    assert [wanted.takes(each) for each in (*ALL, short)] == [False] * 4 + [True]
    wanted.check()


@pytest.mark.parametrize("name", ["00ff", "abcd00000000000"])
def test_a_name_that_fits_several_is_refused(name: str) -> None:
    """Given letters that begin alike, when the beginning is named, then that is an error which names them."""
    with pytest.raises(InvalidError, match=r"fits more than one dead letter: \w{16}, \w{16}"):
        named(name)


def test_the_id_of_a_command_in_two_letters_is_refused() -> None:
    """Given a command that stands in two letters, when it is named, then nobody guesses which one is meant."""
    wanted = Named(["c1"])
    assert wanted.takes(A)
    assert wanted.takes(letter({"op": "save", "id": "c1", "key": "user/1"}, id="ffff000000000000"))
    with pytest.raises(InvalidError, match="more than one"):
        wanted.check()


def test_copies_of_a_letter_are_one() -> None:
    """Given two copies of one letter, when it is named, then both are meant."""
    wanted = Named([A.id])
    assert [wanted.takes(A), wanted.takes(letter({}, id=A.id))] == [True, True]
    wanted.check()


@pytest.mark.parametrize("name", ["00f", "nothing", "c5", "00ff00000000000c", "user/1"])
def test_a_name_that_fits_none_is_an_error(name: str) -> None:
    """Given letters, when none is named like that, then that is said, and others that were named are not acted on."""
    with pytest.raises(NoSuchLetterError, match=f"there is no dead letter '{name}'"):
        named("c1", name)


def test_an_empty_name_is_an_error() -> None:
    """Given an empty name, when it is asked for, then it does not mean everything."""
    with pytest.raises(InvalidError):
        named("")


def test_many_that_fit_are_not_all_remembered() -> None:
    """Given a short name and many letters, when it fits them all, then the error still is a short one."""
    wanted = Named(["aaaa"])
    for number in range(1000):
        wanted.takes(letter({}, id=f"aaaa{number:012d}"))
    with pytest.raises(InvalidError) as refused:
        wanted.check()
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("chosen", "meant"),
    [
        (Filter(), ALL),
        (Filter(reason="internal"), [A]),
        (Filter(reason="intern"), []),
        (Filter(key="user/"), [A, C]),
        (Filter(key=""), [A, B, C]),
        (Filter(op="save"), [A, C]),
        (Filter(store="carts"), [B]),
        (Filter(store="default", key="cart/"), [C]),
        # Of one and the same command.
        (Filter(op="save", key="user/"), [A]),
        (Filter(op="read", key="user/", reason="poison"), [C]),
        (Filter(op="read", key="user/", reason="internal"), []),
    ],
)
def test_letters_that_are_like_something(chosen: Filter, meant: list[DeadLetter]) -> None:
    """Given letters, when some are chosen by what they are, then exactly those are meant."""
    assert [each for each in ALL if chosen.takes(each)] == meant
