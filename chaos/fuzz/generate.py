"""Inputs, each from the seed and its number alone, so that any of them can be made again."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from random import Random
from typing import Any
from zlib import crc32

from . import sizes, texts
from .commands import command, fresh_id, near_miss
from .oddities import copies, spoil

#: One of these per so many inputs is a large one.
LARGE = 3000


class Reply(Enum):
    """To whom the answer is to go."""

    #: To a queue that many inputs share, with a correlation id.
    SHARED = "shared"
    #: To a queue that no other input uses meanwhile, without one.
    OWN = "own"
    #: To the publisher's own channel.
    DIRECT = "direct"
    #: There is no such queue.
    GONE = "gone"
    #: To one of Holdfast's own queues.
    RESERVED = "reserved"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Route:
    """Which way a message goes in."""

    exchange: str
    key: bytes
    #: By the ingress, where arrays may be taken apart.
    split: bool = False
    #: Queues that get a copy.
    copies: int = 1


@dataclass(frozen=True, slots=True)
class Input:
    """One message."""

    number: int
    family: str
    body: bytes
    route: Route
    reply: Reply
    #: As they are on the wire; reply_to and correlation_id are put in when it is sent, unless they stand here.
    properties: dict[str, bytes] = field(default_factory=dict)
    #: The broker may bury it before a worker sees it.
    may_expire: bool = False


Family = Callable[[Random, int], bytes]


class Generator:
    """Makes inputs."""

    def __init__(self, seed: str, *, partitions: int, now: int, user: str) -> None:
        """Make a generator.

        :param now: milliseconds since 1970, for times in commands.
        :param user: whose connection it is; a message may name nobody else.
        """
        self._seed = seed
        self._partitions = partitions
        self._now = now
        self._user = user.encode()
        self._home: bytes | None = None
        self._keys: list[list[str]] = [[] for _ in range(partitions)]
        for key in texts.KEYS:
            self._keys[self.partition("default", key)].append(key)
        families: list[tuple[int, Family]] = [
            (100, self._valid),
            (280, self._nearly_valid),
            (60, self._spoilt),
            (220, self._mutated),
            (40, self._random_bytes),
            (70, self._tokens),
            (40, self._nested),
            (60, self._numbers),
            (60, self._strings),
            (30, self._doubled_members),
            (250, self._array),
        ]
        self._families = [family for _, family in families]
        self._weights = [weight for weight, _ in families]

    def make(self, number: int) -> Input:
        """The input of this number."""
        rng = Random(f"{self._seed}/{number}")
        self._home = None
        if rng.randrange(LARGE) == 0:
            family: Family = rng.choice((sizes.large, self._large_array))
        else:
            (family,) = rng.choices(self._families, self._weights)
        body = family(rng, number)[: sizes.LARGEST_BYTES]
        route = self._route(rng)
        (reply,) = rng.choices(list(Reply), (68, 4, 6, 4, 2, 16))
        properties: dict[str, bytes] = {}
        if rng.random() < 0.4:
            properties["message_id"] = f"m{number}".encode()
        name = family.__name__.strip("_").replace("_", " ")
        may_expire = False
        if rng.random() < 0.12:
            name += ", odd properties"
            may_expire = spoil(rng, properties, self._user)
            if rng.random() < 0.03 and route.exchange == "holdfast.commands" and not route.split:
                also = rng.sample(range(self._partitions), 2)
                properties["headers"] = copies(also)
                route = replace(route, copies=len({route.key, *(str(partition).encode() for partition in also)}))
        return Input(number, name, body, route, reply, properties, may_expire)

    # Routes.

    def partition(self, store: str, key: str) -> int:
        """As the protocol page has it."""
        return crc32(f"{store}/{key}".encode()) % self._partitions

    def _is_at_home(self, made: dict[str, Any]) -> None:
        store, key = made.get("store", "default"), made.get("key")
        operations = made.get("operations")
        if made.get("op") == "transact" and isinstance(operations, list) and operations:
            key = operations[0].get("key") if isinstance(operations[0], dict) else None
        if isinstance(store, str) and isinstance(key, str):
            self._home = str(self.partition(store, key)).encode()

    def _route(self, rng: Random) -> Route:
        kind = rng.random()
        some = str(rng.randrange(self._partitions)).encode()
        if kind < 0.8:
            return Route("holdfast.commands", self._home or some)
        if kind < 0.9:
            return Route("holdfast.commands", some)
        if kind < 0.96:
            return Route("", b"holdfast.commands." + some)
        # By the ingress only a few: they are forwarded one after another, each with a confirm.
        if kind < 0.97:
            return Route("", b"holdfast.ingress", split=True)
        odd = (b"any", b"", b"-1", b"00", b"999", b"\xff\xfe", "ß".encode() * 127, b"\0", b"*.#", b"x" * 255)
        return Route("holdfast.ingress" if kind < 0.98 else "holdfast.commands", rng.choice(odd), split=True)

    # Commands.

    def _valid(self, rng: Random, number: int) -> bytes:
        made = command(rng, fresh_id(number), self._now)
        if rng.random() < 0.05:
            del made["id"]
        self._is_at_home(made)
        return texts.write(rng, made)

    def _nearly_valid(self, rng: Random, number: int) -> bytes:
        made = command(rng, fresh_id(number), self._now)
        near_miss(rng, made)
        self._is_at_home(made)
        return texts.write(rng, made)

    def _spoilt(self, rng: Random, number: int) -> bytes:
        made = command(rng, fresh_id(number), self._now)
        for _ in range(rng.randrange(2, 6)):
            near_miss(rng, made)
        self._is_at_home(made)
        return texts.write(rng, made)

    def _element(self, rng: Random, command_id: str) -> Any:
        kind = rng.random()
        if kind < 0.06:
            return rng.choice((None, 1, "text", [], [[]], True, 1.5, {}, 2**64))
        made = command(rng, command_id, self._now)
        if kind < 0.4:
            near_miss(rng, made)
        return made

    def _array(self, rng: Random, number: int) -> bytes:
        size = rng.choice((0, 1, 1, 2, 3, 5, 10, 20, 50))
        repeated = rng.random() < 0.15
        items = [self._element(rng, fresh_id(number, part // 2 if repeated else part)) for part in range(size)]
        if items and rng.random() < 0.5:
            # All of one partition, but for those whose key is none.
            home = rng.randrange(self._partitions)
            for item in items:
                if isinstance(item, dict) and isinstance(item.get("key"), str):
                    item["key"] = rng.choice(self._keys[home])
            self._home = str(home).encode()
        return texts.write(rng, items)

    def _large_array(self, rng: Random, number: int) -> bytes:
        return sizes.large_array(rng, number, self._element)

    # Bytes.

    def _mutated(self, rng: Random, number: int) -> bytes:
        return texts.mutate(rng, self._array(rng, number) if rng.random() < 0.2 else self._valid(rng, number))

    def _random_bytes(self, rng: Random, _: int) -> bytes:
        size = rng.choice((0, 1, 2, 3, 5, 10, 50, 300))
        return rng.randbytes(size) if rng.random() < 0.7 else bytes(rng.choices(range(32, 127), k=size))

    def _tokens(self, rng: Random, _: int) -> bytes:
        return b"".join(rng.choices(texts.TOKENS, k=rng.choice((1, 2, 3, 5, 8, 20))))

    # JSON.

    def _nested(self, rng: Random, number: int) -> bytes:
        levels = rng.choice((1, 50, 98, 99, 100, 101, 102, 250, 260, 500, 880, 895, 905, 950, 1000, 1030, 2000, 20_000))
        opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'[{"":', b"}]"), (b"[1,", b"]")))
        inner = rng.choice((b"1", b"", b"{}", b"[]", b"9" * 25, b'"\\u0000"', b'{"\\u0000":1}'))
        if opening.count(b"[") + opening.count(b"{") == 2:
            levels //= 2
        closings = levels if rng.random() < 0.9 else levels + rng.choice((-1, 1))
        return _around(rng, number, opening * levels + inner + closing * closings)

    def _numbers(self, rng: Random, number: int) -> bytes:
        return _around(rng, number, rng.choice(texts.NUMBERS).encode())

    def _strings(self, rng: Random, number: int) -> bytes:
        text = b"".join(rng.choices(texts.STRINGS, k=rng.choice((1, 1, 2, 4))))
        quoted = b'"' + rng.choice((b"", b"a", b"x" * 600)) + text + rng.choice((b"", b"z")) + b'"'
        if rng.random() < 0.2:
            return _around(rng, number, b"{" + quoted + b":1}")
        return _around(rng, number, quoted)

    def _doubled_members(self, rng: Random, number: int) -> bytes:
        made = command(rng, fresh_id(number), self._now)
        members = [(name, texts.write(rng, value)) for name, value in made.items()]
        for _ in range(rng.randrange(1, 4)):
            name = rng.choice(list(made))
            members.insert(rng.randrange(len(members) + 1), (name, texts.write(rng, rng.choice(texts.ODD))))
        return b"{" + b",".join(b'"%s":%s' % (name.encode(), raw) for name, raw in members) + b"}"


def _around(rng: Random, number: int, raw: bytes) -> bytes:
    """A command with this, as it stands, somewhere in it."""
    made = fresh_id(number).encode()
    place = rng.random()
    if place < 0.5:
        return b'{"id":"%s","op":"save","key":"k1","value":%s}' % (made, raw)
    if place < 0.6:
        return b'{"id":"%s","op":"save","key":"k1","value":[1,{"a":%s}]}' % (made, raw)
    if place < 0.9:
        name = rng.choice(texts.FIELDS).encode()
        return b'{"id":"%s","op":"%s","key":"k1","%s":%s}' % (made, rng.choice(texts.OPS).encode(), name, raw)
    if place < 0.95:
        return b'[{"id":"%s","op":"read","key":"k2"},%s]' % (made, raw)
    return raw
