"""Which worker prefers which partition: a rendezvous hash, told to the broker as consumer priority.

RabbitMQ's single active consumer gives each queue to the consumer of the highest priority. So partitions spread
over the workers, one that joins takes its share, and one that dies is replaced, without a coordinator of ours.
"""

from hashlib import blake2b

#: Consumer priorities are 32-bit integers; this range makes ties as good as impossible.
_RANGE = 2**30


def priority(worker: str, partition: int | str, *, reluctant: bool = False) -> int:
    """The worker's consumer priority for a partition, or for another queue by name; from 0 to 2**30 - 1.

    :param reluctant: below all that are not, and among its like as ever: for a worker that lacks something which
        others may have, or may lack as well.
    """
    digest = blake2b(f"{worker}/{partition}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _RANGE - (_RANGE if reluctant else 0)
