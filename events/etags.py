"""ETags: opaque to clients, made of the version and of the command that made it.

The second half keeps an etag that does not match now from matching later: a version number alone could come
true by guessing, by a mix-up of keys, or after a restore from a backup (the ABA problem).
"""

from hashlib import blake2b


def make_etag(version: int, command_id: str) -> str:
    """``<version>-<8 hex digits of a hash of the command id>``."""
    return f"{version}-{blake2b(command_id.encode(), digest_size=4).hexdigest()}"
