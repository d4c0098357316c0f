"""An input that was sent, and what has come of it so far."""

import json
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .answers import check_answer
from .generate import Input
from .oracle import Fate, Judgement


@dataclass(slots=True)
class Sent:
    """What is expected of one message, and what has been seen.

    Of several judgements that are allowed the first answer or letter decides.
    """

    input: Input
    judgements: list[Judgement]
    #: Somebody takes the answers.
    is_answered: bool
    #: Nobody is named who could.
    is_silent: bool
    #: For each fate, answers or letters that have come.
    seen: Counter[int] = field(default_factory=Counter)
    letters: int = 0
    expired: int = 0
    _by_id: dict[Any, deque[int]] | None = None

    @property
    def judgement(self) -> Judgement:
        """The one that is left, or the likeliest."""
        return self.judgements[0]

    @property
    def missing(self) -> int:
        """Answers and letters that have to come yet."""
        copies = self.input.route.copies
        if self.expired >= copies:
            return 0
        judgement = self.judgement
        if judgement.buried_for is not None:
            return max(0, copies - self.letters)
        if self.is_answered:
            return max(0, (copies - self.expired) * len(judgement.fates) - self.seen.total())
        if self.is_silent:
            due = [number for number, fate in enumerate(judgement.fates) if fate.buried]
            return sum(max(0, copies - self.expired - self.seen[number]) for number in due)
        return 0

    def missing_commands(self) -> list[Any]:
        """Some of the commands of which something has to come yet, as they were sent."""
        copies = self.input.route.copies
        fates = self.judgement.fates
        return [fate.command for number, fate in enumerate(fates) if self.seen[number] < copies][:3]

    def answer(self, body: bytes) -> str | None:
        """Take a message of answers. Gives back what is wrong with it; None if nothing is."""
        try:
            data = json.loads(body)
        except ValueError:
            return f"an answer that is no JSON: {body[:200]!r}"
        if self.judgement.buried_for is not None or not self.is_answered:
            return f"an answer where there is none: {body[:300]!r}"
        self.judgements = [
            each for each in self.judgements if each.is_array == isinstance(data, list)
        ] or self.judgements
        if self.judgement.is_array != isinstance(data, list):
            return f"the answer is {body[:300]!r}"
        for each in data if isinstance(data, list) else [data]:
            wrong = self._take(each)
            if wrong is not None:
                return wrong
        return None

    def _take(self, answer: Any) -> str | None:
        wrong = "no command is waiting for it"
        for judgement in list(self.judgements):
            for number in self._candidates(judgement, answer):
                if self.seen[number] >= self.input.route.copies:
                    continue
                fault = check_answer(answer, judgement.fates[number])
                if fault is None:
                    self.judgements = [judgement]
                    self.seen[number] += 1
                    return None
                wrong = fault
        return f"{wrong}: {str(answer)[:500]}"

    def _candidates(self, judgement: Judgement, answer: Any) -> Iterable[int]:
        if not judgement.is_array:
            return (0,)
        if self._by_id is None:
            self._by_id = {}
            for number, fate in enumerate(judgement.fates):
                self._by_id.setdefault(fate.id, deque()).append(number)
        candidates = self._by_id.get(answer.get("id") if isinstance(answer, dict) else None, deque())
        # Ten thousand may have no id: those that are done are not looked at again.
        while candidates and self.seen[candidates[0]] >= self.input.route.copies:
            candidates.popleft()
        return candidates

    def may_be_buried_for(self, reason: str) -> bool:
        """Whether a dead letter with this reason can be this message. Without one it is the broker's."""
        if not reason:
            return self.input.may_expire
        return any(
            each.buried_for == reason or (self.is_silent and any(reason in _reasons(fate) for fate in each.fates))
            for each in self.judgements
        )

    def bury(self, body: bytes, reason: str) -> str | None:
        """Take a dead letter that a worker wrote. Gives back what is wrong with it; None if nothing is."""
        self.letters += 1
        for judgement in self.judgements:
            if judgement.buried_for is not None:
                if reason != judgement.buried_for or body != self.input.body:
                    return f"buried for {reason}, allowed is {judgement.buried_for}: {body[:300]!r}"
                return None
        if not self.is_silent:
            return f"buried for {reason}, although somebody is told: {body[:300]!r}"
        wrong = "it is none of its commands"
        for judgement in list(self.judgements):
            if body == self.input.body:
                fault = self._bury_whole(judgement, reason)
            else:
                fault = self._bury_part(judgement, body, reason)
            if fault is None:
                self.judgements = [judgement]
                return None
            wrong = fault
        return f"buried for {reason}: {wrong}: {body[:300]!r}"

    def _bury_whole(self, judgement: Judgement, reason: str) -> str | None:
        if judgement.is_array and not any(reason in _reasons(fate) for fate in judgement.fates):
            return "for no reason that one of its commands has"
        if not judgement.is_array and reason not in _reasons(judgement.fates[0]):
            return f"allowed are {sorted(judgement.fates[0].outcomes)}"
        for number, fate in enumerate(judgement.fates):
            if fate.buried is not False:
                self.seen[number] += 1
        return None

    def _bury_part(self, judgement: Judgement, body: bytes, reason: str) -> str | None:
        if not judgement.is_array:
            return "a command by itself is buried as it came"
        try:
            items = json.loads(body)
        except (ValueError, RecursionError):
            return "it is no JSON"
        if not isinstance(items, list):
            return "it is no array"
        waiting: dict[str, list[int]] = {}
        for number, fate in enumerate(judgement.fates):
            if reason in _reasons(fate) and self.seen[number] < self.input.route.copies:
                waiting.setdefault(_canonical(fate.command), []).append(number)
        for item in items:
            numbers = waiting.get(_canonical(item))
            if not numbers:
                return f"{str(item)[:200]} is none of its commands with this reason"
            self.seen[numbers.pop()] += 1
        return None


def _canonical(command: Any) -> str:
    """A text that is the same for the same JSON, but for the order of members."""
    return json.dumps(command, sort_keys=True)


def _reasons(fate: Fate) -> set[str]:
    """What a letter of this command may have for its reason."""
    return {outcome.split()[-1] for outcome in fate.outcomes if fate.buried is not False}
