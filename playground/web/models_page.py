"""Server functions of the models page: search, a repository and its check, downloads, the files on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import markupsafe
import msgspec

from playground.comparing import prompts
from playground.errors import BadInput, BadModel, NotAllowed
from playground.measuring import look_test
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import look_request
from playground.measuring.results import Measurement, Sight
from playground.models import check_pair, doctor
from playground.models.check_pair import PairHeaders
from playground.models.doctor import Finding, Hardware, Level
from playground.models.download_pairs import PairChoice, download_pairs
from playground.models.gguf import file_names
from playground.models.gguf.header import read_start
from playground.models.hub import address
from playground.models.hub.downloads import Download, DownloadState
from playground.models.hub.glances import Glances, with_sizes
from playground.models.hub.listing import RemoteModel, RepoListing, matches
from playground.models.presets import Preset
from playground.rendering import number_format, templating
from playground.values.files import Variant
from playground.web import demo
from playground.web.replies import CardsReply, DiskReply, DownloadsReply, FindingsReply, HtmlReply, LookReply, UseReply
from playground.web.server_function import server_function
from playground.wiring import Parts


@dataclass(frozen=True, slots=True)
class _FileRow:
    """A language model or a projector of a repository, as a row."""

    name: str
    quantization: str
    size: str
    bits: str
    is_shared: bool  # another file of the repository has this quantization
    shards: int
    missing: int
    there: bool
    part: float  # share that an earlier download left
    ticked: bool
    left: int  # bytes still to download


@dataclass(frozen=True, slots=True)
class _Card:
    """A known model, to choose from."""

    preset: Preset
    sizes: str
    bytes: int | None  # of the smallest pair
    fits: bool | None  # None: the sizes are unknown
    downloads: int | None = None  # None: the Hub was not asked, or did not say
    changed: str | None = None


@dataclass(frozen=True, slots=True)
class _DownloadRow:
    key: str
    name: str
    repo: str
    state: str
    share: float
    progress: str
    error: str | None
    running: bool
    can_resume: bool


@dataclass(frozen=True, slots=True)
class _OnDisk:
    name: str
    quantization: str
    size: str
    used: str
    kind: Literal["language model", "projector", "audio projector"]
    repo: str
    commit: str


class ModelActions:
    """Server functions on `parts`; each takes the fields of one JSON object, and returns one."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._hub = parts.hub
        self._presets = tuple(preset for preset in parts.catalog.presets if preset.repo)
        self._glances = Glances(parts.hub, parts.result_cache)

    def functions(self) -> list[Callable[[Any], dict[str, Any]]]:
        methods = (
            self.search, self.cards, self.repo, self.projectors, self.check, self.download, self.downloads, self.cancel,
            self.resume, self.forget, self.on_disk, self.use, self.inspect, self.look, self.delete,
        )  # fmt: skip
        return [server_function(method) for method in methods]

    def page(self) -> markupsafe.Markup:
        return templating.markup(
            "models.html",
            cards=_cards(self._presets, self._parts.hardware),
            offline=self._hub.offline,
            endpoint=self._hub.endpoint,
            cache=str(self._hub.cache),
            allowed=self._parts.settings.downloads and not self._parts.settings.demo,
            demo=self._parts.settings.demo,
        )

    # --- the Hub -----------------------------------------------------------------------------------------------------

    def search(self, text: str, token: str | None = None) -> HtmlReply:
        """Repositories that match; an id or an address opens its repository."""
        self._may()
        repos = self._hub.search(text.strip()[:200], token or None)
        return HtmlReply(html=templating.markup("found.html", found=repos, text=text))

    def cards(self, families: list[str]) -> CardsReply:
        """Cards of known models with what the Hub says of their repositories; those that it does not list are left
        out."""
        self._may()
        presets = [preset for preset in self._presets if preset.family in families[:_MAX_CARDS]]
        listings = self._glances.of(presets)
        free = _free(self._parts.hardware)
        cards = [_card(preset, free, listings[preset.family]) for preset in presets if preset.family in listings]
        return CardsReply(
            cards={card.preset.family: templating.markup("preset.html", card=card, offline=False) for card in cards}
        )

    def projectors(self, text: str, token: str | None = None) -> HtmlReply:
        """Projectors of another repository, to choose from."""
        self._may()
        id, revision, file = address.parse_repo(text, self._hub.endpoint)
        listing = self._hub.repo(id, revision, token or None)
        if not listing.projectors:
            raise BadInput(f"{id} has no projector.")
        rows = [(id, listing.commit, self._row(listing, model)) for model in listing.projectors]
        picked = listing.projector(file).name if file else rows[0][2].name
        return HtmlReply(html=templating.markup("projectors.html", projectors=rows, repo=None, picked=picked))

    def repo(self, text: str, token: str | None = None, preset: str | None = None) -> HtmlReply:
        self._may()
        id, revision, file = address.parse_repo(text, self._hub.endpoint)
        chosen_by = self._preset(preset)
        listing = self._hub.repo(id, chosen_by.revision if chosen_by else revision, token or None)
        projectors = self._projectors(listing, chosen_by, token)
        usual = projectors[0][1].name if projectors else ""
        picked = [model.name for model in matches(listing.models, file)] if file else []
        return HtmlReply(
            html=templating.markup(
                "repo.html",
                repo=listing,
                models=[self._row(listing, model, chosen_by, picked) for model in listing.models],
                projectors=[(repo.id, repo.commit, self._row(repo, model)) for repo, model in projectors],
                picked=next((model.name for _, model in projectors if model.name == file), usual),
                preset=chosen_by,
                hub=self._hub.endpoint,
            )
        )

    def check(
        self,
        repo: str,
        commit: str,
        models: list[str],
        projector: str,
        projector_repo: str,
        projector_commit: str,
        token: str | None = None,
    ) -> FindingsReply:
        """The doctor's findings about the ticked files, by their headers alone, and which of the models fit."""
        self._may()
        choice = self._choice(repo, commit, models, projector, projector_repo, projector_commit, token)
        listing, hardware = choice.repo, self._parts.hardware
        chosen = choice.models or listing.models[:1]
        if not chosen:
            raise BadInput("The repository has no language model.")
        diagnosis = check_pair.check_pair(
            lambda: check_pair.from_hub(
                self._hub, listing, chosen, choice.projector_repo, choice.projector, token or None
            ),
            hardware,
        )
        fits = {}
        if (headers := diagnosis.headers) is not None:
            fits = {model.name: _fits(model, headers, hardware) for model in listing.models}
        return FindingsReply(html=findings_html(diagnosis.findings), fits=fits, level=int(diagnosis.level))

    def download(
        self,
        repo: str,
        commit: str,
        models: list[str],
        projector: str,
        projector_repo: str,
        projector_commit: str,
        token: str | None = None,
        preset: str | None = None,
    ) -> DownloadsReply:
        """Fetch the ticked language models and the projector that goes with all of them."""
        self._may()
        choice = self._choice(repo, commit, models, projector, projector_repo, projector_commit, token)
        parts, chosen_by = self._parts, self._preset(preset)
        download_pairs(choice, self._hub, parts.downloads, parts.catalog, token=token or None, preset=chosen_by)
        return self.downloads()

    # --- downloads ---------------------------------------------------------------------------------------------------

    def downloads(self) -> DownloadsReply:
        rows = [_progress(download) for download in self._parts.downloads.all()]
        return DownloadsReply(
            downloads=templating.markup("downloads.html", downloads=rows, ready=",".join(self._ready())),
            running=any(row.running for row in rows),
        )

    def _ready(self) -> list[str]:
        """The ids of the variants of one family whose language models are among the finished downloads."""
        done = {
            (download.wanted.repo, download.wanted.file.name)
            for download in self._parts.downloads.all()
            if download.state is DownloadState.DONE
        }
        paths = {file.path for file in self._hub.cached() if (file.repo, file.name) in done} if done else set()
        arrived = [variant for variant in self._parts.catalog.opened if variant.model.path in paths]
        return [variant.id for variant in arrived if variant.family == arrived[-1].family]

    def cancel(self, download: str) -> DownloadsReply:
        self._may()
        self._parts.downloads.cancel(download)
        return self.downloads()

    def resume(self, download: str, token: str | None = None) -> DownloadsReply:
        self._may()
        self._parts.downloads.resume(download, token or None)
        return self.downloads()

    def forget(self, download: str) -> DownloadsReply:
        self._may()
        self._parts.downloads.forget(download)
        return self.downloads()

    # --- on disk -----------------------------------------------------------------------------------------------------

    def on_disk(self) -> DiskReply:
        """The GGUF files of the Hub's cache, by repository."""
        repos: dict[tuple[str, str], list[_OnDisk]] = {}
        for file in self._hub.cached():
            shard = file_names.shard(file.name)
            if shard and shard[1] > 1:
                continue
            repos.setdefault((file.repo, file.commit), []).append(
                _OnDisk(
                    file.name,
                    file_names.quantization(file.name) or "?",
                    number_format.file_size(file.bytes),
                    time.strftime("%d %b %Y", time.localtime(file.last_used)),
                    _kind(file.path, file.name, file.bytes),
                    file.repo,
                    file.commit,
                )
            )
        listed = [
            (*key, sorted(repos[key], key=lambda f: (f.kind == "language model", f.name))) for key in sorted(repos)
        ]
        halves = [file for key in sorted(repos) for file in repos[key] if file.kind == "projector"]
        demo = self._parts.settings.demo
        return DiskReply(
            disk=templating.markup("disk.html", repos=listed, halves=halves, cache=self._hub.cache, demo=demo)
        )

    def use(
        self, repo: str, commit: str, model: str, projector: str, projector_repo: str = "", projector_commit: str = ""
    ) -> UseReply:
        """Open a pair of the cache as a variant. The projector may be of another repository or commit."""
        self._refuse_in_demo()
        pair = self._paths(repo, commit, model, projector, projector_repo, projector_commit)
        catalog = self._parts.catalog
        read, before = catalog.read_pair(*pair), catalog.problems
        catalog.expect_pair(*pair)
        hashes = (read.model.sha256, read.projector.sha256)  # equal files may be listed under another path
        variant = next((v for v in catalog.variants if (v.model.sha256, v.projector.sha256) == hashes), None)
        if variant is None:
            raise BadModel(next((p for p in catalog.problems if p not in before), "The pair cannot be opened."))
        return UseReply(variant=variant.id, notice=f"{variant.family}: {variant.label} can be ticked in the notebook.")

    def inspect(
        self, repo: str, commit: str, model: str, projector: str, projector_repo: str = "", projector_commit: str = ""
    ) -> HtmlReply:
        """The doctor's findings about two files of the cache, and a question as their chat template renders it."""
        variant = self._variant(repo, commit, model, projector, projector_repo, projector_commit)
        diagnosis = check_pair.check_pair(
            lambda: check_pair.from_disk(variant.model.path, variant.projector.path), self._parts.hardware
        )
        findings = diagnosis.findings
        templates = [None, *dict.fromkeys(f.chat_template for f in findings if f.chat_template)]
        rendered: list[prompts.Rendered] = []
        if doctor.worst(f for f in findings if not f.code.startswith("template")) < Level.BROKEN:
            rendered = prompts.rendered(self._parts.pool, variant, templates, "What is in the image?")
        return HtmlReply(
            html=templating.markup(
                "inspected.html", findings=findings_html(findings), rendered=rendered, name=Path(model).name
            )
        )

    def look(
        self, repo: str, commit: str, model: str, projector: str, projector_repo: str = "", projector_commit: str = ""
    ) -> LookReply:
        """Load a pair and ask the embedded questions: are right answers likelier with their own picture?"""
        variant = self._variant(repo, commit, model, projector, projector_repo, projector_commit)
        measuring = MeasureJob(self._parts.lab, look_request(self._parts.evaluation, variant))
        *_, last = measuring.run()
        assert isinstance(last, Measurement)
        result = last.results[0]
        sentence = look_test.words(result.looks, result.own_picture)
        remedy = look_test.remedy(result.looks)
        return LookReply(looks=result.looks == Sight.SEES, verdict=f"{sentence} {remedy}".rstrip())

    def delete(self, repo: str, commit: str, model: str, visitor: str | None = None) -> DiskReply:
        """Delete a file of the cache, with its other shards."""
        self._refuse_in_demo()
        if not self._parts.settings.may_operate(visitor):
            raise NotAllowed("Only the operators may delete files (PLAYGROUND_OPERATORS).")
        folder = model.rpartition("/")[0]
        names = file_names.shards(model.rpartition("/")[2])
        freed = self._hub.delete(repo, commit, {f"{folder}/{name}" if folder else name for name in names})
        self._parts.catalog.refresh()
        return msgspec.structs.replace(self.on_disk(), notice=f"{number_format.file_size(freed)} freed.")

    def _variant(self, *names: str) -> Variant:
        self._refuse_in_demo()
        return self._parts.catalog.read_pair(*self._paths(*names))

    def _paths(
        self, repo: str, commit: str, model: str, projector: str, projector_repo: str, projector_commit: str
    ) -> tuple[Path, Path]:
        """Without a projector's repository, that of the model. Raises BadInput."""
        if not projector:
            raise BadInput("Choose a projector for this model first.")
        half = self._hub.path(projector_repo or repo, projector_commit or commit, projector)
        path = self._hub.path(repo, commit, model)
        if path is None or half is None:
            raise BadInput("One of the two files is not on this machine any more.")
        return path, half

    # --- help --------------------------------------------------------------------------------------------------------

    def _preset(self, family: str | None) -> Preset | None:
        return next((preset for preset in self._presets if preset.family == family), None)

    def _refuse_in_demo(self) -> None:
        if self._parts.settings.demo:
            raise NotAllowed("This is a demonstration: only the models in the notebook can be run.")

    def _may(self) -> None:
        self._refuse_in_demo()
        demo.refuse_downloads(self._parts.settings)

    def _choice(
        self,
        repo: str,
        commit: str,
        models: Sequence[str],
        projector: str,
        projector_repo: str,
        projector_commit: str,
        token: str | None,
    ) -> PairChoice:
        """What a person ticked, in the listing of the commit that the page shows."""
        listing = self._hub.repo(repo, commit, token or None)
        other = listing if projector_repo == repo else self._hub.repo(projector_repo, projector_commit, token or None)
        return PairChoice(
            listing,
            tuple(model for model in listing.models if model.name in models),
            other,
            other.projector(projector) if projector else None,
        )

    def _row(
        self, repo: RepoListing, model: RemoteModel, preset: Preset | None = None, picked: Sequence[str] = ()
    ) -> _FileRow:
        is_cached = all(self._hub.path(repo.id, repo.commit, file.name) is not None for file in model.files)
        halves = repo.projectors if model in repo.projectors else repo.models
        part = sum(self._hub.partial_bytes(repo.id, file) for file in model.files if file.sha256)
        return _FileRow(
            name=model.name,
            quantization=model.quantization,
            size=number_format.file_size(model.bytes),
            bits=number_format.bits(8 * model.bytes / repo.n_params if repo.n_params else None),
            is_shared=sum(other.quantization == model.quantization for other in halves) > 1,
            shards=len(model.files),
            missing=model.missing,
            there=is_cached,
            part=part / model.bytes if model.bytes else 0.0,
            ticked=model.name in picked or (preset is not None and preset.matches(model.name)),
            left=0 if is_cached else max(0, model.bytes - part),
        )

    def _projectors(
        self, repo: RepoListing, preset: Preset | None, token: str | None
    ) -> list[tuple[RepoListing, RemoteModel]]:
        """The repository's own, and those of the repository that the preset names."""
        pairs = [(repo, model) for model in repo.projectors]
        if preset and preset.projector_repo and preset.projector_repo != repo.id:
            other = self._hub.repo(preset.projector_repo, token=token or None)
            pairs += [(other, model) for model in other.projectors]
        return pairs


