"""Lines of keys: who has a turn when, by examples and against a plain model of it."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from support.commands import read, sets, transact

from holdfast.worker import Request
from holdfast.worker.claims import Claims


def single() -> Request:
    return Request(read("k"))


def whole(*keys: str) -> Request:
    return Request(transact(*map(sets, keys)), keys=keys)


def test_a_transaction_has_its_keys_to_itself() -> None:
    claims = Claims()
    first, second, third = whole("a", "b"), whole("b", "c"), whole("c", "d")
    assert not claims
    assert claims.join(first, first.keys, alone=True)
    assert not claims.join(second, second.keys, alone=True)
    # It waits for the second one, which waits for the first one: so it has its turn after both.
    assert not claims.join(third, third.keys, alone=True)
    assert "d" in claims
    assert "e" not in claims
    assert claims.leave(first) == [second]
    assert claims.leave(second) == [third]
    assert claims.leave(third) == []
    assert not claims


def test_commands_between_transactions_go_together() -> None:
    claims = Claims()
    first, last = whole("k"), whole("k")
    between = [single() for _ in range(3)]
    assert claims.join(first, ("k",), alone=True)
    assert not any(claims.join(one, ("k",), alone=False) for one in between)
    assert not claims.join(last, ("k",), alone=True)
    behind = single()
    assert not claims.join(behind, ("k",), alone=False)
    assert claims.leave(first) == between
    assert claims.leave(between[1]) == []
    assert claims.leave(between[0]) == []
    assert claims.leave(between[2]) == [last]
    assert claims.leave(last) == [behind]
    late = single()
    assert claims.join(late, ("k",), alone=False)


def test_what_is_about_to_be_done_goes_first() -> None:
    claims = Claims()
    ahead = [single(), single()]
    claims.take("k", ahead)
    later = whole("k")
    assert not claims.join(later, ("k",), alone=True)
    assert claims.leave(ahead[0]) == []
    assert claims.leave(ahead[1]) == [later]


def test_parked_commands_keep_their_key() -> None:
    """Those of a batch that are blocked; what comes later waits, and what had its turn behind them is called back."""
    claims = Claims()
    blocked = [single(), single()]
    assert claims.park("k", blocked) == []
    later, transaction = single(), whole("k", "l")
    assert not claims.join(later, ("k",), alone=False)
    assert not claims.join(transaction, transaction.keys, alone=True)
    # Blocked again, they are where they were.
    assert claims.park("k", blocked) == []
    assert claims.leave(blocked[0]) == []
    assert claims.leave(blocked[1]) == [later]
    assert claims.leave(later) == [transaction]


def test_parked_commands_that_were_in_line_themselves() -> None:
    claims = Claims()
    first = whole("k")
    claims.join(first, ("k",), alone=True)
    together = [single() for _ in range(4)]
    for one in together:
        claims.join(one, ("k",), alone=False)
    last = whole("k")
    claims.join(last, ("k",), alone=True)
    assert claims.leave(first) == together
    assert claims.leave(together[0]) == []
    # Of those that go on, two were in a batch that is blocked; the last one has not been taken into a batch.
    assert claims.park("k", together[1:3]) == [together[3]]
    assert claims.leave(together[1]) == []
    assert claims.leave(together[2]) == [together[3]]
    assert claims.leave(together[3]) == [last]


def test_who_never_had_a_claim_leaves_nothing() -> None:
    claims = Claims()
    first, other = whole("k"), single()
    claims.join(first, ("k",), alone=True)
    assert claims.leave(other) == []
    assert "k" in claims


@given(
    st.lists(st.sets(st.sampled_from("abcd"), min_size=1, max_size=3), min_size=1, max_size=25),
    st.lists(st.booleans(), min_size=25, max_size=25),
    st.randoms(use_true_random=False),
)
def test_turns_come_in_order_and_all_come(asked: list[set[str]], alone: list[bool], random) -> None:  # type: ignore[no-untyped-def]
    """Whoever has a turn has it with nobody who is in its way and came before, and in the end everybody had one."""
    claims = Claims()
    requests: list[Request] = []
    exclusive: dict[Request, bool] = {}
    working: list[Request] = []
    done: set[Request] = set()

    def keys(request: Request) -> set[str]:
        return set(request.keys)

    def clash(one: Request, other: Request) -> bool:
        return bool(keys(one) & keys(other)) and (exclusive[one] or exclusive[other])

    def check(begun: Request) -> None:
        ahead = requests[: requests.index(begun)]
        assert not [one for one in ahead if one not in done and clash(one, begun)]

    for wanted, is_alone in zip(asked, alone, strict=False):
        request = whole(*sorted(wanted) if is_alone else sorted(wanted)[:1])
        requests.append(request)
        exclusive[request] = is_alone
        if claims.join(request, request.keys, alone=is_alone):
            check(request)
            working.append(request)
        else:
            assert any(clash(one, request) for one in requests[:-1] if one not in done)
        while working and random.random() < 0.4:
            finished = working.pop(random.randrange(len(working)))
            done.add(finished)
            for begun in claims.leave(finished):
                check(begun)
                working.append(begun)
    while working:
        assert not [pair for pair in combinations(working, 2) if clash(*pair)]
        finished = working.pop(random.randrange(len(working)))
        done.add(finished)
        for begun in claims.leave(finished):
            check(begun)
            working.append(begun)
    assert done == set(requests)
    assert not claims
