"""Settings: defaults < a running dev server's dev.json < orchestrator.toml < ORCHESTRATOR_* variables < flags.

A variable whose name ends in `_FILE` names a file that holds the value, for secrets that are mounted as files.
Only what is set overrides. An unknown key or a bad value is refused with the key, the problem and where it came from;
nothing printed from here ever holds a password.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from contracts.errors import Misconfigured
from shared_state.crash_points import refuse_crashes

PREFIX = "ORCHESTRATOR_"
FILE_SUFFIX = "_FILE"
CONFIG_VARIABLE = "ORCHESTRATOR_CONFIG"
CONFIG_FILE = Path("orchestrator.toml")
DEV_FILE = "dev.json"

# Kubernetes gives every container a variable per service; a service called `orchestrator` must not stop a start.
_NOT_OURS = re.compile(
    r"^ORCHESTRATOR_(TEST_.*|CONFIG|CRASH_AT|CRASH_PERMITTED|(.*_)?SERVICE_(HOST|PORT(_.*)?)|(.*_)?PORT(_\d+_TCP.*)?)$"
)
SECRET_PARAMETER = re.compile(r"secret|key|token|password|credential", re.IGNORECASE)
_DATABASE_SCHEMES = ("postgresql",)
_BROKER_SCHEMES = ("redis", "rediss", "amqp", "amqps")
_MODEL = re.compile(r"[a-z][a-z0-9_/-]*:\S+")
_SECRET_LENGTH = 16
_ARTIFACT_SCHEMES = ("postgres", "file", "s3")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def masked(url: str) -> str:
    """The URL without its password and without secret-looking parameters: what may be printed or logged."""
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return "***"
    netloc = parts.netloc
    if password is not None:
        netloc = f"{parts.username or ''}:***@{netloc.rpartition('@')[2]}"
    query = urlencode(
        [(name, "***" if SECRET_PARAMETER.search(name) else value) for name, value in parse_qsl(parts.query)],
        safe="*/:,",
        quote_via=quote,
    )
    return urlunsplit(parts._replace(netloc=netloc, query=query))


class Listen(NamedTuple):
    """Where a process listens; port 0 takes a free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        return self.host in _LOOPBACK


def _checked_listen(text: str) -> Listen:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ValueError("must have the form HOST:PORT, like 127.0.0.1:9464 or [::1]:9464")
    return Listen(host, int(port))


