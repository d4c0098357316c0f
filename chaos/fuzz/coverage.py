"""The codec under atheris, which changes bodies until they take new ways through it.

    python -m chaos.fuzz.coverage CORPUS -runs=1000000 -seed=7

Takes libFuzzer's options. What the protocol page does not allow, and whatever is raised, ends it, with the body in
a file.
"""

import json
import sys
from random import Random
from typing import Any

import atheris  # type: ignore[import-untyped]

from . import texts
from .commands import near_miss
from .oracle import UnreadableError, depth, read

with atheris.instrument_imports(include=["holdfast.events"]):
    from .codec import check

_MESSAGE_IDS = (None, "m", "m" * 200)


def try_body(data: bytes) -> None:
    """One body; its last byte chooses the message id."""
    check(data[:-1], _MESSAGE_IDS[data[-1] % 3] if data else None)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Change bytes, as libFuzzer does, or a command as such: of changed bytes most are no JSON any more."""
    rng = Random(seed)
    if rng.random() < 0.4:
        return bytes(atheris.Mutate(data, len(data)))
    body = data[:-1]
    try:
        made: Any = read(body, depth(body))
    except UnreadableError:
        return texts.mutate(rng, data)[:max_size]
    some = rng.choice(made) if isinstance(made, list) and made else made
    if isinstance(some, dict):
        near_miss(rng, some)
    elif isinstance(made, list):
        made.insert(0, rng.choice(texts.ODD))
    else:
        made = {"op": rng.choice(texts.OPS), "id": "1", "key": "k", "value": made}
    if rng.random() < 0.1:
        made = [made, rng.choice(texts.ODD)]
    return (json.dumps(made, ensure_ascii=False).encode() + data[-1:])[:max_size]


if __name__ == "__main__":
    atheris.Setup(sys.argv, try_body, custom_mutator=mutate)
    atheris.Fuzz()
