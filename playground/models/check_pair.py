"""The doctor's job: read the headers of a pair, on this machine or on the Hub, and diagnose them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from playground.errors import BadInput, BadModel
from playground.models import doctor
from playground.models.doctor import Finding, Hardware, Level
from playground.models.gguf import file_names
from playground.models.gguf.header import GgufHeader, read_header
from playground.models.hub import address
from playground.models.hub.client import Hub
from playground.models.hub.listing import RemoteModel, RepoListing
from playground.values.files import Half

N_CTX = 4096  # tokens of context that the memory is estimated for, if nobody says otherwise


@dataclass(frozen=True, slots=True)
class PairHeaders:
    model: GgufHeader
    projector: GgufHeader | None
    model_bytes: int | None = None  # of all shards; None: of the one file


@dataclass(frozen=True, slots=True)
class Diagnosis:
    findings: tuple[Finding, ...]
    headers: PairHeaders | None  # None: a file could not be read, which is the only finding

    @property
    def level(self) -> Level:
        return doctor.worst(self.findings)


def check_pair(
    read: Callable[[], PairHeaders], hardware: Hardware, n_ctx: int = N_CTX, chat_template: str | None = None
) -> Diagnosis:
    """`read`: one of the readers below. A file that cannot be read is a finding; raises what else they raise."""
    try:
        headers = read()
    except BadModel as error:
        return Diagnosis((Finding(Level.BROKEN, "unreadable", error.message, "Choose another file."),), None)
    findings = doctor.diagnose(
        headers.model,
        headers.projector,
        hardware=hardware,
        n_ctx=n_ctx,
        chat_template=chat_template,
        model_bytes=headers.model_bytes,
    )
    return Diagnosis(findings, headers)


def from_disk(model: str | Path, projector: str | Path) -> PairHeaders:
    """Raises BadModel."""
    return PairHeaders(read_header(model), read_header(projector), _bytes_of_shards(Path(model)))


def from_hub(
    hub: Hub,
    repo: RepoListing,
    models: Sequence[RemoteModel],
    projector_repo: RepoListing,
    projector: RemoteModel | None,
    token: str | None,
) -> PairHeaders:
    """The first model's header stands for all; memory is estimated for the largest. Raises as Hub.header."""
    return PairHeaders(
        hub.header(repo.id, repo.commit, models[0].files[0], token),
        hub.header(projector_repo.id, projector_repo.commit, projector.files[0], token) if projector else None,
        max(model.bytes for model in models),
    )


def from_names(hub: Hub, model: str, projector: str, token: str | None) -> PairHeaders:
    """Each name: a path on this machine, or owner/name:file.gguf or owner/name:Q4_K_M on the Hub.

    `projector`: empty for none.
    Raises BadModel, BadInput, Offline.
    """
    return PairHeaders(
        _header(hub, model, Half.MODEL, token),
        _header(hub, projector, Half.PROJECTOR, token) if projector else None,
        _bytes_of_shards(Path(model).expanduser()),
    )


def _header(hub: Hub, name: str, half: Half, token: str | None) -> GgufHeader:
    path = Path(name).expanduser()
    if path.exists() or ":" not in name:
        return read_header(path)
    id, revision, file_name = address.parse_repo(name, hub.endpoint)
    repo = hub.repo(id, revision, token)
    file = next((file for file in repo.files if file.name == file_name), None)
    if file is None and not file_names.is_gguf(file_name or ""):  # a quantization
        named = repo.model(file_name or "") if half is Half.MODEL else repo.projector(file_name or "")
        file = named.files[0]
    if file is None:
        names = ", ".join(file.name for file in repo.files if file_names.is_gguf(file.name))
        raise BadInput(f"{id} has no file '{file_name}'. It has: {names[:400]}.")
    return hub.header(id, repo.commit, file, token)


def _bytes_of_shards(path: Path) -> int | None:
    """Of all shards of a file on this machine; None where it has none, or some are missing."""
    shards = [path.with_name(name) for name in file_names.shards(path.name)]
    whole = len(shards) > 1 and all(shard.exists() for shard in shards)
    return sum(shard.stat().st_size for shard in shards) if whole else None
