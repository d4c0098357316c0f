"""Ordinary commands among the bad input: one key on each partition, whose every answer is known beforehand."""

import json
from dataclasses import dataclass
from zlib import crc32

from .commands import fresh_id


@dataclass(slots=True)
class _Asked:
    partition: int
    #: The value and version that the key has then.
    count: int
    id: str


class Control:
    """Makes commands, and checks their answers."""

    def __init__(self, partitions: int) -> None:
        self._keys: list[str] = []
        for partition in range(partitions):
            candidates = (f"control/{number}" for number in range(10_000))
            self._keys.append(
                next(key for key in candidates if crc32(f"default/{key}".encode()) % partitions == partition)
            )
        self._counts = [0] * partitions
        self._asked: dict[str, _Asked] = {}
        self._number = 0
        #: Answers that were right.
        self.answered = 0

    @property
    def waiting(self) -> int:
        """Commands without an answer."""
        return len(self._asked)

    def save(self, partition: int) -> tuple[str, bytes]:
        """The next value of the partition's key. Gives back the correlation id and the command."""
        self._counts[partition] += 1
        return self._ask(partition, {"op": "save", "value": self._counts[partition]})

    def read(self, partition: int) -> tuple[str, bytes]:
        """A look at the partition's key."""
        return self._ask(partition, {"op": "read"})

    def _ask(self, partition: int, command: dict[str, object]) -> tuple[str, bytes]:
        self._number += 1
        command_id = fresh_id(self._number, -1)
        correlation_id = f"s{self._number}"
        self._asked[correlation_id] = _Asked(partition, self._counts[partition], command_id)
        return correlation_id, json.dumps({**command, "id": command_id, "key": self._keys[partition]}).encode()

    def answer(self, correlation_id: str, body: bytes) -> str | None:
        """Take an answer. Gives back what is wrong with it; None if nothing is."""
        asked = self._asked.pop(correlation_id, None)
        if asked is None:
            return f"a second answer to a control command: {body[:300]!r}"
        answer = json.loads(body)
        told = (answer.get("id"), answer.get("status"), answer.get("version"), answer.get("value", asked.count))
        if told != (asked.id, "ok", asked.count, asked.count):
            return f"of {asked} the answer is {body[:300]!r}"
        self.answered += 1
        return None
