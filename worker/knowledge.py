"""What a worker remembers of keys: a bounded cache that may be behind the log and is never ahead of it.

It learns only from acknowledged appends and from majority reads. Being behind costs a retry, because the log's
index refuses what rests on it; being ahead would leave holes in the versions.
"""

from collections import OrderedDict
from collections.abc import Iterable
from sys import getsizeof
from typing import Any, NamedTuple

import orjson

from ..events import Event
from ..stores import Head

# What an entry takes beside the texts and bytes that are weighed: dict node, tuple, numbers, of a state the etag.
# Measured with tracemalloc at the worst size of the dict, with keys coming and going, rounded up.
_HEAD_BYTES = 360
_STATE_BYTES = 432


class State(NamedTuple):
    """A key's state after an event. Events never change, so it is right for its version for ever."""

    version: int
    exists: bool
    #: None if the key is absent.
    etag: str | None
    #: Service time of the event in milliseconds.
    time: int
    #: The value as compact JSON, ready to be sent.
    value: bytes
    #: Service time in milliseconds from which on the key is absent, whatever ``exists`` says.
    expires: int | None = None


def state_of(event: Event) -> State:
    """The state after an event."""
    if not event.exists:
        return State(event.version, False, None, event.time, b"null")
    # A copy: what orjson returns sits in the larger block that it was written to.
    value = bytes(memoryview(orjson.dumps(event.value)))
    return State(event.version, True, event.etag, event.time, value, event.expires)


def read_answer(state: State | None, version: int) -> dict[str, Any]:
    """The answer to a read that found this state at this version."""
    if state is None or not state.exists:
        return {"status": "ok", "exists": False, "etag": None, "version": version}
    answer = {
        "status": "ok",
        "exists": True,
        "etag": state.etag,
        "version": state.version,
        "value": orjson.Fragment(state.value),
        "updated_at": state.time,
    }
    if state.expires is not None:
        answer["expires"] = state.expires
    return answer


class Knowledge:
    """Heads (for decisions) and states (for reads) of the keys used last, each within a bound in bytes."""

    def __init__(self, *, head_bytes: int, state_bytes: int) -> None:
        self._heads: OrderedDict[str, Head] = OrderedDict()
        self._states: OrderedDict[str, State] = OrderedDict()
        self._head_bytes = self._head_room = head_bytes
        self._state_bytes = self._state_room = state_bytes

    def head(self, key: str) -> Head | None:
        """The head last learned of, perhaps behind."""
        head = self._heads.get(key)
        if head is not None:
            self._heads.move_to_end(key)
        return head

    def state(self, key: str, version: int) -> State | None:
        """The state at exactly that version, if it is remembered."""
        state = self._states.get(key)
        if state is None or state.version != version:
            return None
        self._states.move_to_end(key)
        return state

    def learn_head(self, key: str, head: Head) -> None:
        """Remember a head that a majority read or an acknowledged append gave."""
        heads = self._heads
        old = heads.get(key)
        if old is None:
            self._head_room -= _HEAD_BYTES + getsizeof(key) + getsizeof(head.id)
        else:
            self._head_room -= getsizeof(head.id) - getsizeof(old.id)
            heads.move_to_end(key)
        heads[key] = head
        while self._head_room < 0:
            self._head_room += _head_weight(*heads.popitem(last=False))

    def learn_state(self, key: str, state: State) -> None:
        """Remember a state; an older one than what is remembered is passed over."""
        states = self._states
        old = states.get(key)
        if old is None:
            self._state_room -= _STATE_BYTES + getsizeof(key) + getsizeof(state.value)
        elif old.version <= state.version:
            self._state_room -= getsizeof(state.value) - getsizeof(old.value)
            states.move_to_end(key)
        else:
            return
        states[key] = state
        if self._state_room < 0:
            self._make_room(key, state)

    def _make_room(self, key: str, newest: State) -> None:
        states = self._states
        if _state_weight(key, newest) > self._state_bytes:
            # It alone is too much. Nothing else has to go for it.
            self._state_room += _state_weight(key, states.pop(key))
        while self._state_room < 0:
            self._state_room += _state_weight(*states.popitem(last=False))

    def forget(self, keys: Iterable[str]) -> None:
        """Drop the heads of keys after anything went wrong with them. States stay: they are never wrong."""
        for key in keys:
            head = self._heads.pop(key, None)
            if head is not None:
                self._head_room += _head_weight(key, head)

    def clear(self) -> None:
        """Forget all heads."""
        self._heads.clear()
        self._head_room = self._head_bytes


def _head_weight(key: str, head: Head) -> int:
    return _HEAD_BYTES + getsizeof(key) + getsizeof(head.id)


def _state_weight(key: str, state: State) -> int:
    return _STATE_BYTES + getsizeof(key) + getsizeof(state.value)
