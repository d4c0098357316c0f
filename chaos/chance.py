"""Choices at random."""

from collections.abc import Mapping
from random import Random
from typing import TypeVar

T = TypeVar("T")


def choose(random: Random, weights: Mapping[T, int]) -> T:
    """One of these, as often as its weight says."""
    return random.choices(list(weights), weights=list(weights.values()))[0]
