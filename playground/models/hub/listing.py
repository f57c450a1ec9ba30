"""A repository's files as models: the quantizations of a language model, and projectors. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from playground.errors import BadInput
from playground.models.gguf import file_names


class RemoteFile(msgspec.Struct, frozen=True):
    name: str  # its path in the repository
    bytes: int
    sha256: str | None = None  # None: small files that git itself keeps


class RemoteModel(msgspec.Struct, frozen=True):
    """A language model or a projector: one file, or all shards of one."""

    name: str  # of the first file
    quantization: str  # "?" where no name says
    files: tuple[RemoteFile, ...]
    missing: int = 0  # shards that the repository lacks

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


class RepoListing(msgspec.Struct, frozen=True):
    id: str
    commit: str  # 40 hexadecimal digits
    files: tuple[RemoteFile, ...]
    licence: str | None = None
    gated: bool = False
    base_models: tuple[str, ...] = ()
    # Of one of its language models, as the Hub read it: general.architecture, parameters, chat template.
    architecture: str | None = None
    n_params: int | None = None
    chat_template: str | None = None

    @property
    def models(self) -> tuple[RemoteModel, ...]:
        """The largest first."""
        projectors = _projectors(self.files)
        return _models(file for file in self.files if file.name not in projectors)

    def model(self, name: str) -> RemoteModel:
        """A language model by its file's name or its quantization. Raises BadInput naming what can be chosen."""
        return _named(self.models, name, f"{self.id} has no language model '{name}'")

    def projector(self, name: str = "") -> RemoteModel:
        """Likewise; without a name the usual one."""
        projectors = self.projectors
        if projectors and not name:
            return projectors[0]
        return _named(projectors, name, f"{self.id} has no projector" + (f" '{name}'" if name else ""))

    @property
    def projectors(self) -> tuple[RemoteModel, ...]:
        """The usual one first: F16 or BF16, whatever the language model's bits are."""
        order = {"F16": 0, "BF16": 1, "F32": 2, "Q8_0": 3}
        projectors = _projectors(self.files)
        models = _models(file for file in self.files if file.name in projectors)
        return tuple(sorted(models, key=lambda model: (order.get(model.quantization, 4), -model.bytes)))


def _named(models: Sequence[RemoteModel], name: str, problem: str) -> RemoteModel:
    by_name = next((model for model in models if model.name == name), None)
    by_quantization = next((model for model in models if model.quantization.upper() == name.upper()), None)
    if model := by_name or by_quantization:
        return model
    choices = ", ".join(dict.fromkeys(model.quantization for model in models)) or "none"
    raise BadInput(f"{problem}. It has: {choices}.")


def _projectors(files: Iterable[RemoteFile]) -> set[str]:
    """By name. Beside one that is called mmproj, "vision" is a part of the model's own name."""
    names = {file.name for file in files if file_names.is_projector(file.name)}
    return {name for name in names if "mmproj" in name.lower()} or names


def _models(files: Iterable[RemoteFile]) -> tuple[RemoteModel, ...]:
    by_name = {file.name: file for file in files if not file_names.is_other(file.name)}
    by_first: dict[str, list[RemoteFile]] = {}
    for name in sorted(by_name):
        by_first.setdefault(file_names.first_shard(name), []).append(by_name[name])
    models = []
    for first, parts in by_first.items():
        shard = file_names.shard(first)
        missing = shard[2] - len(parts) if shard else 0
        models.append(RemoteModel(first, file_names.quantization(first) or "?", tuple(parts), missing))
    return tuple(sorted(models, key=lambda model: -model.bytes))
