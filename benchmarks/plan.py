"""The plan of a run: how often, how long, how much, and what of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All numbers of a run. Times are in seconds."""

    #: Rounds of the two rows that are compared with other products.
    rounds: int = 5
    #: Rounds of the other rows.
    short_rounds: int = 3
    seconds: float = 4.0
    warmup: float = 0.5
    #: Calls at a time on Holdfast and NATS.
    in_flight: int = 512
    #: Tasks on Motor; it does not gain by more.
    motor_tasks: int = 64
    #: Keys that calls are spread over.
    keys: int = 10_000
    #: Versions of each key that is read.
    versions: int = 5
    counter_clients: int = 64
    lone_seconds: float = 2.0
    ycsb_rounds: int = 2
    ycsb_seconds: float = 3.0
    flight_seconds: float = 1.5
    flight_levels: Sequence[int] = (1, 8, 32, 128, 512, 2048)
    #: Events that are in the log before the measurement of a full one; a fifth as many keys.
    preload: int = 5_000_000
    preload_seconds: float = 300.0
    #: At most so long is every key of the full log saved once, to see the worker's memory.
    sweep_seconds: float = 75.0
    #: MongoDB's cache, in GiB.
    mongo_cache: float = 2.0

    @classmethod
    def quick(cls) -> Self:
        """Everything once, in about two minutes; too short for figures to rely on."""
        return cls(
            rounds=2,
            short_rounds=2,
            seconds=1.0,
            warmup=0.3,
            lone_seconds=1.0,
            ycsb_rounds=1,
            ycsb_seconds=1.0,
            flight_seconds=0.5,
            flight_levels=(1, 16, 128, 512, 2048),
            preload=100_000,
            preload_seconds=60.0,
            sweep_seconds=10.0,
        )

    def with_changes(self, **given: Any) -> Self:
        """The same with what is given and not None."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @property
    def full_keys(self) -> int:
        """Keys of the full log."""
        return max(1, self.preload // self.versions)
