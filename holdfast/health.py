"""Is the worker of this machine ready? Read from the file that it writes every second."""

import json
import time
from pathlib import Path

from .events import Unavailable

#: Seconds after which a worker that has written nothing is taken for stuck.
FRESH = 10.0


def check_health(path: Path) -> str:
    """One line about the worker that writes this file.

    :raises Unavailable: if there is none, if it is not ready, or if it has not written for ten seconds.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        age = time.time() - float(state["time"])
    except OSError as error:
        raise Unavailable(f"no worker writes {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise Unavailable(f"{path} is not a worker's health file") from None
    if age > FRESH:
        raise Unavailable(f"worker {state.get('name')} has not written for {age:.0f} s")
    if not state.get("ready"):
        raise Unavailable(f"worker {state.get('name')} is not ready: broker or store are away")
    if held_at := state.get("feed_held_at"):
        # It works, so this is no reason to replace it.
        places = ", ".join(held_at)
        return f"worker {state.get('name')} is ready; a queue that gets {places} holds up its change feed: see its log"
    return f"worker {state.get('name')} is ready"