_MAX_CARDS = 12  # of one request

# What a context, an image and the workers take beside the files: a guess, since no header was read.
_BESIDE_THE_FILES = 1_000_000_000


def _cards(presets: Sequence[Preset], hardware: Hardware) -> list[_Card]:
    """The smallest pair first; those of unknown size last."""
    free = _free(hardware)
    cards = [_card(preset, free) for preset in presets]
    return sorted(cards, key=lambda card: (card.bytes is None, card.bytes or 0, card.preset.name))


def _card(preset: Preset, free: int, listing: RepoListing | None = None) -> _Card:
    known = with_sizes(preset, listing) if listing else preset
    sizes = [f"{size:g} GB {name}" for name, size in known.sizes.items()]
    least = known.pair_bytes
    return _Card(
        preset,
        " · ".join(sizes),
        least,
        None if least is None else least + _BESIDE_THE_FILES <= free,
        listing.downloads if listing else None,
        listing.changed if listing else None,
    )


def findings_html(findings: Sequence[Finding]) -> markupsafe.Markup:
    return templating.markup("findings.html", findings=findings, good=doctor.worst(findings) is Level.FINE)


def _fits(model: RemoteModel, headers: PairHeaders, hardware: Hardware) -> str:
    """Whether it fits into memory, and how much it needs."""
    on_gpu = _on_gpu(hardware)
    n_ctx = check_pair.N_CTX
    needed = doctor.needs(headers.model, headers.projector, n_ctx, on_gpu=on_gpu, model_bytes=model.bytes).all
    return f"{'fits' if needed <= _free(hardware) else 'too large'}, about {number_format.memory(needed)}"


