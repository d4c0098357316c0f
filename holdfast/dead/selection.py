"""Which dead letters are meant: by their ids, or by what they are. Plain functions of letters, no I/O."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..events import HoldfastError, InvalidError
from .letter import DeadLetter

#: Digits of a letter's id that are enough, if no other letter's begins like that.
MIN_PREFIX = 4


class NoSuchLetterError(HoldfastError, LookupError):
    """No dead letter is meant by that."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Letters that are like this; what is None plays no part. Op, store and key are those of one command."""

    reason: str | None = None
    op: str | None = None
    store: str | None = None
    #: What the key begins with.
    key: str | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Whether a letter is like this."""
        if self.reason is not None and letter.reason != self.reason:
            return False
        if self.op is None and self.store is None and self.key is None:
            return True
        return any(
            self.op in (None, entry.op)
            and self.store in (None, entry.store)
            and (self.key is None or (entry.key is not None and entry.key.startswith(self.key)))
            for entry in letter.entries
        )


class Named:
    """Letters by name: a letter's id, the beginning of one, or the id of a command in it.

    A name may fit one letter only, or the wrong one might be taken. Copies of a letter have one id, and go together.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """Make one that has seen no letter yet.

        :raises InvalidError: if a name can mean nothing.
        """
        self._found: dict[str, set[str]] = {name: set() for name in names}
        if "" in self._found:
            raise InvalidError("a dead letter's name is not empty")

    def takes(self, letter: DeadLetter) -> bool:
        """Whether a name fits a letter. To be asked about every letter there is, before ``check``."""
        taken = False
        for name, found in self._found.items():
            if fits(name, letter):
                # Enough to tell that it is not the only one.
                if len(found) < 5:
                    found.add(letter.id)
                taken = True
        return taken

    def check(self) -> None:
        """Make sure that every name has met one letter.

        :raises NoSuchLetterError: if one has met none.
        :raises InvalidError: if one has met several.
        """
        for name, found in self._found.items():
            if not found:
                raise NoSuchLetterError(f"there is no dead letter {name!r}")
            if len(found) > 1:
                raise InvalidError(f"{name!r} fits more than one dead letter: {', '.join(sorted(found))}")


def fits(name: str, letter: DeadLetter) -> bool:
    """Whether a name means a letter, or may."""
    if letter.id == name or (len(name) >= MIN_PREFIX and letter.id.startswith(name)):
        return True
    return any(entry.id == name for entry in letter.entries)
