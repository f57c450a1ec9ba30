"""Presets: one TOML file a model family under presets/, data only."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import msgspec

from playground.errors import BadModel


class Derive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Quantizations that are made here, from the preset's own files, at the first start."""

    models: tuple[str, ...] = ()
    projectors: tuple[str, ...] = ()


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    image: str  # below the package's data folder
    prompt: str


class ExampleCell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cell of a first visitor's notebook, with a note above it. Every model with every projector is ticked."""

    note: str
    image: str
    prompt: str
    models: tuple[str, ...]
    projectors: tuple[str, ...]


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    family: str
    name: str
    about: str
    licence: str
    # Files of the package, below its data folder.
    model: str
    projector: str
    derive: Derive = Derive()
    # Labels of the variants that a first visitor sees ticked.
    ticked: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    cells: tuple[ExampleCell, ...] = ()
    max_tokens: int = 128
    chat_template: str | None = None


def data_folder() -> Path:
    """Where the package keeps model files and example images."""
    return Path(str(resources.files("playground"))) / "data"


def presets_folder() -> Path:
    """presets/ of the wheel, or of the checkout when it is run from there."""
    package = Path(str(resources.files("playground")))
    installed = package / "presets"
    return installed if installed.is_dir() else package.parent / "presets"


def read_preset(path: Path) -> Preset:
    """Raises BadModel naming the file and the field."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Preset)
    except (msgspec.DecodeError, OSError, UnicodeDecodeError) as error:
        raise BadModel(f"The preset {path.name} cannot be used: {error}.") from error


def read_presets() -> tuple[Preset, ...]:
    return tuple(read_preset(path) for path in sorted(presets_folder().glob("*.toml")))
