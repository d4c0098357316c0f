"""Compaction: goes through a store's log again and again, and strips and drops what retention does not keep.

One worker at a time does it for a store, a page after another, with pauses that are many times as long as the work.
Everything it does may be done twice, and by two workers at once: that it is one only saves work.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from ..events import StoreUnavailable
from ..stores import CompactableStore, KeyVersion, Mark, RetentionConfig
from .retention import NOTICE, Judge, by_key

log = logging.getLogger(__name__)

#: Events that are looked at at a time.
PAGE: Final = 500
#: The part of the time that is spent with work. While the store is busy its answers take longer, and so do the pauses.
DUTY: Final = 0.05
#: Seconds of a pause at most.
MAX_PAUSE: Final = 15.0
#: Milliseconds for which a worker may be silent until another one goes on in its place.
LEASE: Final = 60_000
#: Seconds between two looks at whether there is something to do.
LOOK_INTERVAL: Final = 10.0


class LostTurnError(Exception):
    """Another worker does it."""


class Compactor:
    """Compacts one store. It has to be run."""

    def __init__(
        self,
        name: str,
        store: CompactableStore,
        config: RetentionConfig,
        *,
        service_time: Callable[[], int],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Make one.

        :param pause: waits for so many seconds.
        """
        self._name = name
        self._store = store
        self._config = config
        self._service_time = service_time
        self._pause = pause
        self._me = secrets.token_hex(8)
        self._mark = Mark()

    async def run(self) -> None:
        """Compact until cancelled. What goes wrong is logged, and tried again."""
        while True:
            try:
                await self.sweep_if_due()
            except StoreUnavailable as away:
                log.debug("compaction of %s waits: %s", self._name, away)
            except Exception:
                log.exception("compaction of %s failed, and is tried again", self._name)
            await self._pause(min(LOOK_INTERVAL, self._config.interval_seconds))

    async def sweep_if_due(self) -> bool:
        """Go through the log, if it is time and nobody else does. Says whether that was done to the end."""
        self._mark = mark = await self._store.mark()
        now = self._service_time()
        if mark.sweeper not in (None, self._me) and now < mark.until:
            return False
        if mark.sweeper is None and now < mark.finished + self._config.interval_seconds * 1000:
            return False
        try:
            await self._sweep(mark)
        except LostTurnError:
            return False
        return True

    async def _sweep(self, mark: Mark) -> None:
        await self._note(mark)
        await self._store.prepare_compaction()
        if not self._mark.firsts_since:
            await self._note(replace(self._mark, firsts_since=self._service_time()))
        now = self._service_time()
        judge = Judge(self._config, now=now, closing=now - self._mark.firsts_since > NOTICE)
        # Behind all versions of the key that was done last.
        place: KeyVersion | None = None if self._mark.swept is None else (self._mark.swept, 0)
        swept = self._mark.swept
        # The key that the last page ended with: there may be more of it.
        open_key: str | None = None
        while True:
            began = time.monotonic()
            page = await self._store.places(after=place, limit=PAGE)
            is_last = len(page) < PAGE
            await self._look_at(judge, page, open_key, is_last=is_last)
            await self._do(judge, swept=swept)
            if page:
                before = [key for key in (open_key, *(key for key, _ in page)) if key not in (None, page[-1][0])]
                swept = before[-1] if before else swept
                place, open_key = page[-1], page[-1][0]
            if is_last:
                break
            await self._rest(began)
        await self._drop_refusals(judge.horizon)
        now = self._service_time()
        await self._note(replace(self._mark, sweeper=None, until=0, swept=None, finished=now))

    async def _look_at(self, judge: Judge, page: list[KeyVersion], open_key: str | None, *, is_last: bool) -> None:
        """Let the events of a page be judged, but for those that are kept for sure."""
        runs = list(by_key(page))
        # Those whose key is on this page with all its events, and of these, those that most likely stay as they are.
        whole = [run for run in (runs if is_last else runs[:-1]) if run[0][0] != open_key]
        kept = [run for run in whole if judge.keeps_all(len(run))]
        # A key that has its first version alone is there, and stays.
        alone = [run for run in whole if len(run) == 1 and run[0][1] == 1]
        spared = {run[0][0] for run in (*kept, *alone)}
        wanted = [place for run in runs if run[0][0] not in spared for place in run]
        newest = [run[0] for run in kept if run not in alone]
        traces = await self._store.traces([*wanted, *newest])
        forgotten = [run for run in kept if run[0] in traces and judge.is_forgotten(traces[run[0]])]
        traces |= await self._store.traces([place for run in forgotten for place in run[1:]])
        spared -= {run[0][0] for run in forgotten}
        for run in runs:
            if open_key is not None and run[0][0] != open_key:
                judge.finish()
            open_key = run[0][0]
            for place in run:
                # What is not there any more was dropped by another worker.
                if open_key not in spared and place in traces:
                    judge.see(traces[place])
        if is_last:
            judge.finish()

    async def _do(self, judge: Judge, *, swept: str | None) -> None:
        """Do what was found out. What is dropped is noted before."""
        chores = judge.take()
        mark = replace(self._mark, swept=swept, floor=max(self._mark.floor, chores.floor))
        if chores.drop:
            mark = replace(mark, horizon=max(mark.horizon, judge.horizon))
        if chores or self._service_time() > self._mark.until - LEASE // 2:
            await self._note(mark)
        await self._store.strip(chores.strip)
        for start in range(0, len(chores.drop), PAGE):
            await self._store.drop(chores.drop[start : start + PAGE])
        for place in chores.close:
            await self._store.close_key(place, now=self._service_time())

    async def _drop_refusals(self, horizon: int) -> None:
        while True:
            began = time.monotonic()
            await self._note(replace(self._mark, horizon=max(self._mark.horizon, horizon)))
            if await self._store.drop_refusals(horizon, limit=PAGE) < PAGE:
                return
            await self._rest(began)

    async def _note(self, mark: Mark) -> None:
        """Put a mark in the place of the last one, and go on being the one who does it.

        :raises LostTurnError: if another worker has put one there.
        """
        if mark.finished == self._mark.finished:
            mark = replace(mark, sweeper=self._me, until=self._service_time() + LEASE)
        if mark != self._mark and not await self._store.set_mark(self._mark, mark):
            raise LostTurnError
        self._mark = mark

    async def _rest(self, began: float) -> None:
        await self._pause(min(MAX_PAUSE, (time.monotonic() - began) * (1 / DUTY - 1)))
