"""Settings from the environment (``HOLDFAST_*``); what does not fit there is in the configuration file."""

from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .client import Encryption
from .config import Config, SettingsError, first_fault, read_config
from .events.feed import FeedMode
from .events.limits import DEFAULT_MAX_VALUE_BYTES, LARGEST_MAX_VALUE_BYTES
from .events.topology import DEFAULT_PARTITIONS, DEFAULT_STORE, MAX_PARTITIONS
from .events.urls import amqp_urls
from .plaintext import exposed_hosts
from .stores import EventStore, StoreConfig, build_store
from .worker import AccessConfig, WorkerOptions
from .worker.access import stores_of_nobody
from .worker.feed import FeedsConfig


class Settings(BaseSettings):
    """Everything that can be set. Each field is the environment variable ``HOLDFAST_<NAME>``."""

    model_config = SettingsConfigDict(
        env_prefix="HOLDFAST_", extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    amqp_url: SecretStr = Field(
        SecretStr("amqp://guest:guest@localhost:5672/"),
        description="AMQP URL of RabbitMQ, with user, password and virtual host; of a cluster, several, by commas.",
    )
    mongo_url: SecretStr | None = Field(
        None, description="MongoDB URL of the default store; its path names the database (else `holdfast`)."
    )
    config_file: Path | None = Field(
        None, description="TOML file with stores, in place of HOLDFAST_MONGO_URL, and access rules."
    )
    plaintext_hosts: str = Field(
        "", description="Hosts that may get a password unencrypted without a warning, separated by commas."
    )
    worker_name: str | None = Field(None, description="Tells workers apart. Default: host name and process id.")
    partitions: int = Field(
        DEFAULT_PARTITIONS, ge=1, le=MAX_PARTITIONS, description="Command queues; the same for all workers."
    )
    prefetch: int = Field(32, ge=1, le=1000, description="Messages in hand for each partition.")
    heartbeat: int = Field(
        6, ge=2, le=60, description="Seconds; a worker that is frozen or cut off is replaced within two of these."
    )
    store_patience: float = Field(
        5.0, gt=0, le=60, description="Seconds without its store until a worker lets go of its partitions."
    )
    drain_timeout: float = Field(
        25.0, gt=0, allow_inf_nan=False, description="Seconds to finish what is in hand when asked to stop."
    )
    max_value_bytes: int = Field(
        DEFAULT_MAX_VALUE_BYTES, ge=1, le=LARGEST_MAX_VALUE_BYTES, description="Largest value, as compact JSON."
    )
    head_cache_bytes: int = Field(192 * 1024 * 1024, ge=0, description="Memory for the newest versions of keys.")
    value_cache_bytes: int = Field(64 * 1024 * 1024, ge=0, description="Memory for values, for reads.")
    queue_max_length: int = Field(1_000_000, ge=1, description="Messages that a partition's queue holds at most.")
    feed: FeedMode | None = Field(
        None, description="What is told of changes: levels, store or off; for stores that the file does not name."
    )
    health_file: Path | None = Field(None, description="Written every second while the worker is ready.")
    timeout: float = Field(
        15.0, gt=0, allow_inf_nan=False, description="Seconds that a command of the command line waits for its answer."
    )
    keys_file: Path | None = Field(
        None, description="Encryption keys with which commands of the command line open and seal values."
    )
    log_level: str = Field("INFO", pattern="^(?i:debug|info|warning|error)$", description="Least level that is logged.")

    @field_validator("amqp_url")
    @classmethod
    def _check_amqp_url(cls, url: SecretStr) -> SecretStr:
        amqp_urls(url.get_secret_value())
        return url

    def encryption(self) -> Encryption | None:
        """What the command line opens and seals values with; None if there are no keys."""
        return None if self.keys_file is None else Encryption.from_file(self.keys_file)

    def worker_options(self) -> WorkerOptions:
        """The options of one worker process.

        :raises SettingsError: if the configuration file cannot be used.
        """
        given: dict[str, Any] = {"name": self.worker_name} if self.worker_name else {}
        return WorkerOptions(
            amqp_url=self.amqp_url.get_secret_value(),
            partitions=self.partitions,
            prefetch=self.prefetch,
            heartbeat=self.heartbeat,
            store_patience=self.store_patience,
            drain_timeout=self.drain_timeout,
            max_value_bytes=self.max_value_bytes,
            head_cache_bytes=self.head_cache_bytes,
            value_cache_bytes=self.value_cache_bytes,
            queue_max_length=self.queue_max_length,
            health_file=self.health_file,
            access=self._access(),
            without_scans=frozenset(name for name, store in self._config.stores.items() if not store.scans),
            feed=self._feed(),
            outbox=self._config.outbox,
            lifetimes={name: store.ttl_seconds for name, store in self._configured.items() if store.ttl_seconds},
            retention={name: store.retention for name, store in self._configured.items() if store.retention},
            **given,
        )

    def stores(self) -> dict[str, EventStore]:
        """The configured stores by name, not opened yet.

        :raises SettingsError: if there is none, or the file cannot be used.
        """
        return {name: build_store(name, config) for name, config in self._stores.items()}

    def exposed_hosts(self, *, stores: bool = False) -> list[str]:
        """Hosts that get a password in plain text, but for those where that is meant to be.

        :param stores: look at the URLs of stores too.
        :raises SettingsError: if there are to be stores, and there is none.
        """
        urls = [self.amqp_url.get_secret_value()]
        if stores:
            urls += chain.from_iterable(store.urls for store in self._stores.values())
        meant = {host.strip() for host in self.plaintext_hosts.split(",")}
        return [host for host in dict.fromkeys(chain(*map(exposed_hosts, urls))) if host not in meant]

    @cached_property
    def _config(self) -> Config:
        return Config() if self.config_file is None else read_config(self.config_file)

    @property
    def _configured(self) -> Mapping[str, StoreConfig]:
        """The stores that the file names, or none."""
        return self._config.stores

    @property
    def _stores(self) -> Mapping[str, StoreConfig]:
        if self._config.stores:
            return self._config.stores
        if self.mongo_url is None:
            raise SettingsError(
                "no store is configured: set HOLDFAST_MONGO_URL to a MongoDB replica set "
                "(mongodb://host/holdfast?replicaSet=rs0), or name stores in a file (HOLDFAST_CONFIG_FILE)"
            )
        return {DEFAULT_STORE: StoreConfig(url=self.mongo_url.get_secret_value())}

    def _feed(self) -> FeedsConfig:
        feed = self._config.feed
        unknown = feed.stores.keys() - self._stores.keys() if feed.stores else ()
        if unknown:
            raise SettingsError(
                f"{self.config_file}: feed.stores: there is no store {min(unknown)!r}; there are: "
                + ", ".join(sorted(self._stores))
            )
        return feed if self.feed is None else feed.model_copy(update={"mode": self.feed})

    def _access(self) -> AccessConfig:
        access = self._config.access
        if access.rules and (unknown := stores_of_nobody(access, self._stores)):
            raise SettingsError(
                f"{self.config_file}: access.rules: no store matches {unknown[0]!r}; there are: "
                + ", ".join(sorted(self._stores))
            )
        return access


def load_settings(**given: Any) -> Settings:
    """The settings of this process; what is given here goes before the environment.

    :raises SettingsError: naming the variable that is wrong; values are not shown, they may be secret.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise SettingsError(f"HOLDFAST_{first_fault(error, upper=True)}") from None
