"""Two GGUF files as one variant: reads and checks both headers. It lists nothing and remembers nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from playground.errors import BadModel, BadPair
from playground.models.checksums import Checksums
from playground.models.family_signs import projector_type
from playground.models.gguf import file_links, file_names
from playground.models.gguf.header import GgufHeader, read_header
from playground.models.gguf.llamafile import unpack
from playground.models.gguf.model_shape import shape
from playground.models.labels import short_label
from playground.values.files import Half, ModelFile, Variant

NO_IDS: Mapping[Path, str] = MappingProxyType({})


def read_pair(model: Path, projector: Path, checksums: Checksums, ids: Mapping[Path, str] = NO_IDS) -> Variant:
    """`ids`: used in place of the sha256 of files that are about to be deleted. Raises BadModel or BadPair."""
    model_header, projector_header = read_header(model), read_header(projector)
    if model_header.is_projector and not projector_header.is_projector:
        raise BadPair(f"The two files are swapped: {model.name} is the projector, {projector.name} the language model.")
    if model_header.is_projector:
        raise BadPair(f"{model.name} is a projector too. Give the language model's file as the model.")
    if not projector_header.is_projector:
        raise BadPair(
            f"{projector.name} is a language model, not a projector. The projector is the file that its "
            "publisher calls mmproj."
        )
    if projector_header.is_audio_only:
        raise BadPair(f"{projector.name} is an audio projector: it has no vision encoder. Choose an image projector.")
    if projector_header.metadata.get("clip.has_vision_encoder") is False:
        raise BadPair(f"{projector.name} has no vision encoder (it may be for audio). Choose an image projector.")
    return variant_of(
        _family(model, model_header),
        read_file(model, model_header, checksums, ids),
        read_file(projector, projector_header, checksums, ids),
    )


_NO_NAMES = ("model", "ggml-model", "language-model", "llm", "text")  # of files whose folder names the model


def _family(path: Path, header: GgufHeader) -> str:
    """By the header. A size alone, such as 7B, is no name: the file's name or its folder's stands before it."""
    size = header.text("general.size_label")
    named = [part for part in (header.text(f"general.{field}") for field in ("basename", "finetune")) if part]
    if not named:
        stem = file_names.QUANTIZATION.split(path.stem)[0].strip("-._") or path.stem
        own = path.parent.name if stem.lower() in _NO_NAMES and path.parent.name else stem
        named, size = [own], "" if size and size.lower() in own.lower() else size
    return "-".join(part for part in (*named, size) if part)[:80]


def read_file(path: Path, header: GgufHeader, checksums: Checksums, ids: Mapping[Path, str] = NO_IDS) -> ModelFile:
    """A file with its other shards, by the header of the first. Raises BadModel."""
    parts = file_links.shards(path)
    if len(parts) > 1 and path.suffix != ".gguf":
        raise BadModel(f"{path.name}: llama.cpp reads shards only if their names end in .gguf. Rename all shards.")
    headers = [header, *(read_header(part) for part in parts[1:])]
    sums = [ids.get(part) or checksums.of(part) for part in parts]
    repo, commit = file_links.origin(path) or ("", "")
    return ModelFile(
        path=str(path),  # of the first shard; llama.cpp finds the others beside it
        bytes=sum(part.file_bytes for part in headers),
        sha256=sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest(),
        quantization=quantization_of(path, header),
        n_params=sum(part.n_params for part in headers),
        architecture=header.architecture,
        vocabulary_sha256=None if header.is_projector else header.vocabulary_sha256,
        shape=shape(headers),
        projector_type=(projector_type(header) or "")[:80] if header.is_projector else "",
        made_with=tuple((header.text("quantize.questions") or "").split()),
        repo=repo,
        commit=commit,
    )


def quantization_of(path: Path, header: GgufHeader) -> str:
    if name := header.text("quantize.name"):  # of a recipe (quantizing/quantizer.py)
        return name[:60]
    if "quantize.by" in header.metadata:  # beside a publisher's or a preset's own of the same name
        return f"{file_names.quantization(path.name) or header.quantization} (here)"
    return file_names.quantization(path.name) or header.quantization


def variant_of(family: str, model: ModelFile, projector: ModelFile) -> Variant:
    return Variant(
        id=f"{family}:{model.quantization}+mmproj-{projector.quantization}",
        family=family,
        label=short_label(model, projector),
        model=model,
        projector=projector,
    )


def unpack_llamafile(path: Path, folder: Path) -> tuple[Path, Path | None]:
    """The language model of a llamafile, and its projector if it has one."""
    halves: dict[Half, list[Path]] = {Half.MODEL: [], Half.PROJECTOR: []}
    for file in unpack(path, folder):
        halves[read_header(file).half].append(file)
    if not halves[Half.MODEL]:
        raise BadModel(f"{path.name} holds no language model.")
    return halves[Half.MODEL][0], next(iter(halves[Half.PROJECTOR]), None)
