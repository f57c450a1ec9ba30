"""A repository's files as models: the quantizations of a language model, and projectors. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from playground.errors import BadInput
from playground.models.gguf import file_names
from playground.models.gguf.header import JOIN
from playground.values.files import Half

_MAX_UNDECIDED = 8


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
    halves: dict[str, Half] = {}  # of the files whose headers were read, by name
    downloads: int | None = None  # of the last 30 days
    changed: str | None = None  # the day of its last commit

    @property
    def models(self) -> tuple[RemoteModel, ...]:
        """The largest first."""
        projectors = self._projector_names
        return _models(file for file in self.files if file.name not in projectors)

    def model(self, name: str) -> RemoteModel:
        """A language model by its file's name or its quantization. Raises BadInput naming what can be chosen."""
        for whole, parts in self.cut_files.items():
            wanted = name.upper() in (whole.upper(), (file_names.quantization(whole) or "").upper())
            if wanted and not matches(self.models, name):
                raise BadInput(f"{self.id} has {whole} only in {parts} parts. {JOIN}")
        return _named(self.models, name, f"{self.id} has no language model '{name}'")

    def projector(self, name: str = "") -> RemoteModel:
        """Likewise; without a name the usual one."""
        projectors = self.projectors
        if projectors and not name:
            name = projectors[0].quantization
        return _named(projectors, name, f"{self.id} has no projector" + (f" '{name}'" if name else ""))

    @property
    def projectors(self) -> tuple[RemoteModel, ...]:
        """The usual one first: F16 or BF16, whatever the language model's bits are."""
        order = {"F16": 0, "BF16": 1, "F32": 2, "Q8_0": 3}
        projectors = self._projector_names
        models = _models(file for file in self.files if file.name in projectors)
        return tuple(sorted(models, key=lambda model: (order.get(model.quantization, 4), -model.bytes)))

    @property
    def cut_files(self) -> dict[str, int]:
        """The files that were cut into parts, and how many parts each has; llama.cpp cannot open them."""
        wholes = [whole for file in self.files if (whole := file_names.part_of(file.name))]
        return {whole: wholes.count(whole) for whole in sorted(set(wholes))}

    @property
    def undecided(self) -> tuple[RemoteFile, ...]:
        """Files whose headers decide which one is the projector; () where a name says so. The likeliest first."""
        entries = _models(self.files)
        if any(file_names.is_mmproj(model.name) for model in entries):
            return ()
        likely = sorted(entries, key=lambda m: (not file_names.is_projector(m.name.replace("/", "-")), m.bytes))
        return tuple(model.files[0] for model in likely[:_MAX_UNDECIDED])

    @property
    def _projector_names(self) -> set[str]:
        """By the headers that were read, else by name. Beside an mmproj, "vision" is a part of the model's own name."""
        names = {file.name for file in self.files if file_names.is_projector(file.name)}
        names = {name for name in names if file_names.is_mmproj(name)} or names
        read = {name for name, half in self.halves.items() if half is Half.PROJECTOR}
        return {name for name in names if name not in self.halves} | read


def matches(models: Sequence[RemoteModel], name: str) -> list[RemoteModel]:
    """By name, or by quantization; llama.cpp takes Q4_K_XL for UD-Q4_K_XL too."""
    wanted = name.upper()
    ways = (
        [model for model in models if model.name == name],
        [model for model in models if model.quantization.upper() == wanted],
        [model for model in models if model.quantization.upper().removeprefix("UD-") == wanted],
    )
    return next((way for way in ways if way), [])


def _named(models: Sequence[RemoteModel], name: str, problem: str) -> RemoteModel:
    matching = matches(models, name)
    if len(matching) == 1:
        return matching[0]
    if matching:
        names = ", ".join(model.name for model in matching)
        raise BadInput(f"{len(matching)} files are called {name}: {names[:400]}. Give the name of one.")
    choices = ", ".join(dict.fromkeys(model.quantization for model in models)) or "none"
    raise BadInput(f"{problem}. It has: {choices}.")


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
