"""Claims: keys that are worked on beside the commit loop, and the requests that wait for them, in order.

Each key that somebody claims has a line. A transaction stands in the lines of all its keys at once and has its turn
when it is the first in each of them; since all get into line in one step, nobody waits in a circle. Commands on one key
get into its line only if there is one. Those that stand together have their turn together: the loop keeps their order.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .batch import Request


@dataclass(slots=True, eq=False)
class _Claim:
    """A place in lines."""

    #: Those that have to be done until it ends, in order.
    requests: list[Request]
    keys: Sequence[str]
    #: Nobody has a turn beside it.
    alone: bool
    #: Keys on which its turn has not come.
    waits_for: set[str]


class Claims:
    """The lines of all keys that are claimed."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[_Claim]] = {}
        self._claims: dict[Request, _Claim] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __contains__(self, key: str) -> bool:
        return key in self._lines

    def join(self, request: Request, keys: Sequence[str], *, alone: bool) -> bool:
        """Get into the lines of these keys. Says whether its turn has come on all of them."""
        claim = _Claim([request], keys, alone, set())
        for key in keys:
            line = self._lines.setdefault(key, deque())
            if line and (alone or any(one.alone for one in line)):
                claim.waits_for.add(key)
            line.append(claim)
        self._claims[request] = claim
        return not claim.waits_for

    def take(self, key: str, requests: Iterable[Request]) -> None:
        """Begin the line of a key with requests that are about to be done."""
        for request in requests:
            self.join(request, (key,), alone=False)

    def park(self, key: str, requests: Sequence[Request]) -> list[Request]:
        """Let requests on a key, whose turn has come, keep it to themselves until they are done.

        Gives back those behind them whose turn had come too, and has to come again.
        """
        first = self._claims.get(requests[0])
        if first is not None and first.alone:
            return []
        line = self._lines.setdefault(key, deque())
        mine = set(requests)
        rest = [claim for claim in line if mine.isdisjoint(claim.requests)]
        recalled = [claim for claim in rest if key not in claim.waits_for]
        for claim in recalled:
            claim.waits_for.add(key)
        parked = _Claim(list(requests), (key,), True, set())
        self._lines[key] = deque([parked, *rest])
        self._claims |= dict.fromkeys(requests, parked)
        return [request for claim in recalled for request in claim.requests]

    def leave(self, request: Request) -> list[Request]:
        """A request is done. Gives back those whose turn comes by that, in order."""
        claim = self._claims.pop(request, None)
        if claim is None:
            return []
        claim.requests.remove(request)
        if claim.requests:
            return []
        following: list[Request] = []
        for key in claim.keys:
            line = self._lines[key]
            line.remove(claim)
            if not line:
                del self._lines[key]
                continue
            for number, one in enumerate(line):
                if (one.alone and number > 0) or (key not in one.waits_for and not one.alone and not claim.alone):
                    break
                if key in one.waits_for:
                    one.waits_for.discard(key)
                    if not one.waits_for:
                        following += one.requests
                if one.alone:
                    break
        return following
