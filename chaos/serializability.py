"""Whether transactions and commands on single keys happened in one order that keeps real time: strict serializability.

For commands on single keys this is linearizability, key by key, and linearizability.py decides it by search. Over many
keys the search would never end; but here every answer tells versions, so that the log has the order of each key, and
nothing is left to be guessed. Then there is such an order if, and only if, there is no circle of:

* who made a version, before who saw it, and before who made the next one;
* who saw a version, before who made the next one;
* who had ended, before who had not begun.

All that happened is numbered, and what is known of it is in arrays: a million calls take seconds, and some hundred
megabytes. Times are not among the edges. One after the other is placed of which all that it follows was placed, and
before whose beginning nothing ended that was not; where there is no such one left, there is a circle.
"""

import heapq
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from holdfast.events import Event

from .commands import FOREVER
from .history import Operation, Outcome

#: (key, version).
Place = tuple[str, int]

#: The end of what has none; arrays hold no number that is larger.
_NEVER: Final = FOREVER - 1
#: Nodes of a circle that are told.
_MAX_TOLD: Final = 20


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


def check(
    happened: Iterable[Happened],
    events: Iterable[Event],
    *,
    explain: Callable[[Sequence[str]], Iterable[str]] = lambda _: (),
) -> Iterator[str]:
    """Everything that is wrong with what callers were told, given the log; nothing if there is an order.

    :param happened: all that was answered, and all that was called and may have been applied. What the log does not
        know of the latter has not happened. Those who made a version without being among these have no time.
    :param explain: gives lines for people about the ids of a circle.
    """
    order = _Order()
    for event in events:
        order.add_event(event)
    for one in happened:
        yield from order.add(one)
    circle = order.circle()
    if circle:
        told = circle[:_MAX_TOLD]
        more = f" -> … and {len(circle) - _MAX_TOLD} more" if len(circle) > _MAX_TOLD else ""
        words = f"no order is possible, because each of these has to be before the next: {' -> '.join(told)}{more}"
        yield "\n  ".join([f"{words} -> {told[0]}", *explain(told)])


def happened_in(operations: Iterable[Operation]) -> Iterator[Happened]:
    """What a history says of moments: of each call that had, or may have had, one.

    An absent key that was read by our client is told without a version, and so is a delete of nothing; the search of
    each key looks at these.
    """
    for call in operations:
        saw, made = _saw_and_made(call)
        if call.outcome is Outcome.UNKNOWN and call.op != "read":
            yield Happened(call.id, call.invoked, None)
        elif saw or made or (call.outcome is Outcome.OK and call.changed):
            # An eventual read may tell of any earlier state, as if it had begun before everything else.
            begin = call.invoked if call.consistency == "strong" else 0
            yield Happened(call.id, begin, call.returned, frozenset(saw), frozenset(made))


def _saw_and_made(call: Operation) -> tuple[list[Place], list[Place]]:
    saw: list[Place] = []
    made: list[Place] = []
    if call.outcome is Outcome.OK and call.op == "transact":
        for told in call.results:
            (made if told.changed else saw).append((told.key, told.version or 0))
    elif call.version is not None and call.outcome is Outcome.CONFLICT:
        key = call.key if call.at_step is None else call.steps[call.at_step].key
        saw.append((key, call.version))
    elif call.version is not None and call.outcome is Outcome.OK:
        changed = call.op == "save" or (call.op == "delete" and call.changed is not False)
        (made if changed else saw).append((call.key, call.version))
    return saw, made


