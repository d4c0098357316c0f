"""What is written and where: values of 200 bytes of JSON, and ways to choose the next key."""

import random
from collections.abc import Callable, Iterator
from itertools import count, cycle
from typing import Any

import orjson

#: Bytes of a value as compact JSON.
VALUE_BYTES = 200

Value = dict[str, Any]

_NAMES = ("Ada", "Barbara", "Edsger", "Frances", "Grace", "Katherine", "Niklaus", "Radia", "Tony")
_TAGS = ("new", "gold", "trial", "beta", "staff", "annual")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make_value(rng: random.Random) -> Value:
    """A small profile: strings, numbers, a boolean, a list and an object, of exactly ``VALUE_BYTES`` as JSON."""
    name = rng.choice(_NAMES)
    value: Value = {
        "name": name,
        "email": f"{name.lower()}.{rng.randrange(10**6)}@example.org",
        "visits": rng.randrange(10**6),
        "score": round(rng.random() * 100, 2),
        "active": rng.random() < 0.5,
        "tags": rng.sample(_TAGS, 2),
        "address": {"city": "Utrecht", "zip": f"{rng.randrange(10**5):05}"},
        "note": "",
    }
    missing = VALUE_BYTES - len(orjson.dumps(value))
    value["note"] = "".join(rng.choices(_LETTERS, k=missing))
    return value


def endless_values(seed: int = 1, different: int = 1000) -> Iterator[Value]:
    """Values without end, made beforehand so that making them takes no time from what is measured."""
    rng = random.Random(seed)
    return cycle([make_value(rng) for _ in range(different)])


def key_name(prefix: str, number: int) -> str:
    """The key with a number; all keys of a prefix are equally long."""
    return f"{prefix}/{number:07d}"


def uniform_keys(prefix: str, keys: int) -> Callable[[], str]:
    """Any of the keys, each as likely as every other; with one key always that one."""
    uniform = random.Random().random
    return lambda: f"{prefix}/{int(uniform() * keys):07d}"


def every_key(prefix: str, keys: int, first: int = 0) -> Callable[[], str]:
    """Every key once, before any comes again, in an order without locality; not from the first of them on, if told."""
    step = coprime_step(keys)
    numbers = count(first)
    return lambda: key_name(prefix, next(numbers) * step % keys)


def coprime_step(keys: int) -> int:
    """A step that visits all of ``keys`` numbers when taken again and again modulo ``keys``."""
    # A prime fits every count that it does not divide, and no count here is divided by both.
    return next(prime for prime in (7_368_787, 15_485_863) if keys % prime)
