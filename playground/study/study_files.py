"""From a family of a study to the files of its two halves: which are here, fetched, or made here; and their pairs."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from playground.errors import BadInput, Offline
from playground.measuring.results import Progress
from playground.models.gguf import file_names
from playground.models.hub.downloads import DownloadState, Wanted
from playground.models.hub.listing import RemoteFile, RemoteModel, RepoListing
from playground.models.labels import with_unique_labels
from playground.models.pair import variant_of
from playground.models.presets import Preset, data_folder
from playground.quantizing import quantizer
from playground.study.study_file import SOURCE, Study, StudyFamily, preset_of
from playground.values.files import Half, Variant
from playground.wiring import Parts

_PRECISE = ("BF16", "F16", "F32")  # sources, the preferred one first


class Origin(StrEnum):
    """Where a file comes from."""

    HERE = "here"
    FETCHED = "to download"
    MADE = "to make here"


@dataclass(frozen=True, slots=True)
class StudyPart:
    """A file of one half."""

    half: Half
    quantization: str  # as the study calls it
    path: Path  # where it is, or will be
    bytes: int | None  # of one that is to be made: its source's until `with_sizes`; None: unknown
    origin: Origin
    sha256: str | None = None
    wanted: tuple[Wanted, ...] = ()


@dataclass(frozen=True, slots=True)
class FamilyFiles:
    """The files of a family. `sources`: of which files are made here, also where the study does not measure them."""

    title: str
    models: tuple[StudyPart, ...]
    projectors: tuple[StudyPart, ...]
    sources: dict[Half, StudyPart]
    chat_template: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[StudyPart, ...]:
        """Each once."""
        made = {part.half for part in (*self.models, *self.projectors) if part.origin is Origin.MADE}
        sources = [part for half, part in self.sources.items() if half in made]
        return tuple({part.path: part for part in (*sources, *self.models, *self.projectors)}.values())

    @property
    def is_here(self) -> bool:
        return all(part.origin is Origin.HERE for part in self.files)


def family_files(parts: Parts, study: Study, family: StudyFamily, folder: Path, out: Path) -> FamilyFiles:
    """`folder`: of the study's file; `out`: of what is made. Raises BadInput, Offline, BadModel."""
    notes: tuple[str, ...] = ()
    chat_template = family.chat_template
    preset = preset_of(family) if family.preset else None
    if family.model_files:
        known = {
            Half.MODEL: _local(parts, Half.MODEL, [folder / name for name in family.model_files]),
            Half.PROJECTOR: _local(parts, Half.PROJECTOR, [folder / name for name in family.projector_files]),
        }
    elif preset is not None and not preset.repo:
        known = {
            Half.MODEL: _local(parts, Half.MODEL, [data_folder() / preset.model]),
            Half.PROJECTOR: _local(parts, Half.PROJECTOR, [data_folder() / preset.projector]),
        }
    else:
        known, notes = _on_the_hub(parts, family, preset)
    if preset is not None:
        chat_template = chat_template or preset.chat_template
    wanted = dict(zip(Half, study.quantizations(family), strict=True))
    sources = {half: _source(known[half], half, family) for half in Half}
    chosen = {
        half: tuple(_part(study, half, name, known[half], sources[half], out) for name in wanted[half]) for half in Half
    }
    for half, files in chosen.items():
        twice = [file.quantization for n, file in enumerate(files) if file.path in [other.path for other in files[:n]]]
        if twice:
            raise BadInput(f"{family.title}: '{twice[0]}' and 'source' are one file of the {half}. Leave one out.")
    return FamilyFiles(family.title, chosen[Half.MODEL], chosen[Half.PROJECTOR], sources, chat_template, notes)


def _local(parts: Parts, half: Half, paths: Sequence[Path]) -> tuple[StudyPart, ...]:
    files = []
    for path in paths:
        if not path.is_file():
            raise BadInput(f"There is no file {path}.")
        if parts.catalog.half(path) is not half:
            raise BadInput(f"{path.name} is not a {half}.")
        name = file_names.quantization(path.name) or parts.catalog.kind(path).upper()
        files.append(StudyPart(half, name, path, path.stat().st_size, Origin.HERE, parts.catalog.sha256_of(path)))
    return tuple(files)


