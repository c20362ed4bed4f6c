"""Settings: one TOML file plus ``HEADWATER_*`` environment overrides, checked on reading.

``HEADWATER_BROKER`` is the broker's address; every other field is ``HEADWATER_<SECTION>_<FIELD>``,
for instance ``HEADWATER_WORKER_DATA_DIR``. Secrets come from the environment or from a file that a
``*_file`` field names; ``repr`` never shows them.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from operators import limits
from operators.privacy import Pseudonyms

__all__ = [
    "BrokerSettings",
    "Delivery",
    "PrivacySettings",
    "Secret",
    "Settings",
    "SettingsError",
    "TopicSettings",
    "WorkerSettings",
    "default_model_dir",
    "load_settings",
]

CONFIG_FILE_DEFAULT = "headwater.toml"
PSEUDONYM_KEY_CHARS_MIN = 32

Delivery = Literal["at_least_once", "exactly_once"]
Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1)]


class SettingsError(ValueError):
    """A setting is missing, unknown or out of range; the message names it and its source."""


class Secret(str):
    """A string that does not show itself."""

    def __repr__(self) -> str:
        return "'***'"


def default_model_dir() -> str:
    """The artefact that ships with the package."""
    return str(Path(__file__).resolve().parent.parent / "models" / "artefact")


class BrokerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to reach Kafka."""

    address: str = "127.0.0.1:9092"
    """``host:port``, several separated by commas."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    tls_ca_file: str | None = None
    tls_certificate_file: str | None = None
    tls_key_file: str | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: str | None = None
    """From ``HEADWATER_BROKER_SASL_PASSWORD`` only; refused in a TOML file."""
    sasl_password_file: str | None = None

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        if self.sasl_password is not None:
            shown["sasl_password"] = Secret(self.sasl_password)
        return f"BrokerSettings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def password(self) -> Secret | None:
        """The SASL password from the environment or from ``sasl_password_file``."""
        return _secret(self.sasl_password, self.sasl_password_file, "broker.sasl_password_file")


class TopicSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Names and shape of the topics."""

    view: str = "view"
    click: str = "click"
    purchase: str = "purchase"
    catalog: str = "catalog"
    recommendations: str = "recommendations"
    dead_letter: str = "dead-letter"
    erase: str = "erase"
    receipts: str = "erasure-receipts"
    partitions: Annotated[int, Meta(ge=1, le=1024)] = 8
    """Of the event topics, the recommendations and the changelog; fixed once data has flowed."""
    replication: Count = 1

    @property
    def events(self) -> tuple[str, str, str]:
        """Event topics in the order of ``operators.interest.EVENT_TYPES``."""
        return self.view, self.click, self.purchase

    @property
    def sources(self) -> tuple[str, str, str, str]:
        """What a worker folds: the event topics, and the erase topic at ``operators.erasure.ERASURE``."""
        return *self.events, self.erase


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One worker process."""

    app_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "headwater"
    """Consumer group, and prefix of the changelog topic."""
    data_dir: str = ".headwater"
    """Home of the state store; one directory per running worker."""
    model_dir: str = msgspec.field(default_factory=default_model_dir)
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    encoder_threads: Count = 1
    list_items: Annotated[int, Meta(ge=1, le=limits.list_items_max)] = 10
    seen_items: Literal["keep", "drop"] = "keep"
    """Whether a list may hold items of the user's recent history (groceries: keep; news: drop)."""
    repeat_weight: Annotated[float, Meta(ge=0, le=limits.boost_max)] | None = None
    """Where seen items are kept: this times log(1 + an item's count in the history) on its score; else the weight that
    was chosen for the model, or 2."""
    covisitation: bool = False
    """Whether what users went on to after an item moves it up, where weights were chosen for the model. What it brings
    depends on the data (infra/docs/QUALITY.md); an event then costs the core almost twice as much."""
    diversity: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """0: the best scores; towards 1: the more unlike each other the items of a list."""
    category_items_max: Annotated[int, Meta(ge=0, le=limits.list_items_max)] = 0
    """Items of one category of the catalogue in a list; 0: any number."""
    explain: bool = True
    """Fill ``because``; costs about a tenth of a list's time."""
    variant: str = "default"
    fetch_wait_ms: Annotated[int, Meta(ge=1, le=5_000)] = 100
    """Longest time the broker holds an empty fetch; Apache Kafka answers at once when data comes."""
    delivery: Delivery = "at_least_once"
    """``exactly_once`` puts every batch in a Kafka transaction: no list twice, and no window for a suspended worker,
    for about 8 ms of freshness and a fifth of the throughput (infra/docs/DELIVERY.md)."""
    session_timeout_s: Annotated[float, Meta(ge=1)] = 10.0
    commit_interval_s: Annotated[float, Meta(gt=0)] = 1.0
    batch_events_max: Annotated[int, Meta(ge=1, le=limits.batch_events_max)] = limits.batch_events_max
    yield_after_s: Annotated[float, Meta(ge=0)] = 0.0
    """Lists of a batch whose records have waited longer (the median, by record times) are made without the encoder and
    say ``degraded``; 0: however late, all are made with it. Not for a replay, whose records are old."""
    cache_users_max: Annotated[int, Meta(ge=1)] = limits.cache_users_max
    block_cache_mb: Annotated[int, Meta(ge=8)] = 128
    """RocksDB block cache, shared by all partitions of the worker."""
    write_buffer_mb: Annotated[int, Meta(ge=8)] = 64
    """RocksDB memtables, all partitions together."""
    web_host: str = "127.0.0.1"
    web_port: Port = 6066
    """Health and metrics; 0 switches the web server off."""


class PrivacySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What stands for a user id in everything that is stored and published."""

    pseudonym_key: str | None = None
    """From ``HEADWATER_PRIVACY_PSEUDONYM_KEY`` only; refused in a TOML file."""
    pseudonym_key_file: str | None = None

    def __repr__(self) -> str:
        shown = None if self.pseudonym_key is None else Secret(self.pseudonym_key)
        return f"PrivacySettings(pseudonym_key={shown!r}, pseudonym_key_file={self.pseudonym_key_file!r})"

    def pseudonyms(self) -> Pseudonyms | None:
        """The function of the key, or None where plain ids are kept.

        Raises:
            SettingsError: the key cannot be read or is too short to be one.
        """
        secret = _secret(self.pseudonym_key, self.pseudonym_key_file, "privacy.pseudonym_key_file")
        if secret is None:
            return None
        if len(secret) < PSEUDONYM_KEY_CHARS_MIN:
            raise SettingsError(f"privacy.pseudonym_key is too short: {PSEUDONYM_KEY_CHARS_MIN} characters or more")
        return Pseudonyms(secret.encode())

    def key_of(self, user_id: str) -> bytes:
        """The key of a user in changelog and recommendations."""
        pseudonyms = self.pseudonyms()
        return pseudonyms(user_id.encode()) if pseudonyms else user_id.encode()


def _secret(given: str | None, file: str | None, name: str) -> Secret | None:
    """A secret from the environment, or from the file that the setting ``name`` names."""
    if given is not None:
        return Secret(given)
    if file is None:
        return None
    try:
        return Secret(Path(file).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"{name}: cannot read it ({reason})") from None


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that can be set."""

    broker: BrokerSettings = msgspec.field(default_factory=BrokerSettings)
    topics: TopicSettings = msgspec.field(default_factory=TopicSettings)
    worker: WorkerSettings = msgspec.field(default_factory=WorkerSettings)
    privacy: PrivacySettings = msgspec.field(default_factory=PrivacySettings)


_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "broker": BrokerSettings,
    "topics": TopicSettings,
    "worker": WorkerSettings,
    "privacy": PrivacySettings,
}


def _from_file(path: str | None) -> dict[str, dict[str, Any]]:
    chosen = Path(path or CONFIG_FILE_DEFAULT)
    if path is None and not chosen.exists():
        return {}
    try:
        data = tomllib.loads(chosen.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{chosen}: cannot read the settings file ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{chosen}: not valid TOML ({error})") from None
    for section, field in (("broker", "sasl_password"), ("privacy", "pseudonym_key")):
        if isinstance(fields := data.get(section), dict) and field in fields:
            raise SettingsError(
                f"{chosen}: {section}.{field} does not belong in a file that is shared;"
                f" use {section}.{field}_file or HEADWATER_{section.upper()}_{field.upper()}"
            )
    return data


_VARIABLES: dict[str, tuple[str, str]] = {
    f"HEADWATER_{section}_{name}".upper(): (section, name)
    for section, struct in _SECTIONS.items()
    for name in struct.__struct_fields__
} | {"HEADWATER_BROKER": ("broker", "address")}
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP)")
_LIKE = 0.85
"""How alike a name must be to one of ours to be taken for a slip; other programs have variables of their own."""


def _from_environment(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    data: dict[str, dict[str, Any]] = {}
    # The short name last: it stands beside the long one where somebody gives another address for one command.
    for variable, (section, name) in _VARIABLES.items():
        if variable in environ:
            data.setdefault(section, {})[name] = environ[variable]
    for variable in sorted(environ.keys() - _VARIABLES.keys()):
        if variable.startswith("HEADWATER_") and not _is_service_link(variable, environ[variable]):
            _refuse_slip(variable)
    return data


def _is_service_link(variable: str, value: str) -> bool:
    """Whether Kubernetes set it, as it does for every service of a namespace: one may be called headwater-worker."""
    return bool(_SERVICE_LINK.search(variable)) or value.startswith(("tcp://", "udp://"))


def _refuse_slip(variable: str) -> None:
    """A misspelled variable would leave a default in force, a weaker guarantee perhaps, without a word."""
    section = variable.split("_")[1].lower()
    meant = difflib.get_close_matches(variable, _VARIABLES, n=1, cutoff=_LIKE)
    if meant:
        raise SettingsError(f"{variable} is no setting: did you mean {meant[0]}?")
    if section in _SECTIONS:
        raise SettingsError(f"{variable} is no setting; infra/docs/SETTINGS.md has them all")


def load_settings(
    path: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Defaults, then the TOML file, then the environment, then ``overrides`` (section -> field -> value).

    Without ``path``, ``headwater.toml`` of the working directory is read where it exists.

    Raises:
        SettingsError: a file that cannot be read, an unknown name, or a value out of range.
    """
    merged: dict[str, Any] = {}
    sources = (_from_file(path), _from_environment(os.environ if environ is None else environ), overrides or {})
    for source in sources:
        for section, fields in source.items():
            if not isinstance(fields, Mapping):
                raise SettingsError(f"settings: {section!r} is not a section (one of {', '.join(_SECTIONS)})")
            merged.setdefault(section, {}).update(fields)
    try:
        return msgspec.convert(merged, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"settings: {error}") from None
