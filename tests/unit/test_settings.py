"""Settings: what the environment and the configuration file may say, and how their mistakes are told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.config import SettingsError, read_config
from holdfast.events import StoreConfigError
from holdfast.settings import Settings, load_settings
from holdfast.stores import MemoryStore, MongoStore, RetentionConfig
from holdfast.stores.types import MongoOptions
from holdfast.worker import AccessConfig, AccessRule, Worker, WorkerOptions

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"HOLDFAST_{name.upper()}", raising=False)


def test_without_environment_there_are_defaults() -> None:
    """Given no variables, when settings are loaded, then they equal the worker's own defaults."""
    options = load_settings().worker_options()
    defaults = WorkerOptions(amqp_url="amqp://guest:guest@localhost:5672/")
    assert options == defaults


GIVEN: dict[str, tuple[str, Any]] = {
    "amqp_url": ("amqps://ada:secret@broker:5671/flights", "amqps://ada:secret@broker:5671/flights"),
    "worker_name": ("w-1", "w-1"),
    "partitions": ("16", 16),
    "prefetch": ("7", 7),
    "heartbeat": ("10", 10),
    "store_patience": ("2.5", 2.5),
    "drain_timeout": ("60", 60.0),
    "max_value_bytes": ("2048", 2048),
    "head_cache_bytes": ("0", 0),
    "value_cache_bytes": ("1000", 1000),
    "queue_max_length": ("99", 99),
    "health_file": ("/run/worker.json", Path("/run/worker.json")),
}


def test_every_variable_reaches_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given all variables of a worker, when settings are loaded, then its options have their values."""
    for name, (text, _) in GIVEN.items():
        monkeypatch.setenv(f"HOLDFAST_{name.upper()}", text)
    options = load_settings().worker_options()
    for name, (_, value) in GIVEN.items():
        assert getattr(options, "name" if name == "worker_name" else name) == value


def test_every_setting_has_a_description_for_the_help() -> None:
    """Given the settings, when the help lists them, then each has something to say."""
    assert all(field.description for field in Settings.model_fields.values())


def test_what_is_given_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a variable and an argument, when settings are loaded, then the argument counts, and None is no argument."""
    monkeypatch.setenv("HOLDFAST_PARTITIONS", "4")
    assert load_settings(partitions=2).partitions == 2
    assert load_settings(partitions=None).partitions == 4


def test_empty_and_foreign_variables_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given an empty variable and one of a later version, when settings are loaded, then the defaults hold."""
    monkeypatch.setenv("HOLDFAST_PARTITIONS", "")
    monkeypatch.setenv("HOLDFAST_SOMETHING_NEW", "1")
    assert load_settings().partitions == 8


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("partitions", "many"),
        ("partitions", "0"),
        ("partitions", "257"),
        ("prefetch", "0"),
        ("heartbeat", "1"),
        ("store_patience", "0"),
        ("store_patience", "nan"),
        ("drain_timeout", "inf"),
        ("max_value_bytes", "2097153"),
        ("head_cache_bytes", "-1"),
        ("queue_max_length", "1.5"),
        ("timeout", "-1"),
        ("timeout", "inf"),
        ("log_level", "loud"),
        ("amqp_url", f"amqp://ada:{SECRET}@broker:port/"),
        ("amqp_url", f"amqp://ada:{SECRET}@[broker/"),
        ("amqp_url", f"http://ada:{SECRET}@broker/"),
        ("amqp_url", f"ada:{SECRET}"),
        ("amqp_url", f"amqp:{SECRET}"),
    ],
)
def test_a_mistake_names_its_variable_and_not_its_value(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """Given a wrong value, when settings are loaded, then the one-line error names the variable, and no value."""
    monkeypatch.setenv(f"HOLDFAST_{name.upper()}", text)
    with pytest.raises(SettingsError, match=f"^HOLDFAST_{name.upper()}: ") as caught:
        load_settings()
    message = str(caught.value)
    assert SECRET not in message
    assert "\n" not in message
    assert "Value error" not in message


def test_secrets_stay_out_of_representations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given URLs with passwords, when settings are printed, then the passwords are not in it."""
    monkeypatch.setenv("HOLDFAST_AMQP_URL", f"amqp://ada:{SECRET}@broker/")
    monkeypatch.setenv("HOLDFAST_MONGO_URL", f"mongodb://ada:{SECRET}@db/")
    settings = load_settings()
    assert SECRET not in f"{settings!r} {settings}"
    assert SECRET not in repr(settings.stores())


# Stores.


def test_a_mongo_url_makes_the_default_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given HOLDFAST_MONGO_URL, when the stores are made, then there is one of the name default."""
    monkeypatch.setenv("HOLDFAST_MONGO_URL", "mongodb://db/holdfast?replicaSet=rs0")
    (name, store), *rest = load_settings().stores().items()
    assert (name, rest) == ("default", [])
    assert isinstance(store, MongoStore)


def test_without_stores_the_error_says_what_to_set() -> None:
    """Given neither a URL nor a file, when the stores are made, then the error names both variables."""
    with pytest.raises(SettingsError, match=r"HOLDFAST_MONGO_URL .*HOLDFAST_CONFIG_FILE"):
        load_settings().stores()


def test_a_file_goes_before_the_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Given a URL and a file of two stores, when the stores are made, then they are the file's."""
    file = tmp_path / "holdfast.toml"
    file.write_text(
        '[stores.default]\nurl = "mongodb://db/one?replicaSet=rs0"\ndatabase = "two"\ntimeout_seconds = 2\n'
        '[stores.scratch]\ntype = "memory"\n'
    )
    monkeypatch.setenv("HOLDFAST_MONGO_URL", "mongodb://elsewhere/")
    monkeypatch.setenv("HOLDFAST_CONFIG_FILE", str(file))
    stores = load_settings().stores()
    assert {name: type(store) for name, store in stores.items()} == {"default": MongoStore, "scratch": MemoryStore}
    options = read_config(file).stores["default"].options
    assert isinstance(options, MongoOptions)
    assert options.database == "two"