def _checked_url(url: str, schemes: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(url)
        port_is_sane = parts.port is None or parts.port > 0
    except ValueError:  # its text can hold a piece of the password
        raise ValueError("is not a URL: look at host and port, and %-escape what is special in the password") from None
    if parts.scheme not in schemes or not port_is_sane:
        raise ValueError(f"must be a URL that starts with {' or '.join(f'{scheme}:' for scheme in schemes)}")
    return url


def _leads_to_the_writer(url: str) -> str:
    """Every decision is made on the writer: a replica shows what was, and would decide by that."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    wanted = query.get("target_session_attrs", "any" if "," in parts.netloc + query.get("host", "") else "primary")
    if wanted not in ("read-write", "primary"):
        raise ValueError("may lead to a replica: with several servers it needs target_session_attrs=read-write")
    return url


class Settings(BaseModel):
    """Everything a process may be told. Times are seconds; URLs are plain strings, masked in every text form."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    database_url: str = "postgresql://orchestrator@127.0.0.1:5432/orchestrator"
    broker_url: str = "redis://127.0.0.1:6379/0"
    artifact_url: str = "postgres:"
    api_url: str = "http://127.0.0.1:8080"
    api_key: SecretStr | None = None
    listen_host: str = Field(default="127.0.0.1", min_length=1)
    listen_port: int = Field(default=8080, ge=0, le=65535)
    data_dir: Path = Path(".orchestrator")
    signing_keys: dict[str, SecretStr] = Field(default_factory=dict)
    """Message signing keys by name; the first one signs, all are accepted. As text: `name:secret,name2:secret2`."""
    worker_name: str = Field(default="", max_length=200)
    worker_slots: int = Field(default=100, ge=1, le=1000)
    lease_seconds: float = Field(default=30.0, ge=1, le=3600)
    drain_seconds: float = Field(default=20.0, ge=0, le=3600)
    """How long a worker that was told to stop may finish what it holds."""
    sweep_seconds: float = Field(default=1.0, gt=0, le=3600)
    republish_seconds: float = Field(default=10.0, gt=0, le=3600)
    verify_seconds: float = Field(default=60.0, ge=0, le=86_400)
    """Pause between two looks at the invariants by the loops; 0: they never look."""
    max_body_bytes: int = Field(default=8_000_000, ge=1024, le=1_000_000_000)
    max_json_depth: int = Field(default=32, ge=8, le=100)
    max_string_length: int = Field(default=262_144, ge=1000, le=1_000_000_000)
    """Characters of one text in a body."""
    max_page_size: int = Field(default=200, ge=200, le=10_000)
    max_plan_steps: int = Field(default=10_000, ge=1, le=1_000_000)
    """Of a plan that a caller brings; what planners make is bounded by their team."""
    max_open_tasks: int = Field(default=100_000, ge=1, le=1_000_000_000)
    """Unfinished tasks of one tenant."""
    rate_per_second: float = Field(default=1000.0, ge=0, le=1_000_000)
    """Requests of one key; 0 limits nothing."""
    rate_burst: int = Field(default=2000, ge=1, le=1_000_000)
    max_requests: int = Field(default=500, ge=1, le=100_000)
    """Requests in progress at once in one API process."""
    max_ready_steps: int = Field(default=1_000_000, ge=1, le=1_000_000_000)
    """Steps that are ready and have not begun, held ones included, of all tenants: above it no new work is taken."""
    min_free_disk_bytes: int = Field(default=200_000_000, ge=0, le=10**18)
    row_level_security: Literal["auto", "require", "off"] = "auto"
    """Whether the API works as a role that sees one tenant only: where the database has it, or not without, or not."""
    retention_days: int = Field(default=30, ge=1, le=36_500)
    dead_letter_retention_days: int = Field(default=90, ge=1, le=36_500)
    """Closed dead letters, and the tasks they belong to, are kept at least this long."""
    artifact_grace_days: int = Field(default=7, ge=2, le=36_500)
    """Artifacts that nothing refers to go this long after they were last put: longer than any attempt may take."""
    dead_letter_webhook_url: SecretStr | None = None
    """Told of every new dead letter. A secret, since many such addresses hold a token."""
    dead_letter_webhook_secret: SecretStr | None = None
    metrics_listen: str = ""
    """HOST:PORT where this process tells of itself; nothing: nowhere."""
    metrics_token: SecretStr | None = None
    """What Prometheus has to show, as `Authorization: Bearer TOKEN`."""
    flower_listen: str = "127.0.0.1:5555"
    flower_user: str = Field(default="flower", pattern=r"^[A-Za-z0-9._-]{1,60}$")
    flower_password: SecretStr | None = None
    model: str = Field(default="", max_length=300)
    """`provider:name`: the model of LLM agents whose team names none; empty for none."""
    model_base_url: str | None = None
    model_api_key: SecretStr | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, url: str) -> str:
        scheme, colon, rest = url.partition(":")
        known = {"postgres": "postgresql", "postgresql+psycopg": "postgresql"}
        return _leads_to_the_writer(_checked_url(known.get(scheme, scheme) + colon + rest, _DATABASE_SCHEMES))

    @field_validator("broker_url")
    @classmethod
    def _broker_url(cls, url: str) -> str:
        return _checked_url(url, _BROKER_SCHEMES)

    @field_validator("artifact_url")
    @classmethod
    def _artifact_url(cls, url: str) -> str:
        return _checked_url(url, _ARTIFACT_SCHEMES)

    @field_validator("api_url")
    @classmethod
    def _api_url(cls, url: str) -> str:
        return _checked_url(url, ("http", "https")).rstrip("/")

    @field_validator("model")
    @classmethod
    def _model(cls, name: str) -> str:
        if name and not _MODEL.fullmatch(name):
            raise ValueError("must have the form provider:name, such as openai-chat:gpt-5-mini")
        return name

    @field_validator("model_base_url")
    @classmethod
    def _model_base_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(_checked_url(url, ("http", "https")))
        if not parts.hostname or parts.username is not None or parts.password is not None:
            raise ValueError("must name a host, and no user: a key belongs into model_api_key")
        return url.rstrip("/")

    @field_validator("dead_letter_webhook_url")
    @classmethod
    def _webhook_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            _checked_url(url.get_secret_value(), ("http", "https"))
            parts = urlsplit(url.get_secret_value())
            if not parts.hostname or parts.username is not None or parts.password is not None:
                raise ValueError("must name a host, and no user: a receiver knows us by the signature")
        return url

    @field_validator("metrics_listen", "flower_listen")
    @classmethod
    def _listen(cls, text: str) -> str:
        if text:
            _checked_listen(text)
        return text

    @field_validator("dead_letter_webhook_secret", "metrics_token", "flower_password")
    @classmethod
    def _long_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value()) < _SECRET_LENGTH:
            raise ValueError(f"is shorter than {_SECRET_LENGTH} characters")
        return secret

    @field_validator("signing_keys", mode="before")
    @classmethod
    def _signing_keys(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [pair.partition(":") for pair in value.split(",") if pair.strip()]
        if any(not colon for _, colon, _ in pairs):
            raise ValueError("must have the form name:secret,name2:secret2")
        return {name.strip(): secret.strip() for name, _, secret in pairs}

    @model_validator(mode="after")
    def _keys_are_strong(self) -> Self:
        for name, secret in self.signing_keys.items():
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
                raise ValueError("signing_keys: a name is 1 to 40 letters, digits, - or _")
            if len(secret.get_secret_value()) < _SECRET_LENGTH:
                raise ValueError(f"signing_keys: the secret of {name!r} is shorter than {_SECRET_LENGTH} characters")
        return self

    @model_validator(mode="after")
    def _metrics_are_private(self) -> Self:
        if self.metrics_listen and self.metrics_token is None and not _checked_listen(self.metrics_listen).is_loopback:
            raise ValueError("metrics_listen: others can reach it there; set metrics_token, or listen on 127.0.0.1")
        return self

    @property
    def metrics_address(self) -> Listen | None:
        return _checked_listen(self.metrics_listen) if self.metrics_listen else None

    @property
    def flower_address(self) -> Listen:
        return _checked_listen(self.flower_listen)

    @model_validator(mode="after")
    def _model_is_named(self) -> Self:
        for key in ("model_base_url", "model_api_key"):
            if getattr(self, key) is not None and not self.model:
                raise ValueError(f"{key}: says how to reach a model, but none is named: set model as well")
        return self

    def __repr_args__(self) -> Any:
        for name, value in super().__repr_args__():
            is_url = name is not None and name.endswith("_url") and isinstance(value, str)
            yield name, masked(value) if is_url else value

    def __str__(self) -> str:
        return repr(self)


@dataclass(frozen=True)
class _Layer:
    """Values from one place; `origin(key)` says for people where a key was set."""

    values: Mapping[str, object]
    origin: str

    def origin_of(self, key: str) -> str:
        return self.origin.replace("{KEY}", key.upper()).replace("{flag}", _flag_of(key))


def _flag_of(key: str) -> str:
    """The command line's name for a setting."""
    return "--" + key.removeprefix("listen_").replace("_", "-")


def settings_file(environ: Mapping[str, str]) -> Path | None:
    """The file to read: $ORCHESTRATOR_CONFIG, or ./orchestrator.toml where there is one."""
    named = environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    return CONFIG_FILE if CONFIG_FILE.is_file() else None


def from_environment(overrides: Mapping[str, object] | None = None, *, starts_what_may_crash: bool = False) -> Settings:
    """What a process started here with these flags would use. Raises Misconfigured.

    `starts_what_may_crash` is for `orchestrator dev`, which hands crash points on and never dies of them itself.
    """
    refuse_crashes(os.environ, permitted=starts_what_may_crash)
    return load(os.environ, settings_file(os.environ), overrides or {})


def load(environ: Mapping[str, str], file: Path | None, overrides: Mapping[str, object]) -> Settings:
    """Merge the layers and check them; `overrides` whose value is None were not given. Raises Misconfigured."""
    layers = [
        *([_file_layer(file)] if file is not None else []),
        _environment_layer(environ),
        _Layer({key: value for key, value in overrides.items() if value is not None}, "the flag {flag}"),
    ]
    for layer in layers:
        _refuse_unknown_keys(layer)
    return _validated([_dev_layer(_data_dir(layers)), *layers])


def child_environment(settings: Settings) -> dict[str, str]:
    """ORCHESTRATOR_* variables that give a child process exactly these settings. Holds secrets: never print it."""
    variables: dict[str, str] = {}
    for key in Settings.model_fields:
        value = getattr(settings, key)
        if key == "signing_keys":
            value = ",".join(f"{name}:{secret.get_secret_value()}" for name, secret in value.items())
        elif isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None and value != "":
            variables[PREFIX + key.upper()] = str(value)
    return variables


def _file_layer(file: Path) -> _Layer:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Misconfigured(f"{file}: there is no such settings file; make it or unset {CONFIG_VARIABLE}.") from None
    except OSError as error:
        raise Misconfigured(f"{file}: the settings file cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{file}: the settings file is not valid TOML: {error}.") from None
    return _Layer(values, str(file))


def _environment_layer(environ: Mapping[str, str]) -> _Layer:
    """An empty variable counts as not set: that is what `NAME=${NAME:-}` in a compose file means."""
    values: dict[str, object] = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX) or not value:
            continue
        if _NOT_OURS.match(name) and name != "ORCHESTRATOR_LISTEN_PORT":
            continue
        key = name.removeprefix(PREFIX).removesuffix(FILE_SUFFIX).lower()
        if name.endswith(FILE_SUFFIX) and key in Settings.model_fields:
            values[key] = _content_of(name, Path(value), environ)
        else:
            values[name.removeprefix(PREFIX).lower()] = value
    return _Layer(values, "the environment variable " + PREFIX + "{KEY}")


