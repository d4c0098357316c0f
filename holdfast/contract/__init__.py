"""The contract of stores, as a pytest plugin: the tests that every store has to pass, ours and those of packages.

It takes the extra ``holdfast[contract]``. To certify the type ``sqlite`` that an installed package publishes::

    pytest -p holdfast.contract --holdfast-store sqlite --holdfast-options 'path = "{tmp}/log.db"'

``{tmp}`` is a directory of each test's own. Where a store needs more than that, such as a server, run the suite among
the package's own tests instead: a test module with the line ::

    from holdfast.contract.suite import *

and, in ``conftest.py``, ``pytest_plugins = ["holdfast.contract"]`` and a fixture ``make_store`` in place of this one's.

What is optional (see :mod:`holdfast.stores.capabilities`) is tested of the stores that offer it, and skipped of others;
the report ends by saying which.
"""

import tomllib
from collections.abc import AsyncIterator, Callable
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
import pytest_asyncio
from pydantic import ValidationError

from ..events import StoreConfigError
from ..stores import EventStore, StoreConfig
from ..stores.capabilities import CAPABILITIES

#: Makes a store of a name, not opened, and empty when it is opened first.
MakeStore: TypeAlias = Callable[[str], EventStore]

_SUITE: Final = "holdfast.contract.suite"

_offered: Final = pytest.StashKey[dict[str, set[bool]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that name the store to certify."""
    group = parser.getgroup("holdfast", "certifying a store")
    group.addoption("--holdfast-store", metavar="TYPE", help="Run the contract suite on stores of this type.")
    group.addoption(
        "--holdfast-options", metavar="TOML", default="", help="The store's options; {tmp} is a directory of each test."
    )


def pytest_configure(config: pytest.Config) -> None:
    """Run the suite if a store is named."""
    config.stash[_offered] = {}
    if config.option.holdfast_store is not None:
        config.args[:] = [str(Path(__file__).parent / "suite")]


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: Any) -> None:  # noqa: ARG001
    """Have the suite's coroutines run, whatever the mode of the project that runs it."""
    # Hypothesis puts a plain function around a test.
    inner = getattr(getattr(obj, "hypothesis", None), "inner_test", obj)
    if iscoroutinefunction(inner) and getattr(obj, "__module__", "").startswith(_SUITE):
        pytest.mark.asyncio(loop_scope="function")(obj)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what of the contract is optional, and whether the store offers it."""
    for capability, found in sorted(config.stash[_offered].items()):
        told = "offered, and tested" if found == {True} else "not offered"
        terminalreporter.write_line(f"holdfast contract: {capability}: {told}")


@pytest.fixture
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Makes stores of the type that the command line names. Override it to make others."""
    type_ = request.config.option.holdfast_store
    if type_ is None:
        pytest.fail("which store? Name its type by --holdfast-store, or override the fixture make_store")
    options = tomllib.loads(request.config.option.holdfast_options.replace("{tmp}", str(tmp_path)))

    def make(name: str) -> EventStore:
        try:
            config = StoreConfig.model_validate({**options, "type": type_})
        except ValidationError as error:
            raise StoreConfigError(str(error)) from None
        return config.build(name)

    return make


@pytest.fixture
def closed_store(make_store: MakeStore) -> EventStore:
    """An empty store, not opened yet."""
    return make_store("default")


@pytest_asyncio.fixture(loop_scope="function")
async def store(closed_store: EventStore) -> AsyncIterator[EventStore]:
    """An empty store."""
    await closed_store.open()
    yield closed_store
    await closed_store.close()


@pytest.fixture
def capability(request: pytest.FixtureRequest) -> Callable[[EventStore, str], None]:
    """Skips a test of what the store does not offer."""

    def need(store: EventStore, name: str) -> None:
        offered = isinstance(store, CAPABILITIES[name])
        request.config.stash[_offered].setdefault(name, set()).add(offered)
        if not offered:
            pytest.skip(f"{name}: optional, and not offered by this store")

    return need
