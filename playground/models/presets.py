"""Presets: one TOML file a model family under presets/, data only."""

from __future__ import annotations

import enum
import fnmatch
import functools
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

import msgspec

from playground.errors import BadModel
from playground.support.shipped import shipped_folder


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


class Suggested(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a model's makers recommend, by the names of comparing/run_settings.RunSettings; None: no recommendation."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None
    n_ctx: int | None = None

    def sampling(self) -> dict[str, float]:
        """What concerns the choice of the next token, without what is not known."""
        sizes = ("max_tokens", "n_ctx")
        return {n: value for n, value in msgspec.structs.asdict(self).items() if value is not None and n not in sizes}


class BoxNumbers(enum.StrEnum):
    """What the numbers of a family's boxes count, where its answers do not say so."""

    PIXELS = "pixels"  # of the image as the encoder sees it
    THOUSANDTHS = "thousandths"  # of the image's width and height


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model family: the embedded one (`repo` empty), or one on the Hub."""

    family: str
    name: str
    about: str
    licence: str  # as the Hub writes it: apache-2.0, gemma
    # Embedded: files of the package, below its data folder. On the Hub: patterns (fnmatch) of file names in the
    # repository; {q} stands for a quantization of `ticked`.
    model: str
    projector: str
    repo: str = ""
    revision: str = "main"  # a branch, or a commit's 40 hexadecimal digits
    projector_repo: str = ""  # where the projector lies if not beside the language model
    evidence: str = ""  # where these file names were seen; empty: a guess by the publisher's other repositories
    source: str = ""  # where the suggested settings were read
    parameters: str = ""  # where the name does not say how many
    # In GB, as published: of language models by quantization, and of the projector; None: unknown.
    sizes: dict[str, float] = {}
    projector_size: float | None = None
    prompt: str = "Describe this image."
    suggested: Suggested = Suggested()
    derive: Derive = Derive()
    # Labels of the variants that a first visitor sees ticked.
    ticked: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    cells: tuple[ExampleCell, ...] = ()
    max_tokens: int = 128
    boxes: BoxNumbers | None = None
    chat_template: str | None = None  # in place of the one in the file, where that is wrong; Jinja, or llama.cpp's name

    def __hash__(self) -> int:  # `sizes` has none
        return hash(self.family)

    @property
    def purpose(self) -> str:
        """What `about` begins with: its words before the first colon or full stop."""
        return re.split(r"[:.;]\s", self.about, maxsplit=1)[0].rstrip(".")

    @property
    def pair_bytes(self) -> int | None:
        """Of the smallest pair whose sizes are known."""
        if not self.sizes or self.projector_size is None:
            return None
        return round(1e9 * (min(self.sizes.values()) + self.projector_size))

    def file_of(self, quantization: str, names: Iterable[str]) -> str | None:
        """The language model's file of a quantization among a repository's; publishers write f16 and F16."""
        pattern = self.model.replace("{q}", quantization).lower()
        return next((name for name in names if fnmatch.fnmatchcase(name.lower(), pattern)), None)

    def matches(self, name: str) -> bool:
        """Whether it is the file of a quantization that is ticked."""
        return any(self.file_of(quantization, [name]) for quantization in self.ticked)


def data_folder() -> Path:
    """Where the package keeps model files and example images."""
    return Path(str(resources.files("playground"))) / "data"


def presets_folder() -> Path:
    return shipped_folder("presets")


def read_preset(path: Path) -> Preset:
    """Raises BadModel naming the file and the field."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Preset)
    except (msgspec.DecodeError, OSError, UnicodeDecodeError) as error:
        raise BadModel(f"The preset {path.name} cannot be used: {error}.") from error


@functools.cache
def _by_family() -> Mapping[str, Preset]:
    return {preset.family: preset for preset in read_presets()}


def family_name(family: str) -> str:
    """How a person calls a model family: by its preset's name where it has one."""
    preset = _by_family().get(family)
    return preset.name if preset else family


def box_numbers(family: str) -> BoxNumbers | None:
    """None: no preset knows."""
    preset = _by_family().get(family)
    return preset.boxes if preset else None


@functools.cache
def read_presets() -> tuple[Preset, ...]:
    """The embedded ones first. They are read once: a new file is seen at the next start."""
    presets = [read_preset(path) for path in sorted(presets_folder().glob("*.toml"))]
    return tuple(sorted(presets, key=lambda preset: bool(preset.repo)))
