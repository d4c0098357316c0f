"""What a worker remembers of keys: a bounded cache that may be behind the log and is never ahead of it.

It learns only from acknowledged appends and from majority reads. Being behind costs a retry, because the log's
index refuses what rests on it; being ahead would leave holes in the versions.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

import orjson

from ..events import Event
from ..stores import Head

# What an entry takes beside its texts: dict node, key, tuples, numbers. Measured with tracemalloc, rounded up.
_HEAD_BYTES = 400
_STATE_BYTES = 500


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


def state_of(event: Event) -> State:
    """The state after an event."""
    if not event.exists:
        return State(event.version, False, None, event.time, b"null")
    # A copy: what orjson returns sits in the larger block that it was written to.
    value = bytes(memoryview(orjson.dumps(event.value)))
    return State(event.version, True, event.etag, event.time, value)


class Knowledge:
    """Heads (for decisions) and states (for reads) of the keys used last, each within a bound in bytes."""

    def __init__(self, *, head_bytes: int, state_bytes: int) -> None:
        self._heads: OrderedDict[str, Head] = OrderedDict()
        self._states: OrderedDict[str, State] = OrderedDict()
        self._max_heads = max(1, head_bytes // _HEAD_BYTES)
        self._state_room = state_bytes

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
        heads[key] = head
        heads.move_to_end(key)
        if len(heads) > self._max_heads:
            heads.popitem(last=False)

    def learn_state(self, key: str, state: State) -> None:
        """Remember a state; an older one than what is remembered is passed over."""
        states = self._states
        old = states.get(key)
        if old is not None:
            if old.version > state.version:
                return
            self._state_room += len(old.value)
        else:
            self._state_room -= _STATE_BYTES
        self._state_room -= len(state.value)
        states[key] = state
        states.move_to_end(key)
        while self._state_room < 0 and states:
            _, gone = states.popitem(last=False)
            self._state_room += len(gone.value) + _STATE_BYTES

    def forget(self, keys: Iterable[str]) -> None:
        """Drop the heads of keys after anything went wrong with them. States stay: they are never wrong."""
        for key in keys:
            self._heads.pop(key, None)

    def clear(self) -> None:
        """Forget all heads."""
        self._heads.clear()