class _Order:
    """What has to be before what. Nodes are commands that made something, and calls that saw something."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._begin = array("q")
        #: When it had happened at the latest.
        self._end = array("q")
        #: Of a call, the command whose begin is its own: a repeat may be told what a call before it met.
        self._command = array("q")
        #: The commands, by their ids.
        self._numbers: dict[str, int] = {}
        #: Of each key, who made which version.
        self._makers: dict[str, dict[int, int]] = defaultdict(dict)
        #: How many versions a command made. What made none is no node: each of its calls is one, if it saw something.
        self._made = array("q")
        self._from = array("q")
        self._to = array("q")

    def add_event(self, event: Event) -> None:
        """Take in who made a version."""
        number = self._number(event.id)
        self._makers[event.key][event.version] = number
        self._made[number] += 1

    def add(self, one: Happened) -> Iterator[str]:
        """Take a call in, after all events, and say what of it is not in the log."""
        command = self._number(one.id)
        known = self._begin[command]
        # Without a time it has not been called so far.
        self._begin[command] = one.invoked if known < 0 else min(known, one.invoked)
        if any(self._makers.get(key, {}).get(version) != command for key, version in one.made):
            yield f"was told of versions that are not in the log, or are somebody else's: {one}"
        elif one.made and len(one.made) != self._made[command]:
            yield f"made other versions than it was told: {one}, {self._versions_of(command)}"
        if one.returned is None:
            return
        node = command
        if self._made[command]:
            # It had happened when the first of those who asked was told.
            self._end[command] = min(self._end[command], one.returned)
        elif one.saw:
            # Each call is told of its own moment: what an etag demands is looked at each time.
            node = self._new(one.id, command)
            self._end[node] = one.returned
        for key, version in one.saw:
            makers = self._makers.get(key, {})
            maker, following = makers.get(version), makers.get(version + 1)
            if maker is not None:
                self._edge(maker, node)
            elif version > 0:
                yield f"saw a state that is not in the log: {key!r} at version {version}: {one}"
            if following is not None:
                self._edge(node, following)

    def _number(self, id_: str) -> int:
        number = self._numbers.get(id_)
        if number is None:
            number = self._numbers[id_] = self._new(id_, -1)
        return number

    def _new(self, name: str, command: int) -> int:
        self._names.append(name)
        self._begin.append(-1)
        self._end.append(_NEVER)
        self._command.append(command)
        self._made.append(0)
        return len(self._names) - 1

    def _edge(self, before: int, after: int) -> None:
        if before != after:
            self._from.append(before)
            self._to.append(after)

    def _versions_of(self, command: int) -> list[Place]:
        return [
            (key, version) for key, makers in self._makers.items() for version, one in makers.items() if one == command
        ]

    def circle(self) -> list[str]:
        """The names of some that each have to be before the next one, and the last before the first; or nothing."""
        for makers in self._makers.values():
            for before, after in pairwise(sorted(makers)):
                if after == before + 1:
                    self._edge(makers[before], makers[after])
        size = len(self._names)
        for node in range(size):
            command = self._command[node]
            if command >= 0:
                self._begin[node] = self._begin[command]
        is_placed = self._place()
        left = [node for node in range(size) if not is_placed[node] and self._is_node(node)]
        return [self._names[node] for node in self._find_circle(set(left))] if left else []

    def _is_node(self, node: int) -> bool:
        return self._command[node] >= 0 or self._made[node] > 0

    def _place(self) -> bytearray:
        """Give a place to all that can have one, one after the other."""
        size = len(self._names)
        # The edges by what they begin at, as linked lists.
        first, following = array("q", [-1]) * size, array("q", [-1]) * len(self._from)
        waits_for = array("q", [0]) * size
        for edge, before in enumerate(self._from):
            following[edge], first[before] = first[before], edge
            waits_for[self._to[edge]] += 1
        begin, end = self._begin, self._end
        is_placed = bytearray(size)
        by_end = sorted(filter(self._is_node, range(size)), key=end.__getitem__)
        last = 0
        ready = [(begin[node], node) for node in by_end if not waits_for[node]]
        heapq.heapify(ready)
        while ready:
            while is_placed[by_end[last]]:
                last += 1
            # At equal times nobody can tell which was earlier.
            if ready[0][0] > end[by_end[last]]:
                break
            _, node = heapq.heappop(ready)
            is_placed[node] = 1
            edge = first[node]
            while edge >= 0:
                after = self._to[edge]
                waits_for[after] -= 1
                if not waits_for[after]:
                    heapq.heappush(ready, (begin[after], after))
                edge = following[edge]
        return is_placed

    def _find_circle(self, left: set[int]) -> list[int]:
        """A short circle among those that have no place."""
        before: dict[int, list[int]] = defaultdict(list)
        for edge, one in enumerate(self._from):
            if one in left and self._to[edge] in left:
                before[self._to[edge]].append(one)
        # It ended first, and still has no place: it follows one that began later, or else itself.
        stuck = min(left, key=self._end.__getitem__)
        found = self._way_back(stuck, before)
        while not found:
            # It only follows a circle that it is no part of. On each way back there is one sooner or later.
            seen: dict[int, None] = {}
            node = stuck
            while node not in seen:
                seen[node] = None
                node = before[node][0]
            found = list(seen)[list(seen).index(node) :][::-1]
        return found

    def _way_back(self, stuck: int, before: dict[int, list[int]]) -> list[int]:
        """From one back to itself, or to one that had not begun when it had ended; empty if there is no such way."""
        after: dict[int, int] = {}
        queue = deque([stuck])
        while queue:
            node = queue.popleft()
            for one in before.get(node, ()):
                if one == stuck or self._begin[one] > self._end[stuck]:
                    way = [one] if one != stuck else []
                    while node != stuck:
                        way.append(node)
                        node = after[node]
                    return [stuck, *way]
                if one not in after:
                    after[one] = node
                    queue.append(one)
        return []
