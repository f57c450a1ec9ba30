"""What the operator can set. The only reader of the environment; PLAYGROUND_CACHE_DIR sets cache_dir, and so on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PLAYGROUND_", frozen=True)

    cache_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("vlm-quant-playground")),
        description="Notebooks, quantized variants, image embeddings and checksums are kept here.",
    )
    model_dirs: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description="Folders whose GGUF files may be opened from the page, separated by ':'."
    )
    memory_budget_bytes: int | None = Field(
        default=None, gt=0, description="For all loaded models together. Default: 80 % of what is free at the start."
    )
    embedding_cache_bytes: int = Field(default=2 * 2**30, gt=0, description="Image embeddings kept on disk.")
    made_bytes: int = Field(
        default=100 * 10**9, ge=0, description="For all files that are quantized on the page; 0: nobody can."
    )
    downloads: bool = Field(default=True, description="Whether the page may download from the Hub.")
    share_token: bool | None = Field(
        default=None,
        description="Whether visitors without a token of their own may use the operator's (HF_TOKEN). Default: yes, "
        "but not on a Hugging Face Space.",
    )
    space_id: str | None = Field(default=None, validation_alias="SPACE_ID", description="Set by Hugging Face.")
    max_panes: int = Field(default=16, gt=0, description="Variants in one comparison.")
    max_queue: int = Field(default=32, gt=0, description="Runs waiting for their turn; one more is told to come back.")

    @field_validator("model_dirs", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(Path(part) for part in value.split(":") if part) if isinstance(value, str) else value