def _on_the_hub(
    parts: Parts, family: StudyFamily, preset: Preset | None
) -> tuple[dict[Half, tuple[StudyPart, ...]], tuple[str, ...]]:
    """All files of the repositories; without the Hub those of its cache."""
    repo = family.repo or (preset.repo if preset else "")
    revision = family.revision if preset is None or family.revision != "main" else preset.revision
    beside = family.projector_repo or (preset.projector_repo if preset else "")
    notes: list[str] = []

    def listed(id: str, revision: str) -> RepoListing:
        try:
            return parts.hub.repo(id, revision)
        except Offline as error:
            cached = _cached(parts, id)
            if cached is None:
                raise
            notes.append(f"{id}: {error.message} The files of the cache are taken.")
            return cached

    listing = listed(repo, revision)
    models = listing.models
    if preset is not None:  # a repository may hold other models too
        pattern = preset.model.replace("{q}", "*").lower()
        models = tuple(m for m in models if fnmatch.fnmatchcase(m.name.lower(), pattern)) or models
    other = listed(beside, "main") if beside else listing
    return {
        Half.MODEL: tuple(_remote(parts, listing, model, Half.MODEL) for model in models),
        Half.PROJECTOR: tuple(_remote(parts, other, model, Half.PROJECTOR) for model in other.projectors),
    }, tuple(notes)


def _cached(parts: Parts, id: str) -> RepoListing | None:
    """The files of a repository that the Hub's cache has, of the commit with most of them."""
    commits: dict[str, list[RemoteFile]] = {}
    for file in parts.hub.cached():
        if file.repo == id:
            commits.setdefault(file.commit, []).append(RemoteFile(file.name, file.bytes))
    if not commits:
        return None
    commit = max(commits, key=lambda commit: len(commits[commit]))
    return RepoListing(id, commit, tuple(commits[commit]))


def _remote(parts: Parts, listing: RepoListing, model: RemoteModel, half: Half) -> StudyPart:
    wanted = tuple(Wanted(listing.id, listing.commit, file) for file in model.files)
    is_here = all(parts.hub.path(w.repo, w.commit, w.file.name) is not None for w in wanted)
    path = parts.hub.snapshot(listing.id, listing.commit, model.name)
    sha256 = model.files[0].sha256 if len(model.files) == 1 else None
    origin = Origin.HERE if is_here else Origin.FETCHED
    return StudyPart(half, model.quantization, path, model.bytes, origin, sha256, wanted)


def _source(known: Sequence[StudyPart], half: Half, family: StudyFamily) -> StudyPart:
    if not known:
        raise BadInput(f"{family.title}: no {half} was found. A projector may be in another repository.")
    by_name = {part.quantization.upper(): part for part in reversed(known)}
    precise = next((by_name[name] for name in _PRECISE if name in by_name), None)
    return precise or max(known, key=lambda part: part.bytes or 0)


def _part(study: Study, half: Half, name: str, known: Sequence[StudyPart], source: StudyPart, out: Path) -> StudyPart:
    given = source if name == SOURCE else next((p for p in known if p.quantization.upper() == name.upper()), None)
    if given is not None and (study.quantize != "all" or given is source):
        return given
    if study.quantize == "none":
        names = ", ".join(dict.fromkeys(part.quantization for part in known))
        raise BadInput(
            f"There is no {half} '{name}', and nothing is quantized here (quantize = \"none\"). Known: {names}."
        )
    if source.quantization.upper() not in _PRECISE:
        raise BadInput(
            f"{name} cannot be made here: the most precise {half} is {source.quantization}, and quantizing it again "
            "would cost quality twice. Name a quantization that is given, or a repository with 16 bits."
        )
    engine = importlib.metadata.version("llama-cpp-python")
    sum = source.sha256 or source.path.parent.name  # of shards: their commit
    target = out / "files" / f"{sum[:16]}-{engine}" / f"{quantizer.stem(source.path)}-{name.upper()}.gguf"
    if target.exists():
        return StudyPart(half, name, target, target.stat().st_size, Origin.HERE)
    return StudyPart(half, name, target, source.bytes, Origin.MADE)


