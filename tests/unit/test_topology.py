"""Names on the broker and partitions: the public protocol, which other languages have to meet byte by byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from holdfast.events import Topology, partition_of, partition_queue
from holdfast.events.topology import COMMANDS, DEAD, INGRESS, RESERVED_PREFIX

text = st.text(st.characters(exclude_categories=["Cs"]))


def crc32(data: bytes) -> int:
    """The CRC of zlib, written out."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_crc_is_the_usual_one() -> None:
    """The check value of CRC-32/ISO-HDLC."""
    assert crc32(b"123456789") == 0xCBF43926


@pytest.mark.parametrize(
    ("store", "key", "whole"),
    [
        ("default", "user/42", 0x2057ACC8),
        ("default", "user/42/cart", 0x8DFB0153),
        ("carts", "a", 0xFDCB6E37),
        ("default", "ключ/✓", 0xB9B065C8),
    ],
)
def test_known_partitions(store: str, key: str, whole: int) -> None:
    """Vectors for clients in other languages: the CRC, and what is left of it."""
    assert partition_of(store, key, 2**32) == whole
    for partitions in (1, 2, 7, 8, 64, 256):
        assert partition_of(store, key, partitions) == whole % partitions


@given(text, text, st.integers(1, 256))
def test_partitions_by_the_rule(store: str, key: str, partitions: int) -> None:
    """``crc32(store + "/" + key) mod P`` over UTF-8."""
    assert partition_of(store, key, partitions) == crc32(f"{store}/{key}".encode()) % partitions


def test_keys_spread() -> None:
    """Keys that differ in a number only use all partitions about evenly."""
    counts = [0] * 8
    for number in range(8000):
        counts[partition_of("default", f"user/{number}", 8)] += 1
    assert min(counts) > 800


def test_names() -> None:
    """The names are public and begin with the prefix that reply addresses must not have."""
    assert partition_queue(3) == "holdfast.commands.3"
    assert (COMMANDS, INGRESS, DEAD) == ("holdfast.commands", "holdfast.ingress", "holdfast.dead")
    assert all(name.startswith(RESERVED_PREFIX) for name in (COMMANDS, INGRESS, DEAD))


@pytest.mark.parametrize("partitions", [0, -1, 257])
def test_numbers_of_partitions(partitions: int) -> None:
    """1 to 256."""
    with pytest.raises(ValidationError):
        Topology(partitions=partitions)


def test_a_topology_of_a_later_release() -> None:
    """Fields that are not known yet are passed over, so that releases can meet."""
    kept = Topology(partitions=4, stores=("default", "carts")).model_dump() | {"later": 1}
    assert Topology.model_validate(kept) == Topology(partitions=4, stores=("default", "carts"))
