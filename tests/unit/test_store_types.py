"""Types of stores that packages publish: found by name, checked when a configuration is read, told of in words."""

import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.scripted import ScriptedStore

from holdfast.config import SettingsError, read_config
from holdfast.events import HoldfastError, StoreConfigError, StoreUnavailable
from holdfast.stores import EventStore, MemoryStore, MongoStore, StoreConfig, StoreOptions, StoreType, build_store
from holdfast.worker import Worker, WorkerOptions

SECRET = "hunter2"


class Options(StoreOptions):
    """Of a store that is published below."""

    password: str
    size: int = 1


class Plain(ScriptedStore):
    """A store of the core alone, that knows its options."""

    def __init__(self, name: str, options: Options) -> None:
        super().__init__(MemoryStore(name=name))
        self.options = options


good: StoreType[Options] = StoreType(Options, Plain)


class Greedy(StoreOptions):
    """Wants what all stores have."""

    indexes: str


greedy = StoreType(Greedy, lambda name, _: MemoryStore(name=name))
no_type = "text"


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a package of this name, that publishes these types."""

    def install(package: str, **types: str) -> None:
        place = tmp_path / package
        info = place / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        points = "".join(f"{name} = {value}\n" for name, value in types.items())
        (info / "entry_points.txt").write_text(f"[holdfast.stores]\n{points}")
        monkeypatch.syspath_prepend(str(place))

    return install


def config(**table: Any) -> StoreConfig:
    return StoreConfig.model_validate(table)


def test_a_published_type_is_found(publish: Any) -> None:
    """Given a package with a type, when a table names it, then the store is built with its own options."""
    publish("other", plain=f"{__name__}:good")
    store = build_store("carts", config(type="plain", password=SECRET, size=3))
    assert isinstance(store, Plain)
    assert (store.inner.name, store.options.password, store.options.size) == ("carts", SECRET, 3)


@pytest.mark.parametrize(
    ("table", "place"),
    [
        ({"type": "plain"}, "password"),
        ({"type": "plain", "password": [SECRET]}, "password"),
        ({"type": "plain", "password": SECRET, "size": SECRET}, "size"),
        ({"type": "plain", "password": SECRET, "sice": 1}, "sice"),
        ({"type": "plain", "password": SECRET, "scans": "perhaps"}, "scans"),
    ],
    ids=str,
)
def test_its_options_are_checked(publish: Any, table: dict[str, Any], place: str) -> None:
    """Given options that its model does not take, when the table is read, then the place is named, and no value."""
    publish("other", plain=f"{__name__}:good")
    with pytest.raises(ValidationError) as caught:
        config(**table)
    (fault,) = caught.value.errors()
    assert fault["loc"] == (place,)
    assert SECRET not in str(caught.value)


def test_options_stay_out_of_representations(publish: Any) -> None:
    """Given a secret option, when configuration and options are shown, then it is not there."""
    publish("other", plain=f"{__name__}:good")
    made = config(type="plain", password=SECRET)
    assert SECRET not in f"{made!r} {made} {made.options!r} {made.options}"
    assert made.urls == []
    assert config(type="mongo", url="mongodb://db/").urls == ["mongodb://db/"]


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ({}, "there is no store type 'plain'; there are: memory, mongo. Packages add others"),
        ({"flat": "x:y"}, "there are: flat, memory, mongo"),
        ({"plain": "no_such_module:x"}, "of other 1.0, no_such_module:x cannot be loaded: ModuleNotFoundError"),
        ({"plain": f"{__name__}:nothing"}, "cannot be loaded: AttributeError"),
        ({"plain": f"{__name__}:no_type"}, "is no StoreType"),
        ({"plain": f"{__name__}:greedy"}, "has an option 'indexes', which all stores have"),
    ],
    ids=str,
)
def test_what_cannot_be_found_or_used(publish: Any, tmp_path: Path, types: dict[str, str], said: str) -> None:
    """Given a type that is not there, or of no use, when a file names it, then file, store and reason are told."""
    publish("other", **types)
    file = tmp_path / "holdfast.toml"
    file.write_text(f'[stores.carts]\ntype = "plain"\npassword = "{SECRET}"\n')
    with pytest.raises(SettingsError) as caught:
        read_config(file)
    assert f"{file}: stores.carts.type: " in str(caught.value)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


def test_two_packages_with_one_name(publish: Any) -> None:
    """Given two packages that publish the same name, when it is asked for, then both are told, and neither is taken."""
    publish("one", plain=f"{__name__}:good")
    publish("two", plain=f"{__name__}:greedy")
    with pytest.raises(ValidationError, match=r"several packages have a store type 'plain': one 1\.0, .*, two 1\.0"):
        config(type="plain", password=SECRET)


def test_ours_cannot_be_replaced(publish: Any) -> None:
    """Given a package that publishes a name of ours, when it is asked for, then it is ours."""
    publish("other", mongo=f"{__name__}:good", memory=f"{__name__}:good")
    assert isinstance(build_store("x", config(url="mongodb://db/")), MongoStore)
    assert isinstance(build_store("x", config(type="memory")), MemoryStore)


def test_indexes_of_a_store_that_keeps_none(publish: Any) -> None:
    """Given declared indexes, when the store's type keeps none, then that is a mistake of the configuration."""
    publish("other", plain=f"{__name__}:good")
    with pytest.raises(StoreConfigError, match="store 'carts': stores of the type 'plain' keep no indexes"):
        build_store("carts", config(type="plain", password=SECRET, indexes=["age"]))


@pytest.mark.parametrize("field", ["", "a..b", "$where", "a.$gt", "a\0", ".".join("x" * 33)])
def test_fields_that_no_index_can_be_on(field: str) -> None:
    """Given a field that is none, when an index on it is declared, then the error says so."""
    with pytest.raises(ValidationError) as caught:
        config(type="memory", indexes=[field])
    assert caught.value.errors()[0]["loc"] == ("indexes",)


def test_a_field_is_declared_once() -> None:
    """Given a field twice, when indexes are declared, then that is a mistake."""
    with pytest.raises(ValidationError, match="twice"):
        config(type="memory", indexes=["age", "age"])


# -- opening


class Shut(Plain):
    """Cannot be opened, for the reason it is given."""

    def __init__(self, fault: Exception) -> None:
        super().__init__("x", Options(password=SECRET))
        self.fault = fault

    async def open(self) -> None:
        raise self.fault


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (StoreUnavailable("nobody is there"), StoreUnavailable, "store 'carts': nobody is there"),
        (StoreConfigError("too old"), StoreConfigError, "store 'carts': too old"),
        (KeyError("disk"), StoreConfigError, "store 'carts' cannot be opened: KeyError: 'disk'"),
    ],
    ids=str,
)
async def test_a_store_that_cannot_be_opened_stops_the_worker(
    fault: Exception, kind: type[HoldfastError], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Given several stores, when one cannot be opened, then the worker ends, says which, and leaves none open."""
    stores: dict[str, EventStore] = {"default": MemoryStore(), "carts": Shut(fault)}
    worker = Worker(WorkerOptions(amqp_url="amqp://nowhere/"), stores)
    with caplog.at_level(logging.INFO), pytest.raises(kind) as caught:
        await worker.run()
    assert str(caught.value) == said
    with pytest.raises(HoldfastError, match="not open"):
        await stores["default"].health()