# --- getting them -----------------------------------------------------------------------------------------------------


def start(parts: Parts, files: FamilyFiles) -> None:
    """Begin to download what is missing; a download that was cut off is resumed. Raises NoRoom."""
    if wanted := _wanted(files):
        parts.downloads.start(wanted)


def on_their_way(parts: Parts, files: FamilyFiles) -> Progress | None:
    """None: no file of these is being downloaded any more."""
    keys = {w.key for w in _wanted(files)}
    running = [d for d in parts.downloads.all() if d.wanted.key in keys and d.is_active]
    if not running:
        return None
    words = ", ".join(f"{d.wanted.file.name} {d.share:.0%}" for d in running if d.state is DownloadState.RUNNING)
    lefts = [d.seconds_left for d in running if d.seconds_left is not None]
    return Progress(f"downloading {words}", len(keys) - len(running), len(keys), max(lefts, default=None))


def check_fetched(parts: Parts, files: FamilyFiles) -> None:
    """Raises BadInput if a download failed."""
    keys = {w.key for w in _wanted(files)}
    failed = [d for d in parts.downloads.all() if d.wanted.key in keys and d.error]
    if failed:
        raise BadInput("; ".join(f"{d.wanted.file.name}: {d.error}" for d in failed))


def _wanted(files: FamilyFiles) -> list[Wanted]:
    return [w for part in files.files if part.origin is Origin.FETCHED for w in part.wanted]


def make(parts: Parts, files: FamilyFiles, stop: Callable[[], bool]) -> Iterator[Progress]:
    """Quantize what is missing. Raises what quantizer.make raises."""
    missing = [part for part in files.files if part.origin is Origin.MADE]
    for n, part in enumerate(missing):
        yield Progress(f"quantizing {part.path.name}", n, len(missing))
        source = files.sources[part.half]
        if not part.path.exists():
            quantizer.make(source.path, part.path, part.quantization.upper(), parts.pool, part.half, stop=stop)


def with_sizes(parts: Parts, files: FamilyFiles) -> FamilyFiles:
    """The sizes of what is to be made, where its source is here: llama.cpp plans them without writing. Raises as
    quantizer.make."""

    def sized(part: StudyPart) -> StudyPart:
        source = files.sources[part.half]
        if part.origin is not Origin.MADE or source.origin is not Origin.HERE:
            return part
        name = part.quantization.upper()
        return replace(part, bytes=quantizer.plan(source.path, name, parts.pool, part.half).bytes)

    return replace(files, models=tuple(map(sized, files.models)), projectors=tuple(map(sized, files.projectors)))


def pairs(parts: Parts, study: Study, family: StudyFamily, files: FamilyFiles) -> tuple[Variant, ...]:
    """The pairs of a family whose files are here, the reference first. Raises BadModel."""
    made = []
    for m, p in study.pair_places(family):
        read = parts.catalog.read_pair(files.models[m].path, files.projectors[p].path)
        variant = variant_of(family.title, read.model, read.projector)
        id = f"{variant.id}@{variant.model.sha256[:8]}.{variant.projector.sha256[:8]}"
        made.append(replace(variant, id=id, chat_template=files.chat_template, reference=(m, p) == (0, 0)))
    labelled = with_unique_labels(made)
    short = [variant.label.replace(" (here)", "") for variant in labelled]  # which files were made stands with them
    return tuple(
        replace(variant, label=label) if short.count(label) == 1 else variant
        for variant, label in zip(labelled, short, strict=True)
    )


def commands(files: FamilyFiles, out: Path) -> tuple[str, ...]:
    """That fetch and make the files, as a person calls them."""
    lines = []
    for part in files.files:
        if part.wanted:
            repo, commit = part.wanted[0].repo, part.wanted[0].commit
            lines += [shlex.join(["hf", "download", repo, w.file.name, "--revision", commit]) for w in part.wanted]
        elif part.path.is_relative_to(out):
            source = files.sources[part.half].path
            line = ["python", "-m", "playground", "quantize", str(source), part.quantization.upper()]
            lines.append(shlex.join([*line, "--out", str(part.path)]))
    return tuple(lines)
