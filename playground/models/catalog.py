"""The variants that can be compared: those of the presets, pairs that a person opened, and files quantized here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

from playground.errors import BadInput, BadModel, BadPair, NotAllowed
from playground.models import pair
from playground.models.checksums import Checksums
from playground.models.derive import DerivedFiles, Files, Quantizer
from playground.models.gguf import file_links
from playground.models.gguf.header import read_header
from playground.models.gguf.llamafile import is_llamafile
from playground.models.labels import with_unique_labels
from playground.models.presets import Preset, read_presets
from playground.models.remembered_pairs import RememberedPair, RememberedPairs
from playground.values.files import Half, ModelFile, Variant


class Catalog:
    """Owns the list of variants. Safe to use from several threads."""

    def __init__(self, cache_dir: Path, allowed: Sequence[Path] | None, data_dir: Path | None = None) -> None:
        """`allowed`: folders whose files may be opened; None for any, for the operator at the command line.

        `data_dir`: for files that are quantized here, and the list of opened pairs; None: `cache_dir`.
        """
        data_dir = data_dir or cache_dir
        self._unpacked = cache_dir / "unpacked"  # llamafiles' members
        self._allowed = None if allowed is None else tuple(folder.resolve() for folder in allowed)
        self._checksums = Checksums(cache_dir / "checksums")
        self._derived = DerivedFiles(cache_dir / "derived", self._checksums)
        self._lock = Lock()
        self._presets = read_presets()
        self._embedded = tuple(preset for preset in self._presets if not preset.repo)
        self._variants: dict[str, Variant] = {}
        self._preset_files: set[str] = set()  # sha256
        # The labels of many variants take 2 ms, and each request of the API reads them.
        self._labelled: tuple[Variant, ...] = ()
        self._labelled_from: tuple[tuple[Variant, ...], frozenset[str]] = (), frozenset()
        self.problems: tuple[str, ...] = ()
        self.made = data_dir / "made"  # where files that are quantized here go; each names its source
        for preset in self._embedded:
            self._add_grid(preset, self._derived.read(preset))
        self._remembered = RememberedPairs(data_dir / "pairs.json")
        self.problems += self._remembered.problems
        self.refresh()
        self._add_all_made()

    def close(self) -> None:
        self._checksums.close()

    @property
    def presets(self) -> tuple[Preset, ...]:
        return self._presets

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Their labels are unique in each family."""
        with self._lock:
            given = tuple(self._variants.values()), frozenset(self._preset_files)
            if given != self._labelled_from:
                self._labelled_from, self._labelled = given, with_unique_labels(*given)
            return self._labelled

    def derive(self, quantize: Quantizer, tell: Callable[[str], None] = lambda text: None) -> None:
        """Make the presets' derived files that are missing. Seconds at the first start, nothing after.

        What cannot be made is left out, and reported in `problems`.
        """
        self.problems = ()
        for preset in self._embedded:
            files, problems = self._derived.make(preset, quantize, tell)
            self.problems += problems
            self._add_grid(preset, files)
        self._add_all_made()

    def weights(self, path: Path) -> dict[str, int]:
        """Bytes of a file's tensors of two dimensions or more, by name. Raises BadModel."""
        return {t.name: t.n_bytes for t in read_header(path).tensors if len(t.shape) > 1}

    def kind(self, path: Path) -> str:
        """The type of a file's weights as ggml writes it, such as f16. Raises BadModel."""
        return read_header(path).quantization.lower()

    def half(self, path: Path) -> Half:
        """Of a file on this machine. Raises NotAllowed, BadModel."""
        return read_header(self._permitted(path)).half

    # --- pairs --------------------------------------------------------------------------------------------------------

    def read_pair(self, model: Path, projector: Path, ids: Mapping[Path, str] = pair.NO_IDS) -> Variant:
        """A language model and a projector as a variant that is not listed: of paths that nobody else has chosen.

        `ids`: used in place of the sha256 of files that are about to be deleted. Raises BadModel or BadPair.
        """
        return pair.read_pair(model, projector, self._checksums, ids)

    def open_pair(self, model: Path, projector: Path | None, *, remember: bool = False) -> Variant:
        """Add a pair on this machine to the variants; `remember`: the next start opens it again.

        A llamafile is unpacked; it may bring its projector along. Raises NotAllowed for a path outside the allowed
        folders, and what `read_pair` does.
        """
        model = self._permitted(model)
        projector = None if projector is None else self._permitted(projector)
        if is_llamafile(model):
            model, brought = pair.unpack_llamafile(model, self._unpacked)
            projector = projector or brought
        if projector is None:
            raise BadPair(f"{model.name} alone reads no images: choose its projector (mmproj) too.")
        variant = self._add_pair(model, projector)
        if remember:
            self._remember(RememberedPair(str(model), str(projector)))
        return variant

    @property
    def opened(self) -> tuple[Variant, ...]:
        """The pairs that people opened or downloaded."""
        files = {remembered.files for remembered in self._remembered.all}
        return tuple(v for v in self.variants if (v.model.path, v.projector.path) in files)

    def close_pair(self, id: str) -> None:
        """Take an opened pair off the list; its files stay. Raises BadInput."""
        variant = next((v for v in self.opened if v.id == id), None)
        if variant is None:
            raise BadInput("This pair is not open.")
        try:
            self._remembered.remove((variant.model.path, variant.projector.path))
        except OSError as error:
            raise BadInput(f"The list of opened pairs cannot be written: {error}.") from error
        with self._lock:
            self._variants.pop(id, None)

    def expect_pair(self, model: Path, projector: Path, chat_template: str | None = None, family: str = "") -> None:
        """Open a pair of the Hub's cache as soon as all of its files are there, now or at a later start."""
        self._remember(RememberedPair(str(model), str(projector), chat_template, family))
        self.refresh()

    def refresh(self) -> None:
        """Open the remembered pairs whose files have come; drop the variants whose files have gone."""
        with self._lock:
            self._variants = {key: v for key, v in self._variants.items() if _is_there(v)}
            opened = {(v.model.path, v.projector.path) for v in self._variants.values()}
        for remembered in self._remembered.all:
            model, projector = map(Path, remembered.files)
            if remembered.files in opened:
                continue
            if all(file.exists() for file in (*file_links.shards(model), *file_links.shards(projector))):
                try:
                    self._add_pair(model, projector, remembered.chat_template, remembered.family)
                except (BadModel, OSError) as error:
                    problem = f"{model.name}: {error}"
                    if problem not in self.problems:
                        self.problems += (problem,)

    def sha256_of(self, path: Path) -> str:
        """Of the file as it is now."""
        return self._checksums.of(path)

    def arrived(self, path: Path, sha256: str | None) -> None:
        """A file of the Hub's cache is complete. Its checksum was taken during the download."""
        if sha256 is not None:
            self._checksums.note(path, sha256)
        self.refresh()

    def _remember(self, remembered: RememberedPair) -> None:
        known = self._remembered.problems
        self._remembered.add(remembered)
        self.problems += self._remembered.problems[len(known) :]

    def _add_pair(self, model: Path, projector: Path, chat_template: str | None = None, family: str = "") -> Variant:
        read = self.read_pair(model, projector)
        variant = pair.variant_of(family or read.family, read.model, read.projector)
        if not family:  # another projector for a listed language model stands beside it, whatever the family's name is
            with self._lock:
                beside = next((v for v in self._variants.values() if v.model.sha256 == variant.model.sha256), variant)
            variant = replace(variant, family=beside.family)
            chat_template = chat_template or beside.chat_template
        id = self._insert(replace(variant, chat_template=chat_template))
        self._add_all_made()
        return self._listed([id])[0]

    def _insert(self, variant: Variant) -> str:
        """Add a variant, or the present place of one that is listed. Returns its id in the list."""
        hashes = (variant.model.sha256, variant.projector.sha256)
        with self._lock:
            for other in self._variants.values():
                if (other.model.sha256, other.projector.sha256) == hashes:
                    if not _is_there(other):
                        self._variants[other.id] = replace(other, model=variant.model, projector=variant.projector)
                    return other.id
            if variant.id in self._variants:  # another file of the same quantization
                variant = replace(variant, id=_marked_id(variant))
            same = [v for v in self._variants.values() if v.family == variant.family]
            # The most precise pair of a family is its reference.
            if all(_precision(variant) > _precision(other) for other in same):
                for other in same:
                    self._variants[other.id] = replace(other, reference=False)
                variant = replace(variant, reference=True)
            self._variants[variant.id] = variant
        return variant.id

    def _listed(self, ids: Sequence[str]) -> tuple[Variant, ...]:
        """With their present labels."""
        variants = {variant.id: variant for variant in self.variants}
        return tuple(variants[id] for id in ids)

    def _permitted(self, path: Path) -> Path:
        """A path as the catalog keeps it: of the first shard, and under its own name where it is a link.

        A link's target may have a name that says nothing, such as a checksum in the Hub's cache.
        """
        try:
            named = file_links.named(path.expanduser())
            targets = [shard.resolve() for shard in file_links.shards(named)]
        except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, a null byte
            raise BadModel(f"{path.name[:80]!r} is not a valid path to a file: {error}.") from None
        if self._allowed is not None and not all(
            any(place.is_relative_to(folder) for folder in self._allowed)
            for place in (file_links.place(named, target) for target in targets)
        ):
            where = ", ".join(str(folder) for folder in self._allowed) or "none yet (PLAYGROUND_MODEL_DIRS)"
            raise NotAllowed(f"Files may be opened only in the folders that the operator allowed: {where}.")
        if any(target.exists() and not target.is_file() for target in targets):  # a named pipe would wait for ever
            raise BadModel(f"{named.name[:80]!r} is not a file.")
        return named

    # --- files that were quantized here -------------------------------------------------------------------------------

    def add_made(self, path: Path) -> tuple[Variant, ...]:
        """Add a file that was quantized here from a listed one, with every other half of its family.

        Returns the new variants; none if its source is not listed. Raises BadModel.
        """
        header = read_header(path)
        source = header.text("quantize.source.sha256")
        file = pair.read_file(path, header, self._checksums)
        with self._lock:
            variants = list(self._variants.values())
            origin = next((v for v in variants if v.half(header.half).sha256 == source), None)
            if origin is None:
                return ()
            partners = {v.half(header.half.other) for v in variants if v.family == origin.family}
            known = {(v.model.sha256, v.projector.sha256) for v in variants}
            added = []
            for partner in sorted(partners, key=lambda half: -(half.bits_per_weight or 0.0)):
                model, projector = (partner, file) if header.is_projector else (file, partner)
                if (model.sha256, projector.sha256) in known:
                    continue
                variant = pair.variant_of(origin.family, model, projector)
                # Several files may have one name. Whose it is must not depend on which was added first, or a cell would
                # mean another file after a restart.
                variant = replace(variant, id=_marked_id(variant), chat_template=origin.chat_template)
                self._variants[variant.id] = variant
                added.append(variant.id)
        return self._listed(added)

    def _add_all_made(self) -> None:
        for path in sorted(self.made.glob("*.gguf")):
            try:
                self.add_made(path)
            except BadModel as error:
                self.problems += (f"{path.name}: {error}",)

    def _add_grid(self, preset: Preset, files: Mapping[Half, Files]) -> None:
        """Every language model of a preset with every projector; the first of each is the reference."""
        models, projectors = files[Half.MODEL], files[Half.PROJECTOR]
        order = [next(iter(models)), *preset.derive.models]
        with self._lock:
            self._preset_files |= {file.sha256 for half in files.values() for file in half.values()}
            grid = {}
            for n, model in enumerate(q for q in order if q in models):
                for m, projector in enumerate(projectors):
                    variant = pair.variant_of(preset.family, models[model], projectors[projector])
                    grid[variant.id] = replace(variant, reference=n == 0 and m == 0, chat_template=preset.chat_template)
            # A rung that was made later goes to its place in the ladder.
            self._variants = {key: v for key, v in self._variants.items() if key not in grid} | grid

    # --- choosing -----------------------------------------------------------------------------------------------------

    def choose(self, names: Sequence[str], projectors: Sequence[str] = ()) -> tuple[Variant, ...]:
        """Variants by id, by label such as Q4_K_M, or by quantization with each of `projectors`.

        Raises BadInput naming what can be chosen.
        """
        variants = self.variants
        known = dict.fromkeys(name for v in variants for name in _names(v.projector))
        for projector in projectors:
            if projector not in known:
                raise BadInput(f"There is no projector called '{projector}'. There are: {', '.join(known)}.")
        chosen: dict[str, Variant] = {}
        for name in names:
            if projectors:
                matching = [
                    v for v in variants if name in _names(v.model) and any(p in _names(v.projector) for p in projectors)
                ]
            else:
                matching = [v for v in variants if v.label == name]
            matching = matching or [v for v in variants if v.id == name]
            if not matching:
                labels = ", ".join(dict.fromkeys(v.label for v in variants))
                raise BadInput(f"There is no variant called '{name}'. There are: {labels}.")
            chosen |= {v.id: v for v in matching}
        return tuple(chosen.values())


def _names(file: ModelFile) -> tuple[str, ...]:
    """By which a person may choose it."""
    return (file.quantization, file.label) if file.mark else (file.quantization,)


def _marked_id(variant: Variant) -> str:
    return f"{variant.id}@{variant.model.sha256[:8]}.{variant.projector.sha256[:8]}"


def _is_there(variant: Variant) -> bool:
    return Path(variant.model.path).exists() and Path(variant.projector.path).exists()


def _precision(variant: Variant) -> tuple[float, float]:
    return variant.model.bits_per_weight or 0.0, variant.projector.bits_per_weight or 0.0