def _on_gpu(hardware: Hardware) -> bool:
    return hardware.gpu_free is not None and hardware.gpu_offload is not False


def _free(hardware: Hardware) -> int:
    """Bytes where a pair would be loaded."""
    return hardware.gpu_free if hardware.gpu_free is not None and _on_gpu(hardware) else hardware.host_free


@lru_cache(1000)
def _kind(path: str, name: str, bytes: int) -> Literal["language model", "projector", "audio projector"]:
    """By the header; by the name where the file cannot be read. `bytes`: another file may come to this path."""
    try:
        header = read_start(path)
    except BadModel:
        return "projector" if file_names.is_projector(name) else "language model"
    return "audio projector" if header.is_audio_only else "projector" if header.is_projector else "language model"


def _progress(download: Download) -> _DownloadRow:
    file = download.wanted.file
    text = f"{number_format.file_size(download.done)} of {number_format.file_size(file.bytes)}"
    if download.rate:
        text += f" · {number_format.file_size(int(download.rate))}/s"
    if download.seconds_left is not None:
        text += f" · {number_format.seconds(download.seconds_left)} left"
    return _DownloadRow(
        key=download.wanted.key,
        name=file.name,
        repo=download.wanted.repo,
        state=download.state.value,
        share=download.share,
        progress=text,
        error=download.error,
        running=download.is_active,
        can_resume=not download.is_active and download.state is not DownloadState.DONE,
    )
