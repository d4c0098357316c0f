"""A run: load, every fault alone, then faults mixed at random, and in the end the checks of what came of it all."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType

import orjson

from .catalogue import KINDS, Make, catalogue
from .check import LOG_FILE, Checked, check_histories, dump_log, histories_in, verify_log
from .display import Display
from .faults import CONDEMNED, Fault
from .history import HistoryError, Recorder
from .report import Report
from .stage import Size, Stage
from .timeline import Acknowledgements, Injection

#: Seconds of load before the first fault: what is normal.
CALM = 5.0
#: Seconds for a fault to strike, and again to be healed.
FAULT_TIMEOUT = 240.0
#: Seconds until every partition acknowledges writes again, once all is healed.
RECOVERY_TIMEOUT = 90.0
#: Share of the time in which faults come alone, if there are so many.
ALONE = 0.8
#: Faults at the same time, when they are mixed.
AT_ONCE = 2
#: Seconds between the beginnings of two mixed ones, at most.
MAX_PAUSE = 5.0
#: Seconds between two looks at the load.
LOOK = 0.5

RUN_FILE = "run.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run is to be like. The same seed plans the same run."""

    seed: str
    #: Of load.
    minutes: float
    kinds: tuple[str, ...] = KINDS
    #: Names of faults; empty for all of these kinds.
    faults: tuple[str, ...] = ()
    size: Size = field(default_factory=Size)
    #: The promise that workers break, to see that the checks find it; empty for none.
    breaks: str = ""


