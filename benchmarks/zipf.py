"""YCSB's request distributions, number for number: zipfian, scrambled zipfian and latest."""

import math
from collections.abc import Callable

#: YCSB's constant.
THETA = 0.99

# ScrambledZipfianGenerator draws from so many items, whatever the number of keys, and comes with their zeta.
_SCRAMBLED_ITEMS = 10_000_000_000
_SCRAMBLED_ZETA = 26.46902820178302

_FNV_OFFSET = 0xCBF29CE484222325
_FNV_PRIME = 1_099_511_628_211
_MASK = (1 << 64) - 1


def fnv64(number: int) -> int:
    """YCSB's hash of a number: FNV-1a over its eight bytes, lowest first, as a positive signed 64-bit number."""
    hashed = _FNV_OFFSET
    for _ in range(8):
        hashed = ((hashed ^ (number & 0xFF)) * _FNV_PRIME) & _MASK
        number >>= 8
    return hashed if hashed < 1 << 63 else (1 << 64) - hashed


def zeta(start: int, items: int, theta: float = THETA, initial: float = 0.0) -> float:
    """``initial`` and the terms ``start + 1`` to ``items`` of the sum of 1 / i ** theta."""
    return initial + sum(math.pow(i, -theta) for i in range(start + 1, items + 1))


class Zipfian:
    """Ranks from 0, the lowest the most frequent (Gray et al., "Quickly generating billion-record databases").

    :param uniform: gives numbers from 0 up to 1.
    """

    def __init__(self, items: int, uniform: Callable[[], float], *, zeta_items: float | None = None) -> None:
        self._uniform = uniform
        self._alpha = 1.0 / (1.0 - THETA)
        self._half = 0.5**THETA
        self._items = items
        self._zeta = zeta(0, items) if zeta_items is None else zeta_items
        self._eta = self._eta_of(items)

    def _eta_of(self, items: int) -> float:
        return (1.0 - math.pow(2.0 / items, 1.0 - THETA)) / (1.0 - zeta(0, 2) / self._zeta)

    def grow(self, items: int) -> None:
        """Draw from so many items from now on, at least as many as before."""
        if items > self._items:
            self._zeta = zeta(self._items, items, initial=self._zeta)
            self._items = items
            self._eta = self._eta_of(items)

    def next(self) -> int:
        """The next rank."""
        u = self._uniform()
        uz = u * self._zeta
        if uz < 1.0:
            return 0
        if uz < 1.0 + self._half:
            return 1
        return int(self._items * (self._eta * u - self._eta + 1.0) ** self._alpha)


class ScrambledZipfian:
    """Numbers from 0 to ``items - 1``, zipfian, with the frequent ones spread over all of them."""

    def __init__(self, items: int, uniform: Callable[[], float]) -> None:
        self._items = items
        self._ranks = Zipfian(_SCRAMBLED_ITEMS, uniform, zeta_items=_SCRAMBLED_ZETA)

    def next(self) -> int:
        """The next number."""
        return fnv64(self._ranks.next()) % self._items


class Latest:
    """Numbers of records, the newest the most frequent.

    :param records: how many there are at first.
    """

    def __init__(self, records: int, uniform: Callable[[], float]) -> None:
        self._ranks = Zipfian(records, uniform)

    def next(self, records: int) -> int:
        """The next number, while there are so many records."""
        self._ranks.grow(records)
        return records - 1 - min(self._ranks.next(), records - 1)