def _content_of(name: str, path: Path, environ: Mapping[str, str]) -> str:
    """What the file says that the variable names, without the newline at its end."""
    direct = name.removesuffix(FILE_SUFFIX)
    if environ.get(direct):
        raise Misconfigured(f"{direct} and {name} are both set: unset one of them.")
    try:
        content = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise Misconfigured(f"{name}: {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"{name}: {path} is not text in UTF-8.") from None
    if not content:
        raise Misconfigured(f"{name}: {path} is empty.")
    return content


def _dev_layer(data_dir: Path) -> _Layer:
    """What a dev server on this data directory wrote for its clients; unreadable or absent means nothing is set."""
    path = data_dir / DEV_FILE
    try:
        written = json.loads(path.read_text(encoding="utf-8"))["settings"]
        values = {str(key): value for key, value in dict(written).items() if key in Settings.model_fields}
    except (OSError, ValueError, KeyError, TypeError):
        values = {}
    return _Layer(values, str(path))


def _data_dir(layers: list[_Layer]) -> Path:
    named = [layer.values["data_dir"] for layer in layers if layer.values.get("data_dir")]
    default: Path = Settings.model_fields["data_dir"].default
    return Path(str(named[-1])) if named else default


def _refuse_unknown_keys(layer: _Layer) -> None:
    for key in layer.values:
        if key not in Settings.model_fields:
            near = difflib.get_close_matches(key, Settings.model_fields, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else "docs/configuration.md lists all settings."
            raise Misconfigured(f"{key}: unknown setting (from {layer.origin_of(key)}); {remedy}")


def _validated(layers: list[_Layer]) -> Settings:
    origins = {key: layer.origin_of(key) for layer in layers for key in layer.values}
    values = {key: value for layer in layers for key, value in layer.values.items()}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    problem = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        key, _, problem = problem.partition(": ")
    else:
        key = str(first["loc"][0])
    raise Misconfigured(f"{key}: {problem[:1].lower()}{problem[1:]} (from {origins.get(key, 'the defaults')}).")
