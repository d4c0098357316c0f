"""A bank: transfers between accounts by transactions, whose sum never changes, and a record of all that was told."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from random import Random

from chaos.serializability import Happened, check
from holdfast import Check, Client, ConflictError, OutcomeUnknown, Save, Step, StepResult, Unavailable
from holdfast.events import Event, Receipt, Record

#: What each account has at the beginning.
DEPOSIT = 100


class Bank:
    """Callers that move money, look at accounts and put money on top, until they are told to stop."""

    def __init__(self, *, accounts: int, seed: int = 1) -> None:
        self.accounts = [f"account/{number}" for number in range(accounts)]
        self.happened: list[Happened] = []
        self.outcomes: Counter[str] = Counter()
        #: Transfers that were told ok.
        self.transferred = 0
        #: Transfers whose sums were seen to be wrong.
        self.wrong: list[str] = []
        #: Commands that were certainly not applied.
        self.refused: set[str] = set()
        self._random = Random(seed)  # noqa: S311 - a test's
        self._numbers = itertools.count()
        self._progress = asyncio.Event()
        self.stopping = False

    async def open(self, client: Client) -> None:
        """Give each account its deposit."""
        await self._transact(client, [Save(account, DEPOSIT) for account in self.accounts])

    async def until(self, transferred: int) -> None:
        """Wait for so many transfers."""
        while self.transferred < transferred:
            self._progress.clear()
            await self._progress.wait()

    async def run(self, client: Client) -> None:
        """Call and call again."""
        while not self.stopping:
            act = self._random.choices((self._transfer, self._audit, self._bounce), (6, 2, 2))[0]
            await act(client)

    async def _transfer(self, client: Client) -> None:
        """From one account to another, if a third one is as it was seen."""
        source, target, third = self._random.sample(self.accounts, 3)
        seen = [await self._read(client, key) for key in (source, target, third)]
        if None in seen:
            return
        (one, one_etag), (other, other_etag), (_, third_etag) = (each for each in seen if each is not None)
        amount = self._random.randrange(1, 10)
        results = await self._transact(
            client,
            [
                Save(source, one - amount, etag=one_etag),
                Check(third, etag=third_etag),
                Save(target, other + amount, etag=other_etag),
            ],
        )
        if results is not None:
            self.transferred += 1
            self._progress.set()

    async def _audit(self, client: Client) -> None:
        """All accounts at one moment: reads, and checks that nothing has moved since."""
        seen = {key: await self._read(client, key) for key in self.accounts}
        if None in seen.values():
            return
        held = {key: state for key, state in seen.items() if state is not None}
        results = await self._transact(client, [Check(key, etag=etag) for key, (_, etag) in held.items()])
        if results is not None:
            total = sum(amount for amount, _ in held.values())
            if total != DEPOSIT * len(self.accounts):
                self.wrong.append(f"{total}: {held}")

    async def _bounce(self, client: Client) -> None:
        """A save of a single key beside all that: the same amount again."""
        key = self._random.choice(self.accounts)
        seen = await self._read(client, key)
        if seen is None:
            return
        id_, invoked = f"single-{next(self._numbers)}", time.monotonic_ns()
        try:
            entry = await client.save(key, seen[0], etag=seen[1], id=id_)
        except (ConflictError, Unavailable, OutcomeUnknown) as error:
            self._failed(id_, invoked, error)
        else:
            self._told(id_, invoked, made=[(key, entry.version)])
            self.outcomes["saved"] += 1

    async def _read(self, client: Client, key: str) -> tuple[int, str] | None:
        invoked = time.monotonic_ns()
        try:
            entry = await client.read(key)
        except Unavailable:
            return None
        assert entry is not None, f"{key} is absent"
        self._told(f"read-{next(self._numbers)}", invoked, saw=[(key, entry.version)])
        return int(entry.value), entry.etag

    async def _transact(self, client: Client, steps: Sequence[Step]) -> list[StepResult] | None:
        id_, invoked = f"transaction-{next(self._numbers)}", time.monotonic_ns()
        try:
            results = await client.transact(steps, id=id_)
        except (ConflictError, Unavailable, OutcomeUnknown) as error:
            self._failed(id_, invoked, error)
            return None
        self._told(
            id_,
            invoked,
            saw=[(one.key, one.version or 0) for one in results if not one.changed],
            made=[(one.key, one.version or 0) for one in results if one.changed],
        )
        self.outcomes["committed"] += 1
        return results

    def _told(
        self,
        id_: str,
        invoked: int,
        *,
        saw: list[tuple[str, int]] | None = None,
        made: list[tuple[str, int]] | None = None,
    ) -> None:
        self.happened.append(Happened(id_, invoked, time.monotonic_ns(), frozenset(saw or ()), frozenset(made or ())))

    def _failed(self, id_: str, invoked: int, error: Exception) -> None:
        self.outcomes[type(error).__name__] += 1
        if isinstance(error, ConflictError):
            # It was met at some moment of the call.
            self._told(id_, invoked, saw=[(error.key, error.version)])
        elif isinstance(error, OutcomeUnknown):
            self.happened.append(Happened(id_, invoked, None))
        else:
            self.refused.add(id_)


def faults(bank: Bank, records: list[Record]) -> list[str]:
    """Everything that is wrong with what the bank was told, given the log."""
    events = [record for record in records if isinstance(record, Event)]
    found = list(check(bank.happened, events)) + bank.wrong
    applied = {record.id for record in records if isinstance(record, Event | Receipt)}
    found += [f"was told that it was not applied, and was: {id_}" for id_ in sorted(bank.refused & applied)]
    newest = {event.key: event for event in sorted(events, key=lambda event: event.version)}
    total = sum(event.value for event in newest.values())
    if total != DEPOSIT * len(bank.accounts):
        found.append(f"the accounts hold {total}")
    return found
