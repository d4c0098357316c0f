"""Purges on the way: their events are in the log, and the values that came before them are still being erased.

Nothing of these values is told or restored any more. All commands of a key come to the worker that has its purge in
hand, or that has finished it, so that it is enough to know of one's own.
"""

from collections.abc import Iterable

from ..events import Event

_ERASED = dict.fromkeys(("value", "patch", "messages", "metadata", "correlation_id", "causation_id"))


class Purges:
    """What one worker knows of the purges in one store that it has in hand."""

    def __init__(self) -> None:
        """Make one that knows of none."""
        #: The version of each key's newest one.
        self._versions: dict[str, int] = {}

    def note(self, events: Iterable[Event]) -> None:
        """Take down those of these events that are purges."""
        for event in events:
            if event.type == "purged":
                self._versions[event.key] = max(event.version, self._versions.get(event.key, 0))

    def finish(self, key: str, version: int) -> None:
        """All that came before this purge is erased."""
        if self._versions.get(key) == version:
            del self._versions[key]

    def hide(self, event: Event, newest: int | None = None) -> Event:
        """The event, as it is going to be: a stub, if it comes before a purge of its key.

        :param newest: the version that was the newest at the moment in question. A purge that came later is not meant.
        """
        purged = self._versions.get(event.key, 0) if self._versions else 0
        if event.stripped or event.version >= purged or (newest is not None and purged > newest):
            return event
        return event.model_copy(update={**_ERASED, "stripped": True})
