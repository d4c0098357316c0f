"""A key's times: they never run backwards, so that a time is found among any number of versions by a few looks."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

#: Versions that are looked at at a time.
_LOOKS: Final = 32


async def version_at(
    times: Callable[[Sequence[int]], Awaitable[dict[int, int]]], oldest: int, newest: int, time: int
) -> int:
    """The newest of these versions whose time is not after the given one; 0 if there is none.

    :param times: looks the times of versions up. What it leaves out was dropped, and older versions with it.
    """
    # Whatever is up to `found` is old enough, whatever is from `beyond` on is too young.
    found, beyond = oldest - 1, newest + 1
    while beyond - found > 1:
        step = max(1, (beyond - found - 1) // _LOOKS)
        looked = await times(range(found + 1, beyond, step))
        begin, end = found, beyond
        for version in range(begin + 1, end, step):
            if version not in looked or looked[version] <= time:
                found = version
            else:
                beyond = version
                break
    return found if found >= oldest else 0
