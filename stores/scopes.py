"""Scopes: which keys somebody may be shown, or asks for."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class KeyScope:
    """Some keys: these, and all that begin like that. Both in byte order, and none of them covers another one."""

    exact: tuple[str, ...]
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, exact: Iterable[str] = (), prefixes: Iterable[str] = ()) -> "KeyScope":
        """The scope of all of these."""
        roots: list[str] = []
        for prefix in sorted(set(prefixes)):
            if not roots or not prefix.startswith(roots[-1]):
                roots.append(prefix)
        starts = tuple(roots)
        return cls(tuple(sorted(key for key in set(exact) if not key.startswith(starts))), starts)

    def __bool__(self) -> bool:
        """Whether any key can be in it."""
        return bool(self.exact or self.prefixes)

    def __contains__(self, key: str) -> bool:
        """Whether the key is in it."""
        return key.startswith(self.prefixes) or key in self.exact

    def __and__(self, other: "KeyScope") -> "KeyScope":
        """What is in both."""
        exact = [key for key in self.exact if key in other] + [key for key in other.exact if key in self]
        prefixes = [one for one in self.prefixes if one.startswith(other.prefixes)]
        prefixes += [one for one in other.prefixes if one.startswith(self.prefixes)]
        return KeyScope.of(exact, prefixes)

    def spans(self, after: str | None = None) -> list[tuple[str, bool]]:
        """Its parts in the order of their keys, each with whether it is a prefix, from the first one on that may hold
        a key greater than ``after``.
        """
        spans = sorted([(key, False) for key in self.exact] + [(prefix, True) for prefix in self.prefixes])
        if after is None:
            return spans
        # A span that begins at a lower place may reach beyond it only if it is the prefix that holds it.
        first = bisect_right(spans, after, key=lambda span: span[0])
        if first and spans[first - 1][1] and after.startswith(spans[first - 1][0]):
            first -= 1
        return spans[first:]


EVERYTHING: Final = KeyScope((), ("",))
