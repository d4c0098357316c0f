"""Dead letters: look at what could not be processed, send it again, or throw it away, without ever losing one."""

from .letter import DeadLetter
from .queue import DeadLetterQueue, open_dead_letters
from .replay import Outcome, Replayer, replay_letters
from .selection import Filter, Named, NoSuchLetterError
from .sender import Sender, open_sender

__all__ = [
    "DeadLetter",
    "DeadLetterQueue",
    "Filter",
    "Named",
    "NoSuchLetterError",
    "Outcome",
    "Replayer",
    "Sender",
    "open_dead_letters",
    "open_sender",
    "replay_letters",
]
