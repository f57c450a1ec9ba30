"""What the models page's script asks for: search, a repository, its check, downloads, what is on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import markupsafe
import msgspec

from playground.comparing import prompts
from playground.errors import BadInput, BadModel, NotAllowed
from playground.measuring.measure import MeasureJob, look_request
from playground.measuring.results import Measurement
from playground.models import doctor
from playground.models.doctor import Finding, Hardware, Level
from playground.models.gguf import file_names
from playground.models.gguf.header import GgufHeader, read_header
from playground.models.hub import address
from playground.models.hub.downloads import Download, DownloadState, Wanted
from playground.models.hub.listing import RemoteModel, RepoListing
from playground.models.presets import Preset
from playground.rendering import number_format, templating
from playground.values.files import Variant
from playground.web.replies import DiskReply, DownloadsReply, FindingsReply, HtmlReply, LookReply, Reply
from playground.web.server_function import server_function
from playground.wiring import Parts

_MAX_FILES = 60  # ticked at once
_N_CTX = 4096


@dataclass(frozen=True, slots=True)
class _Choice:
    """A language model or a projector of a repository, as a row."""

    name: str
    quantization: str
    size: str
    bits: str
    shards: int
    missing: int
    there: bool
    part: float  # share of it that was fetched before
    ticked: bool
    left: int  # bytes to be fetched


@dataclass(frozen=True, slots=True)
class _DownloadRow:
    key: str
    name: str
    repo: str
    state: str
    share: float
    told: str
    error: str | None
    running: bool
    can_resume: bool


@dataclass(frozen=True, slots=True)
class _OnDisk:
    name: str
    quantization: str
    size: str
    used: str
    is_projector: bool


@dataclass(frozen=True, slots=True)
class _Picked:
    """What a person ticked, as the Hub lists it now."""

    repo: RepoListing
    projector_repo: RepoListing
    models: list[RemoteModel]
    projector: RemoteModel | None


class ModelActions:
    """Server functions on `parts`; each takes the fields of one JSON object, and returns one."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._hub = parts.hub
        self._presets = tuple(preset for preset in parts.catalog.presets if preset.repo)

    def functions(self) -> list[Callable[[Any], dict[str, Any]]]:
        methods = (
            self.search, self.repo, self.check, self.download, self.downloads, self.cancel, self.resume, self.forget,
            self.on_disk, self.use, self.inspect, self.look, self.delete,
        )  # fmt: skip
        return [server_function(method) for method in methods]

    def page(self) -> markupsafe.Markup:
        return templating.markup(
            "models.html",
            presets=self._presets,
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
        found = self._hub.search(text.strip()[:200], token or None)
        return HtmlReply(html=templating.markup("found.html", found=found, text=text))

    def repo(self, text: str, token: str | None = None, preset: str | None = None) -> HtmlReply:
        self._may()
        id, revision, file = address.parse_repo(text, self._hub.endpoint)
        chosen = next((one for one in self._presets if one.family == preset), None)
        found = self._hub.repo(id, chosen.revision if chosen else revision, token or None)
        projectors = self._projectors(found, chosen, token)
        return HtmlReply(
            html=templating.markup(
                "repo.html",
                repo=found,
                models=[self._choice(found, model, chosen, file) for model in found.models],
                projectors=[(repo.id, repo.commit, self._choice(repo, model)) for repo, model in projectors],
                preset=chosen,
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
        """What the doctor says of the ticked files, by their headers alone, and which of the models fit."""
        self._may()
        asked = self._picked(repo, commit, models, projector, projector_repo, projector_commit, token)
        found, other, half, hardware = asked.repo, asked.projector_repo, asked.projector, self._parts.hardware
        chosen = asked.models or list(found.models[:1])
        if not chosen:
            raise BadInput("The repository has no language model.")
        findings: Sequence[Finding]
        fits = {}
        try:
            model_header = self._hub.header(found.id, found.commit, chosen[0].files[0], token or None)
            header = self._hub.header(other.id, other.commit, half.files[0], token or None) if half else None
            largest = max(chosen, key=lambda model: model.bytes)
            findings = doctor.diagnose(model_header, header, hardware=hardware, n_ctx=_N_CTX, model_bytes=largest.bytes)
            fits = {one.name: _fits(one, model_header, header, hardware) for one in found.models}
        except BadModel as error:
            findings = (Finding(Level.BROKEN, "unreadable", error.message, "Choose another file."),)
        return FindingsReply(html=findings_html(findings), fits=fits, level=int(doctor.worst(findings)))

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
        asked = self._picked(repo, commit, models, projector, projector_repo, projector_commit, token)
        found, other, half, chosen = asked.repo, asked.projector_repo, asked.projector, asked.models[:_MAX_FILES]
        if not chosen:
            raise BadInput("Tick at least one quantization of the language model.")
        if half is None:
            raise BadInput(
                "Choose a projector (mmproj): without it the model reads no images. It may be in another repository."
            )
        lacking = [model for model in (*chosen, half) if model.missing]
        if lacking:
            raise BadInput(f"The repository lacks {lacking[0].missing} shards of {lacking[0].name}.")
        wanted = [Wanted(found.id, found.commit, file) for model in chosen for file in model.files]
        wanted += [Wanted(other.id, other.commit, file) for file in half.files]
        by = next((one for one in self._presets if one.family == preset), None)
        self._parts.downloads.start(wanted, token or None)
        for model in chosen:
            self._parts.catalog.expect_pair(
                self._hub.snapshot(found.id, found.commit, model.name),
                self._hub.snapshot(other.id, other.commit, half.name),
                by.chat_template if by else None,
                by.family if by else "",
            )
        return self.downloads()

    # --- downloads ---------------------------------------------------------------------------------------------------

    def downloads(self) -> DownloadsReply:
        shown = [_progress(one) for one in self._parts.downloads.all()]
        return DownloadsReply(
            downloads=templating.markup("downloads.html", downloads=shown),
            running=any(row.running for row in shown),
        )

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
                    file_names.is_projector(file.name),
                )
            )
        shown = [(*key, sorted(files, key=lambda f: (not f.is_projector, f.name))) for key, files in repos.items()]
        listed = sorted(shown, key=lambda one: one[:2])
        demo = self._parts.settings.demo
        return DiskReply(disk=templating.markup("disk.html", repos=listed, cache=self._hub.cache, demo=demo))

    def use(self, repo: str, commit: str, model: str, projector: str) -> Reply:
        """Open a pair of the cache: from now on it is among the variants."""
        self._refuse_in_demo()
        pair = (self._hub.path(repo, commit, model), self._hub.path(repo, commit, projector))
        if pair[0] is None or pair[1] is None:
            raise BadInput("One of the two files is not on this machine any more.")
        before = self._parts.catalog.problems
        self._parts.catalog.expect_pair(pair[0], pair[1])
        found = next(
            (v for v in self._parts.catalog.variants if (v.model.path, v.projector.path) == tuple(map(str, pair))), None
        )
        if found is None:
            raise BadModel(next((p for p in self._parts.catalog.problems if p not in before), "It cannot be opened."))
        return Reply(notice=f"{found.family}: {found.label} can be ticked in the notebook now.")

    def inspect(self, repo: str, commit: str, model: str, projector: str) -> HtmlReply:
        """What the doctor says of two files of the cache, and what a question becomes under their chat template."""
        variant = self._variant(repo, commit, model, projector)
        headers = [read_header(file.path) for file in (variant.model, variant.projector)]
        findings = doctor.diagnose(
            *headers, hardware=self._parts.hardware, n_ctx=_N_CTX, model_bytes=variant.model.bytes
        )
        templates = [None, *dict.fromkeys(one.chat_template for one in findings if one.chat_template)]
        told: list[prompts.Rendered] = []
        if doctor.worst(f for f in findings if not f.code.startswith("template")) < Level.BROKEN:
            told = prompts.rendered(self._parts.pool, variant, templates, "What is in the image?")
        return HtmlReply(
            html=templating.markup(
                "inspected.html", findings=findings_html(findings), rendered=told, name=Path(model).name
            )
        )

    def look(self, repo: str, commit: str, model: str, projector: str) -> LookReply:
        """Load a pair and ask with the real, a blank, a shuffled and another picture: does its answer change?"""
        variant = self._variant(repo, commit, model, projector)
        measuring = MeasureJob(self._parts.lab, look_request(self._parts.evaluation, variant))
        *_, last = measuring.run()
        assert isinstance(last, Measurement)
        looks = last.results[0].looks == "looks"
        moved = f"{last.results[0].look_kl or 0:.2g}"
        told = f"It looks: without the picture its answers move by {moved} nats a token."
        if not looks:
            told = (
                f"Blind: its answers hardly move ({moved} nats a token) when the picture goes. Use its own mmproj file."
            )
        return LookReply(looks=looks, verdict=told)

    def delete(self, repo: str, commit: str, model: str, visitor: str | None = None) -> DiskReply:
        """Delete a file of the cache, with its other shards."""
        self._refuse_in_demo()
        if not self._parts.settings.may_operate(visitor):
            raise NotAllowed("Only the operators may delete files here (PLAYGROUND_OPERATORS).")
        folder = model.rpartition("/")[0]
        last = file_names.shards(model.rpartition("/")[2])
        freed = self._hub.delete(repo, commit, {f"{folder}/{name}" if folder else name for name in last})
        self._parts.catalog.refresh()
        return msgspec.structs.replace(self.on_disk(), notice=f"{number_format.file_size(freed)} freed.")

    def _variant(self, repo: str, commit: str, model: str, projector: str) -> Variant:
        self._refuse_in_demo()
        pair = (self._hub.path(repo, commit, model), self._hub.path(repo, commit, projector))
        if pair[0] is None or pair[1] is None:
            raise BadInput("One of the two files is not on this machine any more.")
        return self._parts.catalog.read_pair(pair[0], pair[1])

    # --- help --------------------------------------------------------------------------------------------------------

    def _refuse_in_demo(self) -> None:
        if self._parts.settings.demo:
            raise NotAllowed("This is a demonstration: only what is ticked in the notebook can be run.")

    def _may(self) -> None:
        self._refuse_in_demo()
        if not self._parts.settings.downloads:
            raise NotAllowed("The operator does not allow downloads here (PLAYGROUND_DOWNLOADS).")

    def _picked(
        self,
        repo: str,
        commit: str,
        models: Sequence[str],
        projector: str,
        projector_repo: str,
        projector_commit: str,
        token: str | None,
    ) -> _Picked:
        found = self._hub.repo(repo, commit, token or None)
        other = found if projector_repo == repo else self._hub.repo(projector_repo, projector_commit, token or None)
        return _Picked(
            repo=found,
            projector_repo=other,
            models=[model for model in found.models if model.name in models],
            projector=next((one for one in other.projectors if one.name == projector), None),
        )

    def _choice(
        self, repo: RepoListing, model: RemoteModel, preset: Preset | None = None, picked: str | None = None
    ) -> _Choice:
        there = all(self._hub.path(repo.id, repo.commit, file.name) is not None for file in model.files)
        part = sum(self._hub.partial_bytes(repo.id, file) for file in model.files if file.sha256)
        return _Choice(
            name=model.name,
            quantization=model.quantization,
            size=number_format.file_size(model.bytes),
            bits=number_format.bits(8 * model.bytes / repo.n_params if repo.n_params else None),
            shards=len(model.files),
            missing=model.missing,
            there=there,
            part=part / model.bytes if model.bytes else 0.0,
            ticked=model.name == picked or (preset is not None and preset.matches(model.name)),
            left=0 if there else max(0, model.bytes - part),
        )

    def _projectors(
        self, found: RepoListing, preset: Preset | None, token: str | None
    ) -> list[tuple[RepoListing, RemoteModel]]:
        """Of the repository itself, and of the one that a preset names."""
        pairs = [(found, model) for model in found.projectors]
        if preset and preset.projector_repo and preset.projector_repo != found.id:
            other = self._hub.repo(preset.projector_repo, token=token or None)
            pairs += [(other, model) for model in other.projectors]
        return pairs


def findings_html(findings: Sequence[Finding]) -> markupsafe.Markup:
    return templating.markup("findings.html", findings=findings, good=doctor.worst(findings) is Level.FINE)


def _fits(model: RemoteModel, header: GgufHeader, projector: GgufHeader | None, hardware: Hardware) -> str:
    """Whether it would fit, in a word, and what it takes."""
    on_gpu = hardware.gpu_free is not None and hardware.gpu_offload is not False
    wanted = doctor.needs(header, projector, _N_CTX, on_gpu=on_gpu, model_bytes=model.bytes).all
    free = hardware.gpu_free if on_gpu and hardware.gpu_free is not None else hardware.host_free
    return f"{'fits' if wanted <= free else 'too large'}, about {number_format.memory(wanted)}"


def _progress(one: Download) -> _DownloadRow:
    total = one.wanted.file.bytes
    told = f"{number_format.file_size(one.done)} of {number_format.file_size(total)}"
    if one.rate:
        told += f" · {number_format.file_size(int(one.rate))}/s"
    if one.seconds_left is not None:
        told += f" · {number_format.seconds(one.seconds_left)} left"
    running = one.state in (DownloadState.RUNNING, DownloadState.WAITING)
    return _DownloadRow(
        key=one.wanted.key,
        name=one.wanted.file.name,
        repo=one.wanted.repo,
        state=one.state.value,
        share=one.done / total if total else 1.0,
        told=told,
        error=one.error,
        running=running,
        can_resume=not running and one.state is not DownloadState.DONE,
    )