class Runner:
    """Runs once."""

    def __init__(self, directory: Path, options: Options, display: Display) -> None:
        """Make a runner.

        :param directory: an empty one, for everything that the run leaves.
        """
        self._directory = directory
        self._options = options
        self._display = display
        self._random = Random(f"{options.seed}/faults")
        self._report = Report(
            options.seed,
            {"minutes": options.minutes, "kinds": " ".join(options.kinds), **asdict(options.size)},
        )
        self._failed: list[Fault] = []
        self._began = self._ended = 0
        self._calm_until = self._alone_until = 0

    async def run(self) -> Report:
        """Run, check, and say what came of it.

        :raises LocalStackError: if a server or worker does not start.
        :raises HistoryError: if what was recorded cannot be used.
        """
        # Faults wait for servers in threads, many at a time.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(64))
        options, report = self._options, self._report
        async with Stage(
            self._directory, seed=options.seed, size=options.size, breaks=options.breaks, say=self._display.say
        ) as stage:
            with Recorder(self._directory / "faults.history") as recorder:
                await self._load(stage, recorder)
            await self._finish(stage)
        self._display.phase("checking")
        checked = await check_run(self._directory)
        self._evaluate(checked)
        report.write(self._directory)
        return report

    # The load, and what happens to it.

    async def _load(self, stage: Stage, recorder: Recorder) -> None:
        display, options = self._display, self._options
        display.phase("starting the load")
        await stage.crowd.start()
        self._began = time.monotonic_ns()
        display.load_begins()
        makes = self._chosen(catalogue(stage, recorder, self._random))
        watching = asyncio.ensure_future(self._watch(stage))
        try:
            await asyncio.sleep(CALM)
            self._calm_until = time.monotonic_ns()
            seconds = options.minutes * 60
            await self._inject_alone(stage, makes, self._began / 1e9 + seconds * ALONE)
            self._alone_until = time.monotonic_ns()
            await self._inject_mixed(makes, self._began / 1e9 + seconds)
            await self._heal_again()
            await self._recover(stage, time.monotonic_ns())
            self._ended = time.monotonic_ns()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    def _chosen(self, makes: Mapping[str, Sequence[Make]]) -> dict[str, list[Make]]:
        names = self._options.faults
        chosen = {
            kind: [make for make in makes[kind] if not names or make().name in names] for kind in self._options.kinds
        }
        if unknown := set(names) - {make().name for each in chosen.values() for make in each}:
            raise ValueError(f"no such faults of these kinds: {', '.join(sorted(unknown))}")
        return chosen

    async def _watch(self, stage: Stage) -> None:
        while True:
            outcomes = await asyncio.to_thread(lambda: stage.crowd.outcomes)
            elapsed = (time.monotonic_ns() - self._began) / 1e9
            self._display.load(elapsed, outcomes.total(), outcomes["unknown"])
            await asyncio.sleep(LOOK)

    async def _inject_alone(self, stage: Stage, makes: Mapping[str, Sequence[Make]], until: float) -> None:
        self._display.phase("every fault alone")
        order = [make for kind in self._options.kinds for make in makes[kind]]
        self._random.shuffle(order)
        for make in order:
            fault = make()
            if time.monotonic() > until:
                self._report.not_reached.append(fault.name)
                continue
            injection = await self._inject(fault, alone=True)
            await self._recover(stage, injection.healed, injection)

    async def _inject_mixed(self, makes: Mapping[str, Sequence[Make]], until: float) -> None:
        if time.monotonic() > until:
            return
        self._display.phase("faults at random")
        busy: dict[asyncio.Task[Injection], str] = {}
        while time.monotonic() < until:
            free = [kind for kind in self._options.kinds if makes[kind] and kind not in busy.values()]
            if free and len(busy) < AT_ONCE:
                kind = self._random.choice(free)
                fault = self._random.choice(makes[kind])()
                busy[asyncio.ensure_future(self._inject(fault, alone=False))] = kind
            pause = min(self._random.uniform(0, MAX_PAUSE), until - time.monotonic())
            await asyncio.sleep(max(0.0, pause))
            busy = {task: kind for task, kind in busy.items() if not task.done()}
        await asyncio.gather(*busy)

    async def _inject(self, fault: Fault, *, alone: bool) -> Injection:
        injection = Injection(fault.name, alone, time.monotonic_ns())
        self._report.injections.append(injection)
        self._display.begins(fault.name)
        for step in (fault.strike, fault.heal):
            try:
                async with asyncio.timeout(FAULT_TIMEOUT):
                    await step()
            except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on, and has failed
                injection.failure += f"{step.__name__}: {type(error).__name__}: {error} "
                self._failed.append(fault)
        injection.healed = time.monotonic_ns()
        self._display.ends(fault.name, (injection.healed - injection.began) / 1e9, injection.failure)
        return injection

    async def _heal_again(self) -> None:
        """Try once more what failed, so that at least the checks of the rest can be made."""
        for fault in self._failed:
            with self._finding(f"{fault.name} does not heal"):
                async with asyncio.timeout(FAULT_TIMEOUT):
                    await fault.heal()

    async def _recover(self, stage: Stage, since: int, injection: Injection | None = None) -> None:
        """Wait until every partition acknowledges writes."""
        deadline = time.monotonic() + RECOVERY_TIMEOUT
        while not await asyncio.to_thread(stage.crowd.acknowledged_since, since):
            if time.monotonic() > deadline:
                self._find(
                    f"{RECOVERY_TIMEOUT:g} s after {injection.name if injection else 'the last fault'} some "
                    "partition still acknowledges no writes"
                )
                return
            await asyncio.sleep(LOOK)
        if injection is not None:
            injection.recovered = time.monotonic_ns()

    # The end.

    async def _finish(self, stage: Stage) -> None:
        """Let everything be done that was begun, and keep what the checks need."""
        self._display.phase("waiting for the last calls and the last messages")
        with self._finding("the clients did not end"):
            await stage.crowd.stop()
        with self._finding("the queues did not empty"):
            await stage.drain()
        for finding in stage.crowd.findings:
            self._find(finding)
        for worker in stage.cluster.workers[: self._options.size.workers]:
            if not worker.running:
                self._find(f"{worker.directory.name} does not run any more; its log is {worker.log_path}")
        with self._finding("the dead letters cannot be read"):
            await self._read_letters(stage)
        with self._finding("the log cannot be verified"):
            for finding in await verify_log(stage.cluster.mongo_url):
                self._find(finding)
        with self._finding("the log cannot be read"):
            types = await dump_log(stage.cluster.mongo_url, self._directory / LOG_FILE)
            self._report.refusals = types.pop("refused", 0)
            self._report.receipts = types.pop("transacted", 0)
            self._report.events = types.total()
        run = {"seed": self._options.seed, "partitions": self._options.size.partitions}
        (self._directory / RUN_FILE).write_text(json.dumps(run))

    async def _read_letters(self, stage: Stage) -> None:
        count = await asyncio.to_thread(stage.cluster.depth, "holdfast.dead")
        for letter in await stage.cluster.dead_letters(count):
            commands = orjson.loads(letter.body)
            ids = [command["id"] for command in (commands if isinstance(commands, list) else [commands])]
            if all(command_id.startswith(CONDEMNED) for command_id in ids):
                self._report.letters += 1
            else:
                self._find(f"a dead letter that nobody expected: {dict(letter.headers)}, {letter.body[:500]!r}")

    def _evaluate(self, checked: Checked) -> None:
        report = self._report
        report.operations, report.outcomes = checked.operations, checked.outcomes
        report.transactions = checked.transactions
        report.keys, report.steps = checked.keys, checked.steps
        report.seconds = (self._ended - self._began) / 1e9
        for finding in checked.findings:
            self._find(finding)
        if checked.wrong > len(checked.findings):
            self._find(f"{checked.wrong - len(checked.findings):,} more findings of the checks")
        for injection in report.injections:
            if injection.failure:
                self._find(f"the fault {injection.name!r} could not be injected or healed: {injection.failure}")
        acknowledged = Acknowledgements(checked.acknowledged)
        alone = [injection for injection in report.injections if injection.alone]
        # What comes after one of them is the next one's, or nobody's.
        ends = [injection.began for injection in alone[1:]] + [self._alone_until] * bool(alone)
        report.standstills = [
            acknowledged.standstill(injection, end) for injection, end in zip(alone, ends, strict=True)
        ]
        report.calm = acknowledged.standstill(
            Injection("", alone=True, began=self._began, healed=self._calm_until), self._calm_until
        )
        if len(alone) < len(report.injections):
            report.mixed = acknowledged.standstill(
                Injection("", alone=False, began=self._alone_until, healed=self._ended), self._ended
            )

    def _find(self, finding: str) -> None:
        self._report.findings.append(finding)
        self._display.say(f"  {finding}", style="red")

    def _finding(self, what: str) -> "_Finding":
        return _Finding(what, self._find)


class _Finding:
    """Makes a finding of what goes wrong inside, so that what comes after it is done all the same."""

    def __init__(self, what: str, find: Callable[[str], None]) -> None:
        self._what = what
        self._find = find

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._find(f"{self._what}: {type(error).__name__}: {error}")
        return True


async def check_run(directory: Path) -> Checked:
    """All checks of what a run left in its folder, also later.

    :raises HistoryError: if nothing to be checked is left of it.
    """
    missing = [name for name in (RUN_FILE, LOG_FILE) if not (directory / name).exists()]
    if missing or not histories_in(directory):
        raise HistoryError(f"{directory} has no {' and no '.join(missing) or 'histories'}: run it again with --keep")
    run = json.loads((directory / RUN_FILE).read_text())
    return await check_histories(histories_in(directory), directory / LOG_FILE, run["partitions"])


def kinds_of(names: Iterable[str]) -> tuple[str, ...]:
    """Kinds by their names.

    :raises ValueError: if there is no such kind.
    """
    chosen = tuple(names) or KINDS
    for name in chosen:
        if name not in KINDS:
            raise ValueError(f"there is no kind of faults {name!r}; there are {' '.join(KINDS)}")
    return chosen
