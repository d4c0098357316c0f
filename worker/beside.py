"""One thread for what takes long and touches nothing: large messages are read in it while the event loop goes on.

A single one on purpose. Each thread keeps memory of its own for what it has once needed, and to read one message of
4 MiB can take a hundred times as much as the message has bytes.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

#: Bytes from which on a message is read beside the event loop: one of 4 MiB can take half a second, or some on a busy
#: machine, and heartbeats have to go on meanwhile.
READ_BESIDE_BYTES = 128 * 1024

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")


async def beside(work: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    """Do it in the thread, after what was given to it before."""
    return await asyncio.get_running_loop().run_in_executor(_reader, work, *arguments)
