"""Restoring what is sealed. A sealed value belongs to the command that saved it, so that it is opened, and saved anew.

Another one may write the key, or purge it, between the look at the past and the save. So the save demands that the key
has not moved on since before that look; if it has, it is all done again.
"""

from typing import Final

from ..events import ConflictError, ErasedError, Reply
from .caller import Caller
from .calls import Wire
from .clock import Countdown

#: In the metadata of what is saved: the version whose value it is.
RESTORED: Final = "holdfast.restored"


async def restore_sealed(self: Caller, command: Wire, store: str, *, timeout: float, command_id: str | None) -> Reply:
    """Do what a ``restore`` would, which the service cannot.

    :param timeout: seconds for all of it.
    :raises ConflictError: as a restore does.
    """
    key, version, etag = command["key"], command["at_version"], command.get("etag")
    countdown = Countdown(timeout)
    look = {"op": "read", "key": key, **({"store": command["store"]} if "store" in command else {})}
    save = {name: field for name, field in command.items() if name != "at_version"} | {"op": "save"}
    save["metadata"] = {**command.get("metadata", {}), RESTORED: str(version)}

    while True:
        # In this order: a purge that the second look does not see comes after the first one, so that it is met below.
        # What the first one brings may be what nobody can open, and the reason for all this.
        newest = await self._call(dict(look), store, key, countdown.left(), None, mutates=False, opens=False)
        code = "no_value"
        try:
            old = await self._call({**look, "at_version": version}, store, key, countdown.left(), None, mutates=False)
        except ErasedError:
            old, code = Reply(id="", status="conflict"), "stripped"
        if not old.exists:
            if etag not in (None, newest.etag):
                code = "etag_mismatch" if newest.exists else "absent"
            raise ConflictError(key, expected=etag, actual=newest.etag, version=newest.version or 0, code=code)
        demand: Wire = {} if etag is not None else {"max_version": newest.version}
        try:
            return await self._call(
                {**save, **demand, "value": old.value}, store, key, countdown.left(), command_id, mutates=True
            )
        except ConflictError as conflict:
            if conflict.code != "newer":
                raise
