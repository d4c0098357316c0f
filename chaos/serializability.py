"""Whether transactions and commands on single keys happened in one order that keeps real time: strict serializability.

For commands on single keys this is linearizability, key by key, and linearizability.py decides it by search. Over many
keys the search would never end; but here every answer tells versions, so that the log has the order of each key, and
nothing is left to be guessed. Then there is such an order if, and only if, there is no circle of:

* who made a version, before who saw it, and before who made the next one;
* who saw a version, before who made the next one;
* who had ended, before who had not begun.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from holdfast.events import Event

#: (key, version).
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Happened:
    """Something that took place at one moment between its call and its answer."""

    #: The command id; of what has none anything that nothing else has.
    id: str
    #: On a clock that all callers share.
    invoked: int
    #: None if there was no answer.
    returned: int | None
    #: States that it was told of, and did not make. Version 0 is a key that never was.
    saw: frozenset[Place] = field(default_factory=frozenset)
    #: Versions that it was told it made.
    made: frozenset[Place] = field(default_factory=frozenset)


def check(happened: Sequence[Happened], events: Iterable[Event]) -> Iterator[str]:
    """Everything that is wrong with what callers were told, given the log; nothing if there is an order.

    :param happened: all that was answered, and all that was called and may have been applied. What the log does not
        know of the latter has not happened. Those who made a version without being among these have no time.
    """
    makers: dict[Place, str] = {(event.key, event.version): event.id for event in events}
    made: dict[str, set[Place]] = {}
    for place, maker in makers.items():
        made.setdefault(maker, set()).add(place)
    calls: dict[str, list[Happened]] = {}
    for one in happened:
        calls.setdefault(one.id, []).append(one)
        if one.made - made.get(one.id, set()):
            yield f"was told of versions that are not in the log, or are somebody else's: {one}"
        elif one.made and one.made != made[one.id]:
            yield f"made other versions than it was told: {one}, {sorted(made[one.id])}"
        for key, version in one.saw:
            if version > 0 and (key, version) not in makers:
                yield f"saw a state that is not in the log: {key!r} at version {version}: {one}"
    graph = _precedence(makers, calls, made)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        yield f"no order is possible: {' -> '.join(str(node) for node in reversed(circle.args[1]))}"


def _precedence(
    makers: Mapping[Place, str], calls: Mapping[str, Sequence[Happened]], made: Mapping[str, set[Place]]
) -> dict[str, set[str]]:
    """Of each id those that come before it, and of moments likewise."""
    graph: dict[str, set[str]] = {name: set() for name in (*calls, *made)}
    for (key, version), maker in makers.items():
        before = makers.get((key, version - 1))
        if before is not None and before != maker:
            graph[maker].add(before)
    for id_, repeats in calls.items():
        for key, version in {place for one in repeats for place in one.saw}:
            before, following = makers.get((key, version)), makers.get((key, version + 1))
            if before is not None and before != id_:
                graph[id_].add(before)
            if following is not None and following != id_:
                graph[following].add(id_)
    # What has no answer and made nothing has not happened, or nobody could tell.
    known = [item for item in calls.items() if item[0] in made or any(one.returned is not None for one in item[1])]
    _add_time(graph, known)
    return graph


def _add_time(graph: dict[str, set[str]], calls: Iterable[tuple[str, Sequence[Happened]]]) -> None:
    """A chain of moments: who has ended is before it, who begins later is behind it."""
    begins: list[tuple[int, str]] = []
    ends: list[tuple[int, str]] = []
    for id_, repeats in calls:
        begins.append((min(one.invoked for one in repeats), id_))
        # It had happened when the first of those who asked was told.
        returned = [one.returned for one in repeats if one.returned is not None]
        if returned:
            ends.append((min(returned), id_))
    begins.sort(reverse=True)
    moment = ""
    for number, (end, id_) in enumerate(sorted(ends)):
        while begins and begins[-1][0] <= end:
            _, begun = begins.pop()
            if moment:
                graph[begun].add(moment)
        following = f"moment {number}"
        graph[following] = {id_, moment} if moment else {id_}
        moment = following
    for _, begun in begins:
        if moment:
            graph[begun].add(moment)
