"""The codec by itself, with some ten thousand bodies; `make fuzz` tries millions."""

from collections import Counter
from pathlib import Path

from chaos.fuzz.__main__ import through_the_codec
from chaos.fuzz.codec import check, mutate_and_check
from chaos.fuzz.generate import Generator

generator = Generator("codec", partitions=4, now=1_800_000_000_000, user="u")


def test_what_the_generator_makes() -> None:
    """Each body is commands, bad commands, or cannot be read, as the protocol page has it; and there are all kinds."""
    outcomes: Counter[str] = Counter()
    for number in range(5_000):
        made = generator.make(number)
        message_id = made.properties.get("message_id", b"").decode(errors="replace")
        outcomes[check(made.body, message_id or None)] += 1
    assert min(outcomes[kind] for kind in ("commands", "bad", "malformed")) > 500


def test_what_comes_of_it_by_mutation() -> None:
    """The same for what is left of them when bytes are changed, again and again."""
    bodies = [body for number in range(300) if len(body := generator.make(number).body) < 4096]
    mutate_and_check(bodies, "mutation", 8_000)


def test_what_new_ways_through_the_codec_lead_to(tmp_path: Path) -> None:
    """The same, guided by coverage where atheris is installed, and blindly where it is not."""
    assert through_the_codec(tmp_path, "coverage", 3_000)
