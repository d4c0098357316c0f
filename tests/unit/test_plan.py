"""A plan decides a batch in order, in memory, and says what nobody has proved yet."""

from support.commands import NOW, delete, first, read, requests, save, wire

from holdfast.events import Event, Record, Refusal
from holdfast.stores import Head
from holdfast.worker.plan import Plan, make_plan

LIVE = Head(version=3, exists=True, id="writer", time=NOW - 5000)


def shape(record: Record) -> str:
    """``saved 4``, ``deleted 5`` or ``refused``."""
    return f"{record.type} {record.version}" if isinstance(record, Event) else record.type


def shapes(plan: Plan) -> list[str]:
    return [shape(record) for record in plan.records]


def test_commands_build_on_each_other() -> None:
    """Given several commands on one key, when they are planned, then each meets the state that the last one left."""
    plan = make_plan(
        requests(save("k", 1), delete("k"), delete("k"), first("k", 2), first("k", 3)),
        {"k": LIVE},
        exact=(),
        now=NOW,
    )
    assert shapes(plan) == ["saved 4", "deleted 5", "refused", "saved 6", "refused"]
    assert plan.places == [0, 1, 2, 3, 4]


def test_a_key_that_nothing_is_known_of_starts_at_one() -> None:
    """Given a key without a head, when it is saved, then at version 1."""
    assert shapes(make_plan(requests(save("k", 1)), {}, exact=(), now=NOW)) == ["saved 1"]


def test_keys_do_not_mix() -> None:
    """Given commands on two keys, when they are planned, then each key has its own versions."""
    plan = make_plan(requests(save("a", 1), save("b", 1), save("a", 2)), {"b": LIVE}, exact=(), now=NOW)
    assert [(record.key, shape(record)) for record in plan.records] == [
        ("a", "saved 1"),
        ("b", "saved 4"),
        ("a", "saved 2"),
    ]


def test_records_know_their_steps() -> None:
    """Given reads and mismatches among writes, when they are planned, then records name the steps they belong to."""
    plan = make_plan(
        requests(read("k"), save("k", 1), save("k", 2, etag="stale"), save("k", 3), read("k")),
        {"k": LIVE},
        exact=(),
        now=NOW,
    )
    assert plan.places == [1, 3]
    assert [step.record is not None for step in plan.steps] == [False, True, False, True, False]
    assert [step.about_key for step in plan.steps] == [False, False, True, False, False]


def test_reads_wait_for_their_answer_and_know_their_place() -> None:
    """Given reads between writes, when they are planned, then each knows the head at its place, and has no answer."""
    plan = make_plan(requests(read("k"), save("k", 1), read("k"), read("other")), {"k": LIVE}, exact=(), now=NOW)
    before, _, behind, other = plan.steps
    assert [step.answer for step in (before, behind, other)] == [None, None, None]
    assert before.head == LIVE
    assert behind.head is not None
    assert (behind.head.version, other.head) == (4, None)


def test_a_late_read_has_its_answer() -> None:
    """Given a read past its deadline, when it is planned, then it is answered without a look."""
    plan = make_plan(requests(read("k", deadline=NOW - 1)), {"k": LIVE}, exact=(), now=NOW)
    assert wire(plan.steps[0].answer)["status"] == "expired"
    assert plan.steps[0].head is None


def test_refusals_on_what_is_remembered_are_unproven() -> None:
    """Given refusals that have to be recorded, when they rest on what is remembered, then their keys need a look."""
    plan = make_plan(requests(first("a", 1), delete("b"), save("c", 1)), {"a": LIVE}, exact=(), now=NOW)
    assert shapes(plan) == ["refused", "refused", "saved 1"]
    assert plan.unproven == {"a", "b"}


def test_refusals_on_what_was_looked_at_are_proven() -> None:
    """Given keys that were looked at behind a fence, when refusals rest on them, then nothing more is needed."""
    plan = make_plan(requests(first("a", 1), delete("b")), {"a": LIVE}, exact={"a", "b"}, now=NOW)
    assert plan.unproven == set()
    assert plan.proved("a", 0)


def test_a_refusal_that_rests_on_the_batch_itself_is_proven_by_it() -> None:
    """Given a first-write behind a save, when it is refused for it, then the save's append is all the proof."""
    plan = make_plan(requests(save("k", 1), first("k", 2)), {}, exact=(), now=NOW)
    assert shapes(plan) == ["saved 1", "refused"]
    assert plan.unproven == set()


def test_a_refusal_in_front_of_a_write_is_unproven() -> None:
    """Given a delete of nothing and a save behind it, when they are planned, then the refusal needs a look.

    It would be in the log before the save could fail.
    """
    plan = make_plan(requests(delete("k"), save("k", 1)), {}, exact=(), now=NOW)
    assert shapes(plan) == ["refused", "saved 1"]
    assert plan.unproven == {"k"}


def test_expired_commands_need_no_look() -> None:
    """Given a write past its deadline, when it is planned, then it is recorded, whatever the key's state."""
    plan = make_plan(requests(save("k", 1, deadline=NOW - 1), save("k", 2)), {"k": LIVE}, exact=(), now=NOW)
    assert shapes(plan) == ["refused", "saved 4"]
    assert plan.unproven == set()
    assert isinstance(plan.records[0], Refusal)


def test_what_an_own_event_proves() -> None:
    """Given steps around an own event, when it has landed, then it proves them all; before that, none."""
    plan = make_plan(
        requests(read("k"), save("k", 1), read("k"), save("other", 1), save("k", 2)), {"k": LIVE}, exact=(), now=NOW
    )
    assert plan.proved("k", settled=5)
    assert plan.proved("k", settled=2)
    assert not plan.proved("k", settled=1)
    assert not plan.proved("never", settled=5)
