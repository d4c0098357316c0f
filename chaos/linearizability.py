"""Is there an order of a key's commands in which every answer is the right one, and which keeps to real time?

The search is the one of Wing and Gong with Lowe's refinements: beginnings and ends are in one doubly linked list,
commands are taken out of it as they get their places and put back on the way out of a dead end, and what was looked
at once, by its set of placed commands and its state, is not looked at again. Keys are independent of each other
(locality), so each is searched by itself.

What a command was told narrows the search without changing its result:

- A command that changes nothing gets its place at the first moment at which its answer is right: what comes later is
  not hindered by it.
- A write that was told its version is the only one that can make it.
- A save without an answer whose etag was told to somebody can only have made that version.
- Among saves without an answer whose etags nobody was ever told, none makes a difference to anybody: the one with
  the strictest condition that holds, and of equal ones the oldest, goes first. So it is for deletes, and of those
  that must have happened, the one that returned first goes first.

An eventual read may tell of any earlier state, which is the same as having begun before everything else.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from holdfast.events import make_etag

from .commands import FOREVER, Command, ContradictionError, commands_of, disagreement
from .explanation import Furthest, explain, explain_contradiction, explain_undecided
from .history import Operation, Outcome
from .model import NEVER, State, apply

#: Places tried for one key before the search is given up: about a minute.
DEFAULT_BUDGET: Final = 5_000_000

#: A write by its operation, its etag and whether it is a first-write.
_Condition = tuple[str, str | None, bool]

#: Conditions that can hold more than once. An etag comes only once, and so does a version: who placed them before
#: is no matter later.
_UNCONDITIONAL: Final[tuple[_Condition, ...]] = (("save", None, True), ("save", None, False), ("delete", None, False))
#: Of a command that is unlike any other.
_ANY: Final = -1


class Result(Enum):
    """What came of a key."""

    LINEARIZABLE = "linearizable"
    VIOLATED = "violated"
    #: The search was given up. It proves nothing, and no run with it has passed.
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of the check of one key, and why."""

    store: str
    key: str
    result: Result
    operations: int
    #: Places that were tried.
    steps: int
    #: For people; empty if the key is linearizable.
    explanation: str = ""


def by_key(operations: Iterable[Operation]) -> dict[tuple[str, str], list[Operation]]:
    """The operations of each (store, key)."""
    keys: dict[tuple[str, str], list[Operation]] = defaultdict(list)
    for operation in operations:
        keys[operation.store, operation.key].append(operation)
    return keys


def check(
    operations: Iterable[Operation], *, initial: State = NEVER, budget: int = DEFAULT_BUDGET
) -> Iterator[Verdict]:
    """The verdict on each key.

    :param initial: the state of every key before the history.
    :param budget: places to be tried for one key.
    :raises HistoryError: if the history cannot be used.
    """
    for (store, key), mine in by_key(operations).items():
        yield check_key(store, key, mine, initial=initial, budget=budget)


def check_key(
    store: str, key: str, operations: Sequence[Operation], *, initial: State = NEVER, budget: int = DEFAULT_BUDGET
) -> Verdict:
    """The verdict on the operations of one key.

    :raises HistoryError: if the history cannot be used.
    """
    try:
        commands = commands_of(operations)
    except ContradictionError as error:
        told = explain_contradiction(store, key, error)
        return Verdict(store, key, Result.VIOLATED, len(operations), 0, told)
    search = _Search(commands, initial, budget)
    result = search.run()
    told = ""
    if result is Result.VIOLATED and search.furthest is not None:
        told = explain(store, key, operations, search.furthest)
    elif result is Result.UNDECIDED:
        told = explain_undecided(store, key, operations, budget)
    return Verdict(store, key, result, len(operations), search.steps, told)


#: Where a search is: the placed commands as a set of bits, the version, the etag as far as anybody names it.
_Point = tuple[int, int, str | bool | None]


@dataclass(slots=True)
class _Choice:
    """A place in the order for which there are several candidates."""

    state: State
    #: Those that are still to be tried.
    candidates: list[int]
    #: How many commands were placed before, and how many of each kind of which the oldest always goes first.
    placed: int
    point: _Point
    used: list[int]
    #: The kinds of which there were too few on the way from here.
    lacking: set[int]