def test_a_store_can_have_a_retention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a file with a retention for one of two stores, then the worker has it for that one."""
    file = tmp_path / "holdfast.toml"
    file.write_text(
        '[stores.default]\nurl = "mongodb://db/one"\n[stores.default.retention]\nversions = 3\n'
        '[stores.scratch]\ntype = "memory"\n'
    )
    monkeypatch.setenv("HOLDFAST_CONFIG_FILE", str(file))
    settings = load_settings()
    assert settings.worker_options().retention == {"default": RetentionConfig(versions=3)}
    assert Worker(settings.worker_options(), settings.stores())
    with pytest.raises(StoreConfigError, match="retention for 'elsewhere', which is no store"):
        Worker(replace(settings.worker_options(), retention={"elsewhere": RetentionConfig(days=1)}), settings.stores())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stores = 1", "stores: "),
        ("[stores.default", "no TOML"),
        ('[stores.default]\nurl = "mongodb://ada:hunter2@db/"\nspeed = 3', "stores.default.speed: "),
        ('[stores.default]\ntype = "redis"\nurl = "redis://ada:hunter2@db/"', "stores.default.type: "),
        ("[stores.default]", "stores.default.url: Field required"),
        ('[stores.a]\ntype = "memory"\nurl = "mongodb://ada:hunter2@db/"', "stores.a.url: Extra inputs"),
        ('[stores.default]\nurl = ["mongodb://ada:hunter2@db/"]', "stores.default.url: "),
        (
            '[stores.default]\nurl = "mongodb://ada:hunter2@db/"\ntimeout_seconds = 0',
            "stores.default.timeout_seconds: ",
        ),
        ('[stores."a/b"]\ntype = "memory"', "'a/b' is no store name"),
        ('[stores.""]\ntype = "memory"', "'' is no store name"),
        ('[stores."a b"]\ntype = "memory"', "'a b' is no store name"),
        (f'[stores.{"s" * 65}]\ntype = "memory"', "is no store name"),
        ('other = "hunter2"\n[stores.a]\ntype = "memory"', "other: "),
    ],
)
def test_a_mistake_in_the_file_names_file_and_place(tmp_path: Path, text: str, said: str) -> None:
    """Given a wrong file, when it is read, then the one-line error names file and entry, and no secret."""
    file = tmp_path / "holdfast.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_config(file)
    message = str(caught.value)
    assert str(file) in message
    assert said in message
    assert SECRET not in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Given no file, a folder or bytes that are no text, when it is read, then the error names it."""
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "none.toml", tmp_path, binary):
        with pytest.raises(SettingsError, match=path.name):
            read_config(path)


# Access rules.

RULE = '[[access.rules]]\nuser = "*"\nstore = "default"\nkey = "*"\noperations = ["read"]\n'


def test_access_rules_reach_the_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Given a file of rules without stores, when settings are loaded, then the worker has them, and the URL's store."""
    file = tmp_path / "holdfast.toml"
    file.write_text(f'[access]\ndefault = "closed"\n{RULE}')
    monkeypatch.setenv("HOLDFAST_CONFIG_FILE", str(file))
    monkeypatch.setenv("HOLDFAST_MONGO_URL", "mongodb://db/")
    settings = load_settings()
    rule = AccessRule(user="*", store="default", key="*", operations=["read"])
    assert settings.worker_options().access == AccessConfig(default="closed", rules=[rule])
    assert list(settings.stores()) == ["default"]


def test_a_rule_for_no_store_is_a_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Given a rule whose store none is named like, when settings are loaded, then the error names it and the stores."""
    file = tmp_path / "holdfast.toml"
    file.write_text(f'[stores.carts]\ntype = "memory"\n[access]\ndefault = "closed"\n{RULE}')
    monkeypatch.setenv("HOLDFAST_CONFIG_FILE", str(file))
    with pytest.raises(SettingsError, match=r"no store matches 'default'; there are: carts"):
        load_settings().worker_options()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # That rules are in force or not is never left to a default.
        (RULE, "access.default: Field required"),
        ("[access]", "access.default: Field required"),
        ('[access]\ndefault = "deny"', "access.default: "),
        ('[access]\ndefault = "closed"\nrule = 1', "access.rule: "),
        (f'[access]\ndefault = "closed"\n{RULE}effect = "deny"', "access.rules.0.effect: Extra inputs"),
        (
            f'[access]\ndefault = "closed"\n{RULE}'.replace('"read"', '"write"'),
            "access.rules.0.operations.0: 'write'",
        ),
    ],
)
def test_a_mistake_in_the_rules_names_its_place(tmp_path: Path, text: str, said: str) -> None:
    """Given a wrong access table, when the file is read, then the one-line error names file and place."""
    file = tmp_path / "holdfast.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_config(file)
    assert str(caught.value).startswith(f"{file}: {said}")
    assert "\n" not in str(caught.value)
