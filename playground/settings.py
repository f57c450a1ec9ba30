"""The operator's settings, from playground.toml and the environment, which wins. The environment's only reader.

`cache_dir` in the file is PLAYGROUND_CACHE_DIR in the environment, and so on. `python -m docs.generate` writes the
table in docs/operate/settings.md and examples/playground.toml from the fields' descriptions, defaults and examples.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

import platformdirs
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from playground.errors import BadSettings

_PREFIX = "PLAYGROUND_"
_NAME = "vlm-quant-playground"  # of its folders
_SHORTEST_KEY = 16  # characters
_SURROUNDINGS = ("space_id", "space_host", "cuda_visible_devices")  # read from the environment only
_SECRET_NAMES = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|KEY", re.IGNORECASE)  # workers inherit no such variable
_PRIVATE_NETWORKS = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1", "fc00::/7")


class Login(StrEnum):
    NONE = "none"
    PASSWORD = "password"  # noqa: S105
    HUGGINGFACE = "huggingface"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class EndpointSettings(BaseModel):
    """One OpenAI-compatible server elsewhere (docs/use/endpoints.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(pattern=r"^\w[\w .-]{0,39}$")
    url: str  # of the API: .../v1
    model: str = Field(min_length=1, max_length=300)
    key: SecretStr | None = None
    key_env: str | None = None  # the environment variable that holds the key
    connect_s: float = Field(default=10, gt=0)
    silence_s: float = Field(default=120, gt=0)  # before the first token, and between two
    answer_s: float = Field(default=600, gt=0)  # of a whole answer
    at_once: int = Field(default=4, ge=1, le=64)  # questions of everybody

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", url):
            raise ValueError("invalid url: write http://10.0.0.5:8000/v1, without a name, password or query")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _has_one_key(self) -> Self:
        if self.key is not None and self.key_env is not None:
            raise ValueError("key and key_env exclude each other: set one of the two.")
        if self.key_env is not None and not _SECRET_NAMES.search(self.key_env):
            raise ValueError(
                "The name in key_env needs TOKEN, SECRET, PASSW, CREDENTIAL or KEY in it: workers inherit no such "
                "variable."
            )
        if self.key_env is not None and not os.environ.get(self.key_env):
            raise ValueError(f"The environment variable {self.key_env} (key_env) is not set.")
        return self

    @property
    def secret(self) -> SecretStr | None:
        return self.key if self.key_env is None else SecretStr(os.environ.get(self.key_env, ""))


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,  # it may be a password
    )

    # --- where it listens, and what it says ----------------------------------------------------------------------
    host: str = Field(
        default="127.0.0.1",
        validation_alias=AliasChoices(f"{_PREFIX}HOST", "GRADIO_SERVER_NAME"),
        description="Address to listen on; 0.0.0.0 means all addresses.",
    )
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        validation_alias=AliasChoices(f"{_PREFIX}PORT", "GRADIO_SERVER_PORT"),
        examples=[7860],
        description="Port to listen on. Default: the first free port from 7860 on.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        examples=[["play.example.org"]],
        description="Names under which a browser may reach the app, with the port if it is not the usual one; "
        "'*' means all names. IP addresses, localhost, host and a Space's own name need no entry. Separated by ',' in "
        "the environment.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        examples=[["127.0.0.1", "10.0.0.0/8"]],
        description="Addresses or networks of reverse proxies whose X-Forwarded-For names the visitor's address. "
        "Default: none; on a Hugging Face Space the private networks. Separated by ',' in the environment.",
    )
    root_path: str = Field(
        default="",
        examples=["/team/vlm"],
        description="Path below which a reverse proxy shows the app, such as /team/vlm. The proxy takes it off.",
    )
    share: bool = Field(
        default=False,
        description="Open Gradio's public link, a tunnel through gradio.live, which the page shows with a QR code. It "
        "needs login = password.",
    )
    log_format: LogFormat = Field(default=LogFormat.TEXT, description="text, or json with one object per line.")

    # --- folders -------------------------------------------------------------------------------------------------
    cache_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir(_NAME)),
        examples=["/data"],
        description="Folder for what the app can make again: embeddings, checksums, measured values. Default: the "
        "user's cache.",
    )
    data_dir: Path | None = Field(
        default=None,
        examples=["/data"],
        description="Folder for notebooks, files quantized on the page, and the list of opened pairs. Default: "
        "cache_dir where that is set, else the user's data folder.",
    )
    model_dirs: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        description="Folders whose GGUF files may be opened from the page. Separated by ':' in the environment.",
    )

    results_dir: Path | None = Field(
        default=None,
        examples=["/data/results"],
        description="Folder whose results documents the page Results shows to every visitor, with all folders below it."
        " Default: none.",
    )
    results_repos: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        examples=[["owner/name"]],
        description="Dataset repositories of the Hub whose results documents the page Results shows to every visitor, "
        "as owner/name or owner/name@revision. Separated by ',' in the environment.",
    )

    # --- budgets -------------------------------------------------------------------------------------------------
    memory_budget_bytes: int | None = Field(
        default=None,
        gt=0,
        examples=[16_000_000_000],
        description="Host memory for all loaded models together. Default: 80 % of the free memory at the start.",
    )
    gpu_budget_bytes: int | None = Field(
        default=None,
        gt=0,
        examples=[20_000_000_000],
        description="Memory of each GPU for all models loaded there. Default: the free memory, less a margin.",
    )
    idle_unload_s: float = Field(
        default=1800, ge=0, description="The app unloads a model that was idle for this many seconds; 0 means never."
    )
    worker_silence_s: float = Field(
        default=30,
        ge=5,
        description="The app ends a busy worker that gave no sign of life for this many seconds: it answered no "
        "heartbeat and used no processor time.",
    )
    embedding_cache_bytes: int = Field(default=2 * 2**30, gt=0, description="Disk space for image embeddings.")
    made_bytes: int = Field(
        default=100 * 10**9, ge=0, description="Disk space for files quantized on the page; 0 turns quantizing off."
    )

    # --- other machines ------------------------------------------------------------------------------------------
    cluster: str | None = Field(
        default=None,
        examples=["10.0.0.1:6379"],
        description="Address of a Ray cluster whose machines run models as well; auto means the one that this machine "
        "is part of. Needs the extra cluster.",
    )
    copies_bytes: int = Field(
        default=100 * 10**9,
        gt=0,
        description="Disk space of an agent for models that a page has sent to its machine, of all pages together. "
        "Beyond it the agent deletes those that nobody has used for longest.",
    )

    endpoints: tuple[EndpointSettings, ...] = Field(
        default_factory=tuple,
        examples=[[{"name": "vllm", "url": "http://10.0.0.5:8000/v1", "model": "Qwen/Qwen3-VL-8B-Instruct"}]],
        description="OpenAI-compatible servers elsewhere, whose answers stand beside those of the variants. A JSON "
        "list in the environment; docs/use/endpoints.md lists the keys.",
    )

    # --- limits --------------------------------------------------------------------------------------------------
    max_panes: int = Field(default=16, gt=0, description="Maximum number of variants in one comparison.")
    max_waiting: int = Field(default=32, gt=0, description="Maximum number of waiting runs; further runs are refused.")
    max_waiting_per_person: int = Field(default=4, gt=0, description="Maximum number of waiting runs of one person.")
    max_long_jobs: int = Field(
        default=8, gt=0, description="Maximum number of measurements, scans and quantizations that run or wait."
    )
    max_long_jobs_per_person: int = Field(default=2, gt=0, description="Maximum number of these of one person.")
    max_sequences: int | None = Field(
        default=None,
        ge=1,
        le=64,
        examples=[8],
        description="Maximum number of questions that one model answers at once, in a measurement or for /v1; 1 means "
        "one after another. Default: 64 on a GPU, 16 on a CPU and for /v1.",
    )
    measure_defaults: bool = Field(
        default=True,
        description="Measure once on this machine what suits each kind of model: flash attention, threads and context. "
        "No: flash attention is off on a CPU, and there are as many threads as cores.",
    )
    spare_workers: int = Field(
        default=1,
        ge=0,
        le=4,
        description="Workers without a model that are kept started on a machine without GPUs, so that the next model "
        "loads sooner; about 50 MB each. 0: a worker is started when a model is loaded.",
    )
    unwatched_run_s: float = Field(
        default=1800,
        ge=0,
        description="The app stops a comparison whose notebook no page has shown for this many seconds; 0 means never. "
        "A measurement always runs to its end.",
    )
    max_upload_bytes: int = Field(default=64_000_000, gt=0, description="Maximum size of an uploaded file.")
    uploads_bytes: int = Field(
        default=4_000_000_000,
        ge=10_000_000,
        description="Disk space for the files that people upload, until the app has read them; one person gets half.",
    )
    max_body_bytes: int = Field(
        default=8_000_000,
        ge=1_000_000,
        description="Maximum size of any other request, such as a changed text; at least 1,000,000.",
    )
    max_api_body_bytes: int = Field(
        default=64_000_000,
        ge=1_000_000,
        description="Maximum size of a request to /v1, with its images; at least 1,000,000.",
    )
    max_api_requests: int = Field(
        default=64,
        gt=0,
        description="Maximum number of requests to /v1 that one key, or one person, may have open; further ones are "
        "refused.",
    )
    max_image_pixels: int = Field(
        default=12_000_000,
        gt=0,
        le=24_000_000,
        description="The app scales a larger image down before it keeps it; at most 24,000,000.",
    )

    # --- notebooks -----------------------------------------------------------------------------------------------
    retention_days: int | None = Field(
        default=None,
        gt=0,
        examples=[90],
        description="The app deletes notebooks, with their pictures, that nobody opened or changed for this many days. "
        "Default: never.",
    )
    notebooks_bytes: int | None = Field(
        default=None,
        gt=0,
        examples=[10_000_000_000],
        description="Disk space for all notebooks and pictures; beyond it the app refuses pictures and new notebooks. "
        "Default: no limit.",
    )

    # --- the Hub -------------------------------------------------------------------------------------------------
    downloads: bool = Field(default=True, description="Whether visitors may download from the Hub.")
    share_token: bool | None = Field(
        default=None,
        examples=[False],
        description="Whether visitors without their own token may use the operator's (HF_TOKEN). Default: yes, but not "
        "on a Hugging Face Space.",
    )

    # --- who may what --------------------------------------------------------------------------------------------
    login: Login = Field(
        default=Login.NONE, description="none, password, or huggingface (a Hugging Face account; on a Space only)."
    )
    password: SecretStr | None = Field(
        default=None,
        examples=["..."],
        description="One password for everybody; visitors choose their names. Needs login = password.",
    )
    users: dict[str, SecretStr] = Field(
        default={},
        examples=[{"anna": "..."}],
        description="Names with their passwords, instead of one password. A JSON object in the environment.",
    )
    allowed_users: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Users and organisations that may log in; empty means everybody with an account. Needs login = "
        "huggingface. Separated by ',' in the environment.",
    )
    operators: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Users who may pin and unload models and delete files; empty means everybody, and nobody in demo "
        "mode. Separated by ',' in the environment.",
    )
    api_keys: dict[str, SecretStr] = Field(
        default={},
        examples=[{"anna": "16 characters or more"}],
        description="Names with their keys for /v1. Each name has its own share of the queue. Without a login, "
        "programs on this machine need no key. A JSON object in the environment.",
    )
    api_remote_images: bool = Field(
        default=False,
        description="Whether /v1, /compare and the MCP server fetch images from http and https addresses on the public "
        "internet. Each is at most max_upload_bytes, and is read within 20 seconds.",
    )
    mcp: bool = Field(
        default=False,
        description="Whether the app is an MCP server, at /gradio_api/mcp. Needs the extra mcp, and no login: all who "
        "use it share one place in the queue.",
    )
    demo: bool = Field(
        default=False,
        description="Demo mode: visitors run the available models only, and cannot download, open, quantize or delete "
        "any.",
    )
    demo_max_tokens: int = Field(default=256, gt=0, description="Maximum length of an answer in demo mode, in tokens.")
    demo_n_ctx: int = Field(default=4096, ge=64, description="Maximum context size in demo mode, in tokens.")

    # --- set by the surroundings ---------------------------------------------------------------------------------
    space_id: str | None = Field(default=None, validation_alias="SPACE_ID", description="Set by Hugging Face.")
    space_host: str | None = Field(default=None, validation_alias="SPACE_HOST", description="Set by Hugging Face.")
    cuda_visible_devices: str | None = Field(
        default=None, validation_alias="CUDA_VISIBLE_DEVICES", description="The GPUs that the workers may use."
    )

    @classmethod
    def read(cls) -> Settings:
        """Read the file and the environment. Raises BadSettings naming the invalid key and its place."""
        try:
            return cls()
        except ValidationError as error:
            raise BadSettings(" ".join(_sentence(e["loc"], e["msg"]) for e in error.errors())) from None
        except tomllib.TOMLDecodeError as error:
            raise BadSettings(f"{_file()} is not valid TOML: {error}.") from None
        except SettingsError as error:
            if '"endpoints"' in str(error):
                example = 'a JSON list such as [{"name": "vllm", "url": "http://10.0.0.5:8000/v1", "model": "..."}]'
                raise BadSettings(f"{_PREFIX}ENDPOINTS must be {example} ({error}).") from None
            name = "API_KEYS" if '"api_keys"' in str(error) else "USERS"
            raise BadSettings(
                f'{_PREFIX}{name} must be a JSON object such as {{"name": "password"}} ({error}).'
            ) from None
        except OSError as error:
            raise BadSettings(f"{_file()} cannot be read: {error.strerror}.") from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = _file()
        if "PLAYGROUND_CONFIG" in os.environ and not path.is_file():
            raise BadSettings(f"PLAYGROUND_CONFIG names {path}, which does not exist.")
        file = TomlConfigSettingsSource(settings_cls, path)
        for key in file.toml_data:
            if key not in cls.model_fields or key in _SURROUNDINGS:
                raise BadSettings(f"Unknown key '{key}' in {path}.")
        return init_settings, env_settings, file

    @field_validator("model_dirs", mode="before")
    @classmethod
    def _split_folders(cls, value: object) -> object:
        return tuple(Path(part) for part in value.split(":") if part) if isinstance(value, str) else value

    @field_validator("allowed_users", "operators", "allowed_hosts", "trusted_proxies", "results_repos", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name != "*" and not re.fullmatch(r"[\w.-]+(:\d{1,5})?|\[[0-9a-fA-F:]+\](:\d{1,5})?", name):
                raise ValueError(f"invalid host name {name!r}: write play.example.org, or play.example.org:8443")
        return names

    @field_validator("results_repos")
    @classmethod
    def _are_repositories(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name):
                raise ValueError(f"invalid dataset repository {name!r}: write owner/name, or owner/name@revision")
        return names

    @field_validator("root_path")
    @classmethod
    def _is_path(cls, path: str) -> str:
        if path and not re.fullmatch(r"(/[\w.~-]+)+/?", path):
            raise ValueError(f"invalid path {path!r}: write /team/vlm")
        return path.rstrip("/")

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise ValueError(f"invalid address {network!r}: write 127.0.0.1, or 10.0.0.0/8") from None
        return networks

    @field_validator("endpoints")
    @classmethod
    def _have_names(cls, endpoints: tuple[EndpointSettings, ...]) -> tuple[EndpointSettings, ...]:
        names = [endpoint.name for endpoint in endpoints]
        if len(set(names)) < len(names):
            raise ValueError("two endpoints have one name")
        return endpoints

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.login is Login.PASSWORD) != (self.password is not None or bool(self.users)):
            raise ValueError(
                "login = password needs a password, or users with their passwords; these need login = password."
            )
        if self.password is not None and self.users:
            raise ValueError("password and users exclude each other: set one of the two.")
        if not all(secret.get_secret_value() for secret in (*self.users.values(), self.password or SecretStr("-"))):
            raise ValueError("A password is empty.")
        if any(len(key.get_secret_value()) < _SHORTEST_KEY for key in self.api_keys.values()):
            raise ValueError(f"A key in api_keys is too short: it needs at least {_SHORTEST_KEY} characters.")
        if self.share and self.login is not Login.PASSWORD:
            raise ValueError("share needs login = password: a public link is never open to everybody.")
        if self.mcp and self.login is not Login.NONE:
            raise ValueError("mcp needs login = none: Gradio's MCP server cannot log in.")
        on_space = os.environ.get("SYSTEM") == "spaces" and "OAUTH_CLIENT_ID" in os.environ
        if self.login is Login.HUGGINGFACE and not on_space:
            raise ValueError(
                "login = huggingface works on a Hugging Face Space only, with hf_oauth: true in its README.md; use "
                "login = password elsewhere."
            )
        if self.allowed_users and self.login is not Login.HUGGINGFACE:
            raise ValueError("allowed_users needs login = huggingface.")
        if self.operators and (self.login is Login.NONE or self.password is not None):
            raise ValueError("operators needs proved names: set users, or login = huggingface.")
        return self

    def may_operate(self, name: str | None) -> bool:
        """Whether a visitor, by the name under which they have logged in, may pin, unload and delete."""
        return name in self.operators if self.operators else not self.demo

    @property
    def data_folder(self) -> Path:
        """Where people's work is kept."""
        if self.data_dir is not None:
            return self.data_dir
        return self.cache_dir if "cache_dir" in self.model_fields_set else Path(platformdirs.user_data_dir(_NAME))

    @property
    def forwarders(self) -> tuple[str, ...]:
        """The proxies whose X-Forwarded-For counts. A Space is reached through the Hub's own proxies alone."""
        return self.trusted_proxies or (_PRIVATE_NETWORKS if self.space_id else ())

    @property
    def secrets(self) -> tuple[str, ...]:
        """The passwords and keys, which must not be logged."""
        kept = [*self.users.values(), *self.api_keys.values(), *([self.password] if self.password else [])]
        kept += [endpoint.secret for endpoint in self.endpoints if endpoint.secret is not None]
        return tuple(secret.get_secret_value() for secret in kept)


def _file() -> Path:
    return Path(os.environ.get(f"{_PREFIX}CONFIG") or "playground.toml")


def _sentence(place: tuple[str | int, ...], message: str) -> str:
    """A validation error as a sentence that names the key or the variable."""
    message = message.removeprefix("Value error, ").removesuffix(".") + "."
    if not place:
        return message
    for name, field in Settings.model_fields.items():
        aliases = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else []
        variables = [*map(str, aliases), f"{_PREFIX}{name.upper()}"]
        if place[0] in (name, *variables):
            key = ".".join(map(str, (name, *place[1:])))
            return f"{next((v for v in variables if v in os.environ), f'{key} in {_file()}')}: {message}"
    return f"{place[0]}: {message}"