class _Search:
    """One search. Commands are numbers in here: their places in the list of commands."""

    def __init__(self, commands: list[Command], initial: State, budget: int) -> None:
        self._commands = commands
        self._state = initial
        self._budget = budget
        self.steps = 0
        self.furthest: Furthest | None = None
        self._order: list[int] = []
        self._is_placed = bytearray(len(commands))
        #: Those of the placed ones that make a difference later, as a set of bits, for the cache …
        self._placed = 0
        #: … and how many there are of each kind of which the oldest is always placed first.
        self._used = [0] * len(_UNCONDITIONAL)
        self._left = sum(command.certain for command in commands)
        #: Of each kind, how many had been used when a point was found to lead nowhere.
        self._lessons: dict[_Point, list[list[int]]] = defaultdict(list)
        self._lacking: set[int] = set()
        self._link()
        self._index()

    def _link(self) -> None:
        """Make the list of beginnings and ends. An eventual read has no beginning in it."""
        events: list[tuple[int, int, int]] = []
        for number, command in enumerate(self._commands):
            if command.certain:
                # At equal times beginnings go first: nobody can tell which was earlier.
                if not command.eventual:
                    events.append((command.begin, 0, number))
                events.append((command.end, 1, number))
        events.sort()
        size = len(events) + 2
        # The first node is the head, the last one an end of nothing.
        self._next = [*range(1, size), 0]
        self._previous = [0, *range(size - 1)]
        self._time = [0, *(time for time, _, _ in events), FOREVER]
        self._number = [-1, *(number for _, _, number in events), -1]
        self._ends = [False, *(bool(kind) for _, kind, _ in events), True]
        #: Of each command, the nodes of its beginning (0 if it has none) and its end.
        self._nodes = [[0, 0] for _ in self._commands]
        for node in range(1, size - 1):
            self._nodes[self._number[node]][self._ends[node]] = node

    def _index(self) -> None:
        """Sort the commands by what is known of their places."""
        #: Those that change nothing, or may not.
        self._changes = [command.changes for command in self._commands]
        #: The version in whose state a command finds its place; None if it was told none.
        self._version: list[int | None] = []
        #: Eventual reads by the version that they tell; None for absent, without a version.
        self._eventual: dict[int | None, list[int]] = defaultdict(list)
        #: The writes that were told a version.
        self._makers: dict[int, list[int]] = defaultdict(list)
        #: What was told of versions: their etags, None for absent.
        self._told: dict[int | None, set[str | None]] = defaultdict(set)
        #: Deletes that were not told their version, by their condition.
        self._deletes: dict[str | None, list[int]] = defaultdict(list)
        mentioned: set[str] = set()
        for number, command in enumerate(self._commands):
            told = command.told
            if command.etag is not None:
                mentioned.add(command.etag)
            if told is None:
                self._version.append(None)
                continue
            version = told.version
            if command.changes:
                if version is not None:
                    self._makers[version].append(number)
                else:
                    self._deletes[command.etag].append(number)
            elif command.eventual:
                self._eventual[version].append(number)
            if version is not None and command.op == "delete" and told.outcome is Outcome.OK:
                self._told[version].add(None)
            elif version is not None and (told.answer_etag is not None or told.exists is False):
                self._told[version].add(told.answer_etag)
            if told.answer_etag is not None:
                mentioned.add(told.answer_etag)
            if command.changes and command.etag is not None:
                # It was there when the write that demanded it was done.
                self._told[_version_of(command.etag)].add(command.etag)
            self._version.append(version - 1 if command.changes and version is not None else version)
        #: Etags that somebody has named. A state with another one is like any other state with another one.
        self._mentioned = mentioned
        self._index_unknown()

    def _index_unknown(self) -> None:
        """Sort what may or may not have happened."""
        named: dict[str, list[str]] = defaultdict(list)
        for etag in self._mentioned:
            named[etag.partition("-")[2]].append(etag)
        told = {etag for etags in self._told.values() for etag in etags}
        namesakes: dict[str, int] = defaultdict(int)
        for command in self._commands:
            namesakes[_suffix(command)] += command.op == "save"
        #: Those that can only have made one version.
        self._pinned: dict[int, list[int]] = defaultdict(list)
        #: Those of which each is unlike any other.
        self._single: list[int] = []
        #: Those of which nobody was ever told, by operation and condition, oldest first.
        self._alike: dict[_Condition, list[int]] = defaultdict(list)
        #: What the cache has to know of a command that is placed.
        self._kind: list[int | None] = [_ANY] * len(self._commands)
        unknown = [number for number, command in enumerate(self._commands) if not command.certain]
        for number in sorted(unknown, key=lambda number: self._commands[number].begin):
            command = self._commands[number]
            if command.op == "save":
                etags = named.get(_suffix(command), [])
                if len(etags) == 1 and etags[0] in told and namesakes[_suffix(command)] == 1:
                    self._kind[number] = None
                    version = _version_of(etags[0])
                    if version is not None:
                        self._pinned[version].append(number)
                    continue
                if etags:
                    self._single.append(number)
                    continue
            first = command.etag is None and command.op == "save" and command.concurrency == "first-write"
            condition = (command.op, command.etag, first)
            self._alike[condition].append(number)
            self._kind[number] = _UNCONDITIONAL.index(condition) if condition in _UNCONDITIONAL else None

    def run(self) -> Result:
        """Search."""
        choices: list[_Choice] = []
        state = self._state
        self._place_eventual(state)
        while True:
            waiting, frontier = self._settle(state)
            if not self._left:
                return Result.LINEARIZABLE
            if self.steps > self._budget:
                return Result.UNDECIDED
            self._lacking = set()
            candidates = self._candidates(state, waiting, self._time[frontier])
            if len(candidates) > 1:
                choice = _Choice(state, candidates, len(self._order), self._point(state), self._used.copy(), set())
                lesson = self._lesson(choice)
                if lesson is None:
                    choices.append(choice)
                else:
                    self._lacking = {kind for kind, used in enumerate(lesson) if used}
                    candidates = []
            if choices:
                choices[-1].lacking |= self._lacking
            if not candidates:
                self._note(state, waiting, self._number[frontier])
            if len(candidates) != 1:
                while choices and not choices[-1].candidates:
                    self._learn(choices)
                if not choices:
                    return Result.VIOLATED
                self._undo(choices[-1].placed)
                state, candidates = choices[-1].state, choices[-1].candidates
            number = candidates.pop(0)
            _, state = apply(state, self._commands[number])
            self._place(number)
            self._place_eventual(state)

    def _point(self, state: State) -> _Point:
        """Where the search is, as far as it makes a difference later."""
        etag: str | bool | None = state.etag
        if state.etag is not None and state.etag not in self._mentioned:
            etag = True
        return self._placed, state.version, etag

    def _lesson(self, choice: "_Choice") -> list[int] | None:
        """What was learnt at this point before, if it says that this choice leads nowhere."""
        for lesson in self._lessons.get(choice.point, ()):
            if all(then <= now for then, now in zip(lesson, choice.used, strict=True)):
                return lesson
        return None

    def _learn(self, choices: "list[_Choice]") -> None:
        """Give a choice up, and note why.

        What was in the way of its candidates is in the way again if no more is left of the kinds that were lacking.
        How much is left of the others plays no part.
        """
        choice = choices.pop()
        lesson = [used if kind in choice.lacking else 0 for kind, used in enumerate(choice.used)]
        self._lessons[choice.point].append(lesson)
        if choices:
            choices[-1].lacking |= choice.lacking

    def _settle(self, state: State) -> tuple[list[int], int]:
        """Place what changes nothing and whose answer is right now. Give the writes that wait, and the first end."""
        waiting: list[int] = []
        version = state.version
        node = self._next[0]
        while not self._ends[node]:
            number = self._number[node]
            node = self._next[node]
            at = self._version[number]
            if self._changes[number]:
                waiting.append(number)
            elif (at is None or at == version) and self._is_right(number, state):
                # Its end is not the next node's, unless that is where the walk ends anyway.
                end = self._nodes[number][1]
                if node == end:
                    node = self._next[end]
                self._place(number)
        return waiting, node

    def _place_eventual(self, state: State) -> None:
        for version in (state.version, None):
            for number in self._eventual.get(version, ()):
                if not self._is_placed[number] and self._is_right(number, state):
                    self._place(number)

    def _is_right(self, number: int, state: State) -> bool:
        self.steps += 1
        command = self._commands[number]
        return disagreement(command, apply(state, command)[0]) is None

    def _candidates(self, state: State, waiting: list[int], until: int) -> list[int]:
        """The writes that can come next: began before ``until``, the first end of what is left."""
        makers = self._makers.get(state.version + 1)
        if makers:
            return [number for number in waiting if number in makers and self._is_right(number, state)]
        if state.etag is not None and state.etag in self._deletes:
            # Their condition never holds again.
            last = [number for number in self._deletes[state.etag] if not self._is_placed[number]]
            if last:
                return [number for number in waiting if number in last and self._is_right(number, state)]
        told = self._told.get(state.version + 1)
        possible = [
            number
            for number in (*self._pinned.get(state.version + 1, ()), *self._single)
            if self._can_happen(number, state, until) and (told is None or self._etag_after(number, state) in told)
        ]
        if told is None:
            possible += self._first_save(state, until)
        if told is None or None in told:
            possible += self._first_deletes(state, waiting, until)
        return possible

    def _etag_after(self, number: int, state: State) -> str | None:
        return apply(state, self._commands[number])[1].etag

    def _first_save(self, state: State, until: int) -> list[int]:
        """Of the saves of which nobody was told, the one to be tried: the strictest whose condition holds."""
        conditions = [("save", state.etag, False)] if state.etag is not None else [("save", None, True)]
        for condition in (*conditions, ("save", None, False)):
            number = self._oldest(condition, state, until)
            if number is not None:
                return [number]
        return []

    def _first_deletes(self, state: State, waiting: list[int], until: int) -> list[int]:
        """The deletes to be tried."""
        if state.etag is None:
            return []
        found: list[int] = []
        number = self._oldest(("delete", state.etag, False), state, until)
        if number is not None:
            found.append(number)
        certain = [
            number
            for number in waiting
            if self._version[number] is None and self._commands[number].etag is None and self._is_right(number, state)
        ]
        if certain:
            return [min(certain, key=self._end), *found]
        if not found:
            number = self._oldest(("delete", None, False), state, until)
            if number is not None:
                found.append(number)
        return found

    def _oldest(self, condition: _Condition, state: State, until: int) -> int | None:
        """The oldest of this condition that can come next."""
        number = next((number for number in self._alike.get(condition, ()) if not self._is_placed[number]), None)
        if number is not None and self._can_happen(number, state, until):
            return number
        if condition in _UNCONDITIONAL:
            self._lacking.add(_UNCONDITIONAL.index(condition))
        return None

    def _can_happen(self, number: int, state: State, until: int) -> bool:
        command = self._commands[number]
        if self._is_placed[number] or command.begin > until:
            return False
        self.steps += 1
        return apply(state, command)[1] != state

    def _end(self, number: int) -> int:
        return self._commands[number].end

    def _place(self, number: int) -> None:
        self.steps += 1
        self._order.append(number)
        self._is_placed[number] = 1
        self._count(number, 1)
        for node in self._nodes[number]:
            if node:
                before, after = self._previous[node], self._next[node]
                self._next[before] = after
                self._previous[after] = before
        self._left -= self._commands[number].certain

    def _count(self, number: int, change: int) -> None:
        kind = self._kind[number]
        if kind == _ANY:
            self._placed ^= 1 << number
        elif kind is not None:
            self._used[kind] += change

    def _undo(self, placed: int) -> None:
        """Put back what was placed last, in reverse, until so many are left."""
        while len(self._order) > placed:
            number = self._order.pop()
            self._is_placed[number] = 0
            self._count(number, -1)
            for node in reversed(self._nodes[number]):
                if node:
                    self._next[self._previous[node]] = node
                    self._previous[self._next[node]] = node
            self._left += self._commands[number].certain

    def _note(self, state: State, waiting: list[int], stuck: int) -> None:
        if self.furthest is not None and len(self.furthest.placed) >= len(self._order):
            return
        others = [number for number in waiting if number != stuck]
        node = self._next[0]
        while not self._ends[node]:
            number = self._number[node]
            if not self._changes[number] and number != stuck:
                others.append(number)
            node = self._next[node]
        name: Callable[[int], Command] = self._commands.__getitem__
        self.furthest = Furthest(tuple(map(name, self._order)), state, name(stuck), tuple(map(name, others)))


def _suffix(command: Command) -> str:
    """The half of a save's etag that does not depend on its version."""
    return make_etag(0, command.id).partition("-")[2]


def _version_of(etag: str) -> int | None:
    """The version in an etag; None if no state has such an etag."""
    version = etag.partition("-")[0]
    return int(version) if version.isdecimal() and version == str(int(version)) else None
