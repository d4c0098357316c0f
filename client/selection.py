"""Selections: which keys a watch is about."""

import re

from ..events import InvalidError, check_key


class Selection:
    """Which keys: those that begin with a prefix, or match a pattern."""

    def __init__(self, prefix: str, pattern: str | None) -> None:
        """Make one.

        :raises InvalidError: if both are given, or one is none.
        """
        if prefix and pattern is not None:
            raise InvalidError("give a prefix or a pattern, and not both", field="pattern")
        self._regex: re.Pattern[str] | None = None
        if pattern is not None:
            check_key(pattern)
            prefix = pattern.partition("*")[0]
            parts = re.split(r"(\*\*|\*)", pattern)
            meanings = {"**": ".*", "*": "[^/]*"}
            self._regex = re.compile("".join(meanings.get(part) or re.escape(part) for part in parts), re.DOTALL)
        if prefix:
            check_key(prefix)
        self.prefix = prefix

    def __contains__(self, key: str) -> bool:
        return self._regex.fullmatch(key) is not None if self._regex else key.startswith(self.prefix)
