"""The variants that are there: of the presets, and of pairs that a person opened."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Protocol

import msgspec

from playground.errors import BadInput, BadModel, BadPair, NotAllowed, PlaygroundError
from playground.models.gguf import file_names
from playground.models.gguf.header import GgufHeader, read_header
from playground.models.gguf.llamafile import is_llamafile, unpack
from playground.models.gguf.model_shape import shape
from playground.models.presets import Preset, data_folder, read_presets
from playground.support import atomic
from playground.support.byte_cache import BytesCache
from playground.values.files import Half, ModelFile, Variant

_NO_IDS: Mapping[Path, str] = MappingProxyType({})


class Quantizer(Protocol):
    def __call__(self, source: Path, target: Path, quantization: str, half: Half) -> None:
        """Raises PlaygroundError."""


def quantization_of(path: Path, header: GgufHeader) -> str:
    if named := header.text("quantize.name"):  # of a recipe (quantizing/quantizer.py)
        return named[:60]
    if "quantize.by" in header.metadata:  # beside a publisher's or a preset's own of the same name
        return f"{file_names.quantization(path.name) or header.quantization} (here)"
    return file_names.quantization(path.name) or header.quantization


class _Pair(msgspec.Struct, frozen=True):
    """Two files that a person chose, so that the next start opens them again."""

    model: str
    projector: str
    chat_template: str | None = None
    family: str = ""  # of the preset that it was chosen by; empty: what the file says


class Catalog:
    """Owns the list of variants. Safe to use from several threads."""

    def __init__(self, cache_dir: Path, allowed: Sequence[Path] | None) -> None:
        """`allowed`: folders whose files may be opened; None for any, when the operator asks on the command line."""
        self._cache_dir = cache_dir
        self._allowed = None if allowed is None else tuple(folder.resolve() for folder in allowed)
        self._checksums = BytesCache(cache_dir / "checksums", 16 * 2**20)
        self._lock = Lock()
        self._presets = read_presets()
        self._embedded = tuple(preset for preset in self._presets if not preset.repo)
        self._variants: dict[str, Variant] = {}
        self.problems: tuple[str, ...] = ()
        self.made = cache_dir / "made"  # where files that are quantized here go; each names its source
        for preset in self._embedded:
            self._add_grid(preset, self._derived(preset, preset.model), self._derived(preset, preset.projector))
        self._pairs_file = cache_dir / "pairs.json"
        self._remembered = self._read_pairs()
        self.refresh()
        self._add_all_made()

    def close(self) -> None:
        self._checksums.close()

    @property
    def presets(self) -> tuple[Preset, ...]:
        return self._presets

    @property
    def variants(self) -> tuple[Variant, ...]:
        with self._lock:
            return tuple(self._variants.values())

    def derive(self, quantize: Quantizer, tell: Callable[[str], None] = lambda text: None) -> None:
        """Make the presets' derived files that are missing. Seconds at the first start, nothing after.

        What cannot be made is left out, and told in `problems`.
        """
        self.problems = ()
        for preset in self._embedded:
            models, projectors = self._derived(preset, preset.model), self._derived(preset, preset.projector)
            wanted = [(preset.model, q, models, Half.MODEL) for q in preset.derive.models]
            wanted += [(preset.projector, q, projectors, Half.PROJECTOR) for q in preset.derive.projectors]
            for source, quantization, there, half in wanted:
                if quantization in there:
                    continue
                tell(f"Making {quantization} of {Path(source).name} ...")
                try:
                    there[quantization] = self._make(source, quantization, quantize, half)
                except (PlaygroundError, OSError) as error:
                    self.problems += (f"{quantization} of {preset.name} could not be made: {error}",)
            self._add_grid(preset, models, projectors)
        self._add_all_made()

    def weights(self, path: Path) -> dict[str, int]:
        """Bytes of a file's tensors of two dimensions or more, by name. Raises BadModel."""
        return {t.name: t.n_bytes for t in read_header(path).tensors if len(t.shape) > 1}

    def kind(self, path: Path) -> str:
        """The type of a file's weights as ggml writes it, such as f16. Raises BadModel."""
        return read_header(path).quantization.lower()

    def read_pair(self, model: Path, projector: Path, ids: Mapping[Path, str] = _NO_IDS) -> Variant:
        """A language model and a projector as a variant that is not listed: of paths that nobody else has chosen.

        `ids`: in place of the sha256 of files that are about to go. Raises BadModel or BadPair with what is wrong.
        """
        model_header, projector_header = read_header(model), read_header(projector)
        if model_header.is_projector and not projector_header.is_projector:
            raise BadPair(
                f"The two files are swapped: {model.name} is the projector, {projector.name} the language model."
            )
        if model_header.is_projector:
            raise BadPair(f"{model.name} is a projector too. Give the language model's file as the model.")
        if not projector_header.is_projector:
            raise BadPair(
                f"{projector.name} is a language model, not a projector. The projector is the file that its "
                "publisher calls mmproj."
            )
        if projector_header.metadata.get("clip.has_vision_encoder") is False:
            raise BadPair(f"{projector.name} has no vision encoder (it may be for audio). Choose an image projector.")
        named = (model_header.text(f"general.{part}") for part in ("basename", "finetune", "size_label"))
        family = (
            "-".join(part for part in named if part)[:80]
            or file_names.QUANTIZATION.split(model.stem)[0].strip("-._")
            or model.stem
        )
        return _variant(family, self._file(model, model_header, ids), self._file(projector, projector_header, ids))

    def open_pair(self, model: Path, projector: Path | None, *, remember: bool = False) -> Variant:
        """Add a pair on this machine to the variants; `remember`: the next start opens it again.

        A llamafile is unpacked; it may bring its projector along. Raises NotAllowed for a path outside the allowed
        folders, and what `read_pair` does.
        """
        model = self._permitted(model)
        projector = None if projector is None else self._permitted(projector)
        if is_llamafile(model):
            model, brought = self._unpacked(model)
            projector = projector or brought
        if projector is None:
            raise BadPair(f"{model.name} alone reads no images: choose its projector (mmproj) too.")
        variant = self._add_pair(model, projector)
        if remember:
            self._remember(_Pair(str(model), str(projector)))
        return variant

    def _unpacked(self, path: Path) -> tuple[Path, Path | None]:
        """The language model of a llamafile, and its projector if it has one."""
        files = unpack(path, self._cache_dir / "unpacked")
        models = [file for file in files if not _is_projector(file)]
        projectors = [file for file in files if _is_projector(file)]
        if not models:
            raise BadModel(f"{path.name} holds no language model.")
        return models[0], projectors[0] if projectors else None

    def expect_pair(self, model: Path, projector: Path, chat_template: str | None = None, family: str = "") -> None:
        """Open a pair of the Hub's cache as soon as all of its files are there, now or at a later start."""
        self._remember(_Pair(str(model), str(projector), chat_template, family))
        self.refresh()

    def refresh(self) -> None:
        """Open the remembered pairs whose files have come; drop the variants whose files have gone."""
        with self._lock:
            self._variants = {
                key: v for key, v in self._variants.items() if _is_there(v.model) and _is_there(v.projector)
            }
            open_already = {(v.model.path, v.projector.path) for v in self._variants.values()}
            wanted = [pair for pair in self._remembered if (pair.model, pair.projector) not in open_already]
        for pair in wanted:
            files = (*_shards(Path(pair.model)), *_shards(Path(pair.projector)))
            if all(file.exists() for file in files):
                try:
                    self._add_pair(Path(pair.model), Path(pair.projector), pair.chat_template, pair.family)
                except (BadModel, OSError) as error:
                    problem = f"{Path(pair.model).name}: {error}"
                    if problem not in self.problems:
                        self.problems += (problem,)

    def arrived(self, path: Path, sha256: str | None) -> None:
        """A file of the Hub's cache is whole; its checksum was taken as it came, and need not be once more."""
        if sha256 is not None:
            self._checksums.set(_checksum_key(path), sha256.encode())
        self.refresh()

    def _remember(self, pair: _Pair) -> None:
        with self._lock:
            self._remembered = (
                *(p for p in self._remembered if (p.model, p.projector) != (pair.model, pair.projector)),
                pair,
            )
            try:
                atomic.write(self._pairs_file, msgspec.json.encode(self._remembered))
            except OSError as error:
                self.problems += (f"The pair is not remembered: {error}.",)

    def _read_pairs(self) -> tuple[_Pair, ...]:
        try:
            return msgspec.json.decode(self._pairs_file.read_bytes(), type=tuple[_Pair, ...])
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.DecodeError) as error:
            self.problems += (f"The pairs that were opened before cannot be read: {error}.",)
            return ()

    def _add_pair(self, model: Path, projector: Path, chat_template: str | None = None, family: str = "") -> Variant:
        read = self.read_pair(model, projector)
        variant = replace(_variant(family or read.family, read.model, read.projector), chat_template=chat_template)
        family = variant.family
        hashes = (variant.model.sha256, variant.projector.sha256)
        with self._lock:
            for other in self._variants.values():
                if (other.model.sha256, other.projector.sha256) == hashes:
                    if _is_there(other.model) and _is_there(other.projector):
                        return other
                    moved = replace(other, model=variant.model, projector=variant.projector)
                    self._variants[other.id] = moved
                    return moved
            if variant.id in self._variants:  # another uploader's file under the same name
                mark = f"{variant.model.sha256[:8]}.{variant.projector.sha256[:8]}"
                variant = replace(variant, id=f"{variant.id}@{mark}", label=Path(variant.model.path).stem)
            same = [v for v in self._variants.values() if v.family == family]
            # The most precise pair of a family is its reference.
            if all(_precision(variant) > _precision(other) for other in same):
                for other in same:
                    self._variants[other.id] = replace(other, reference=False)
                variant = replace(variant, reference=True)
            self._variants[variant.id] = variant
        self._add_all_made()
        return variant

    def add_made(self, path: Path) -> tuple[Variant, ...]:
        """Add a file that was quantized here from one that is there, with every other half of its family.

        Returns the new variants; none if its source is not there. Raises BadModel.
        """
        header = read_header(path)
        source = header.text("quantize.source.sha256")
        file = self._file(path, header)
        with self._lock:
            there = list(self._variants.values())
            origin = next((v for v in there if v.half(header.half).sha256 == source), None)
            if origin is None:
                return ()
            partners = {v.half(header.half.other) for v in there if v.family == origin.family}
            known = {(v.model.sha256, v.projector.sha256) for v in there}
            added = []
            for partner in sorted(partners, key=lambda half: -(half.bits_per_weight or 0.0)):
                pair = (partner, file) if header.is_projector else (file, partner)
                if (pair[0].sha256, pair[1].sha256) in known:
                    continue
                variant = replace(_variant(origin.family, *pair), chat_template=origin.chat_template)
                # Several files may have one name. Whose it is must not depend on which was added first, or a cell would
                # mean another file after a restart.
                mark = f"{pair[0].sha256[:8]}.{pair[1].sha256[:8]}"
                same = any(v.family == variant.family and v.label == variant.label for v in self._variants.values())
                label = f"{variant.label} {file.sha256[:4]}" if same else variant.label
                variant = replace(variant, id=f"{variant.id}@{mark}", label=label)
                self._variants[variant.id] = variant
                added.append(variant)
        return tuple(added)

    def _add_all_made(self) -> None:
        for path in sorted(self.made.glob("*.gguf")):
            try:
                self.add_made(path)
            except BadModel as error:
                self.problems += (f"{path.name}: {error}",)

    def half(self, path: Path) -> Half:
        """Of a file on this machine. Raises NotAllowed, BadModel."""
        return read_header(self._permitted(path)).half

    def choose(self, names: Sequence[str], projectors: Sequence[str] = ()) -> tuple[Variant, ...]:
        """Variants by id, by label such as Q4_K_M, or by quantization with each of `projectors`.

        Raises BadInput naming what there is.
        """
        variants = self.variants
        there = dict.fromkeys(v.projector.quantization for v in variants)
        for projector in projectors:
            if projector not in there:
                raise BadInput(f"There is no projector called '{projector}'. There are: {', '.join(there)}.")
        chosen: dict[str, Variant] = {}
        for name in names:
            if projectors:
                found = [v for v in variants if v.model.quantization == name and v.projector.quantization in projectors]
            else:
                found = [v for v in variants if v.label == name]
            found = found or [v for v in variants if v.id == name]
            if not found:
                labels = ", ".join(dict.fromkeys(v.label for v in variants))
                raise BadInput(f"There is no variant called '{name}'. There are: {labels}.")
            chosen |= {v.id: v for v in found}
        return tuple(chosen.values())

    def _permitted(self, path: Path) -> Path:
        try:
            path = path.expanduser().resolve()
        except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, a null byte
            raise BadModel(f"{path.name[:80]!r} is no path to a file: {error}.") from None
        if self._allowed is not None and not any(path.is_relative_to(folder) for folder in self._allowed):
            where = ", ".join(str(folder) for folder in self._allowed) or "none yet (PLAYGROUND_MODEL_DIRS)"
            raise NotAllowed(f"Files may be opened only in the folders that the operator allowed: {where}.")
        return path

    def _file(self, path: Path, header: GgufHeader, ids: Mapping[Path, str] = _NO_IDS) -> ModelFile:
        parts = _shards(path)
        headers = [header, *(read_header(part) for part in parts[1:])]
        sums = [ids.get(part) or self._sha256(part) for part in parts]
        return ModelFile(
            path=str(path),  # of the first shard; llama.cpp finds the others beside it
            bytes=sum(one.file_bytes for one in headers),
            sha256=sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest(),
            quantization=quantization_of(path, header),
            n_params=sum(one.n_params for one in headers),
            architecture=header.architecture,
            vocabulary_sha256=None if header.is_projector else header.vocabulary_sha256,
            shape=shape(headers),
        )

    def _sha256(self, path: Path) -> str:
        """Of the whole file; kept by path, size and time of change, since a 5 GB file takes seconds."""
        key = _checksum_key(path)
        known = self._checksums.get(key)
        if known is None:
            with open(path, "rb") as file:
                known = hashlib.file_digest(file, "sha256").hexdigest().encode()
            self._checksums.set(key, known)
        return known.decode()

    def _derived(self, preset: Preset, source: str) -> dict[str, ModelFile]:
        """The source file and what was made of it, by quantization, in the preset's order."""
        path = data_folder() / source
        files = [path]
        wanted = preset.derive.models if source == preset.model else preset.derive.projectors
        files += [target for q in wanted if (target := self._target(path, q)).exists()]
        found: dict[str, ModelFile] = {}
        for file in files:
            try:
                header = read_header(file)
            except BadModel:
                if file == path:
                    raise
                continue  # made again by derive()
            found[quantization_of(file, header)] = self._file(file, header)
        return found

    def _target(self, source: Path, quantization: str) -> Path:
        engine = importlib.metadata.version("llama-cpp-python")
        folder = self._cache_dir / "derived" / f"{self._sha256(source)[:16]}-{engine}"
        return folder / f"{file_names.QUANTIZATION.sub('', source.stem)}-{quantization}.gguf"

    def _make(self, name: str, quantization: str, quantize: Quantizer, half: Half) -> ModelFile:
        source = data_folder() / name
        target = self._target(source, quantization)
        with atomic.replacing(target) as part:
            quantize(source, part, quantization, half)
            read_header(part)
        return self._file(target, read_header(target))

    def _add_grid(self, preset: Preset, models: dict[str, ModelFile], projectors: dict[str, ModelFile]) -> None:
        """Every language model of a preset with every projector; the first of each is the reference."""
        order = [next(iter(models)), *preset.derive.models]
        with self._lock:
            grid = {}
            for n, model in enumerate(q for q in order if q in models):
                for m, projector in enumerate(projectors):
                    variant = _variant(preset.family, models[model], projectors[projector])
                    grid[variant.id] = replace(variant, reference=n == 0 and m == 0, chat_template=preset.chat_template)
            # A rung that was made later goes to its place in the ladder.
            self._variants = {key: v for key, v in self._variants.items() if key not in grid} | grid


def _variant(family: str, model: ModelFile, projector: ModelFile) -> Variant:
    # A projector is published at 16 bits as a rule; only another one is worth a word on every pane.
    usual = projector.quantization in ("F16", "BF16", "F32")
    return Variant(
        id=f"{family}:{model.quantization}+mmproj-{projector.quantization}",
        family=family,
        label=model.quantization if usual else f"{model.quantization} + mmproj-{projector.quantization}",
        model=model,
        projector=projector,
    )


def _is_projector(path: Path) -> bool:
    return read_header(path).is_projector


def _checksum_key(path: Path) -> str:
    stat = path.stat()
    return f"{path}:{stat.st_size}:{stat.st_mtime_ns}"


def _shards(path: Path) -> list[Path]:
    return [path.with_name(name) for name in file_names.shards(path.name)]


def _is_there(file: ModelFile) -> bool:
    return Path(file.path).exists()


def _precision(variant: Variant) -> tuple[float, float]:
    return variant.model.bits_per_weight or 0.0, variant.projector.bits_per_weight or 0.0
