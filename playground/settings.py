"""What the operator can set: in playground.toml, or by the environment, which wins. The environment's only reader.

`cache_dir` of the file is PLAYGROUND_CACHE_DIR there, and so on; docs/operating.md tells about each.
"""

from __future__ import annotations

import os
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

import platformdirs
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
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
_SURROUNDINGS = ("space_id", "cuda_visible_devices")  # told by the environment alone


class Login(StrEnum):
    NONE = "none"
    PASSWORD = "password"  # noqa: S105
    HUGGINGFACE = "huggingface"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


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
        description="Address to listen on; 0.0.0.0: all of them.",
    )
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        validation_alias=AliasChoices(f"{_PREFIX}PORT", "GRADIO_SERVER_PORT"),
        description="Default: the first free one from 7860 on.",
    )
    log_format: LogFormat = Field(default=LogFormat.TEXT, description="text, or json: one object a line.")

    # --- folders -------------------------------------------------------------------------------------------------
    cache_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("vlm-quant-playground")),
        description="Notebooks, quantized variants, image embeddings and checksums are kept here.",
    )
    model_dirs: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        description="Folders whose GGUF files may be opened from the page; in the environment separated by ':'.",
    )

    # --- budgets -------------------------------------------------------------------------------------------------
    memory_budget_bytes: int | None = Field(
        default=None,
        gt=0,
        description="Of the host's memory, for all loaded models together. Default: 80 % of what is free at the start.",
    )
    gpu_budget_bytes: int | None = Field(
        default=None, gt=0, description="For all loaded models of one GPU. Default: what is free, less a margin."
    )
    idle_unload_s: float = Field(
        default=1800, ge=0, description="A model that nobody has used for so long is unloaded; 0: never."
    )
    embedding_cache_bytes: int = Field(default=2 * 2**30, gt=0, description="Image embeddings kept on disk.")
    made_bytes: int = Field(
        default=100 * 10**9, ge=0, description="For all files that are quantized on the page; 0: nobody can."
    )

    # --- limits --------------------------------------------------------------------------------------------------
    max_panes: int = Field(default=16, gt=0, description="Variants in one comparison.")
    max_waiting: int = Field(default=32, gt=0, description="Runs that wait for their turn; one more is refused.")
    max_waiting_per_person: int = Field(default=4, gt=0, description="The same for one person.")
    max_upload_bytes: int = Field(default=50_000_000, gt=0, description="Of an uploaded file.")
    max_image_pixels: int = Field(
        default=12_000_000, gt=0, le=24_000_000, description="A larger image is scaled down before it is kept."
    )

    # --- notebooks -----------------------------------------------------------------------------------------------
    retention_days: int | None = Field(
        default=None,
        gt=0,
        description="Notebooks that nobody has opened or changed for so long are deleted, with their pictures. "
        "Default: kept for ever.",
    )
    notebooks_bytes: int | None = Field(
        default=None,
        gt=0,
        description="For all notebooks and pictures on disk; beyond it no picture is taken. Default: no limit.",
    )

    # --- the Hub -------------------------------------------------------------------------------------------------
    downloads: bool = Field(default=True, description="Whether the page may download from the Hub.")
    share_token: bool | None = Field(
        default=None,
        description="Whether visitors without a token of their own may use the operator's (HF_TOKEN). Default: yes, "
        "but not on a Hugging Face Space.",
    )

    # --- who may what --------------------------------------------------------------------------------------------
    login: Login = Field(
        default=Login.NONE, description="none, password, or huggingface: an account there, on a Space only."
    )
    password: SecretStr | None = Field(
        default=None, description="One for all, who choose their names themselves. With login = password."
    )
    users: dict[str, SecretStr] = Field(
        default={}, description="Name and password of each, in place of one password for all."
    )
    allowed_users: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="With login = huggingface: users and organisations that are let in; none: everybody with an "
        "account. In the environment separated by ','.",
    )
    operators: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Users who may pin and unload models and delete files; none: everybody, but in the demo mode "
        "nobody. In the environment separated by ','.",
    )
    demo: bool = Field(
        default=False,
        description="Only what is there can be run: no download, no opening of files, no quantizing, no deleting of "
        "models.",
    )
    demo_max_tokens: int = Field(default=256, gt=0, description="The longest answer in the demo mode.")
    demo_n_ctx: int = Field(default=4096, ge=64, description="The largest context in the demo mode, in tokens.")

    # --- told by the surroundings --------------------------------------------------------------------------------
    space_id: str | None = Field(default=None, validation_alias="SPACE_ID", description="Set by Hugging Face.")
    cuda_visible_devices: str | None = Field(
        default=None, validation_alias="CUDA_VISIBLE_DEVICES", description="The GPUs that the workers see, for CUDA."
    )

    @classmethod
    def read(cls) -> Settings:
        """What the file and the environment say. Raises BadSettings naming what is wrong and where."""
        try:
            return cls()
        except ValidationError as error:
            raise BadSettings(" ".join(_told(e["loc"], e["msg"]) for e in error.errors())) from None
        except tomllib.TOMLDecodeError as error:
            raise BadSettings(f"{_file()} is not TOML: {error}.") from None
        except SettingsError as error:
            raise BadSettings(f'{_PREFIX}USERS has to be JSON, as in {{"name": "password"}} ({error}).') from None
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
            raise BadSettings(f"There is no file {path}, which PLAYGROUND_CONFIG names.")
        file = TomlConfigSettingsSource(settings_cls, path)
        for key in file.toml_data:
            if key not in cls.model_fields or key in _SURROUNDINGS:
                raise BadSettings(f"{path} has the key '{key}', which there is not.")
        return init_settings, env_settings, file

    @field_validator("model_dirs", mode="before")
    @classmethod
    def _split_folders(cls, value: object) -> object:
        return tuple(Path(part) for part in value.split(":") if part) if isinstance(value, str) else value

    @field_validator("allowed_users", "operators", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.login is Login.PASSWORD) != (self.password is not None or bool(self.users)):
            raise ValueError("login = password goes with a password, or with users and their passwords.")
        if self.password is not None and self.users:
            raise ValueError("password is one for all, users have their own: set one of the two.")
        if not all(secret.get_secret_value() for secret in (*self.users.values(), self.password or SecretStr("-"))):
            raise ValueError("A password is empty.")
        on_space = os.environ.get("SYSTEM") == "spaces" and "OAUTH_CLIENT_ID" in os.environ
        if self.login is Login.HUGGINGFACE and not on_space:
            raise ValueError(
                "login = huggingface works on a Hugging Face Space only, with hf_oauth: true in its README.md; use "
                "login = password elsewhere."
            )
        if self.allowed_users and self.login is not Login.HUGGINGFACE:
            raise ValueError("allowed_users needs login = huggingface.")
        if self.operators and (self.login is Login.NONE or self.password is not None):
            raise ValueError("operators needs names that are proved: set users, or login = huggingface.")
        return self

    def may_operate(self, name: str | None) -> bool:
        """Whether a visitor, by the name under which they have logged in, may pin, unload and delete."""
        return name in self.operators if self.operators else not self.demo

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be logged."""
        kept = [*self.users.values(), *([self.password] if self.password else [])]
        return tuple(secret.get_secret_value() for secret in kept)


def _file() -> Path:
    return Path(os.environ.get(f"{_PREFIX}CONFIG") or "playground.toml")


def _told(place: tuple[str | int, ...], message: str) -> str:
    """An error of pydantic's in a sentence that says which key or variable is meant."""
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
