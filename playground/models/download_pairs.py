"""Downloads language models with the projector that goes with all of them, and expects the pairs in the catalog."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from playground.errors import BadInput
from playground.models.catalog import Catalog
from playground.models.hub.client import Hub
from playground.models.hub.downloads import Downloads, Wanted
from playground.models.hub.listing import RemoteModel, RepoListing
from playground.models.presets import Preset

_MAX_MODELS = 60  # at once


@dataclass(frozen=True, slots=True)
class PairChoice:
    """Files of a repository, and a projector of the same or of another one."""

    repo: RepoListing
    models: tuple[RemoteModel, ...]
    projector_repo: RepoListing
    projector: RemoteModel | None

    @property
    def files(self) -> tuple[Wanted, ...]:
        models = [Wanted(self.repo.id, self.repo.commit, file) for model in self.models for file in model.files]
        halves = self.projector.files if self.projector else ()
        return (*models, *(Wanted(self.projector_repo.id, self.projector_repo.commit, file) for file in halves))


def download_pairs(
    choice: PairChoice,
    hub: Hub,
    downloads: Downloads,
    catalog: Catalog,
    *,
    token: str | None = None,
    preset: Preset | None = None,
) -> tuple[tuple[Path, Path], ...]:
    """Start the downloads. Returns where each pair's files will be.

    The catalog opens a pair as soon as its files are complete. `preset`: the one that the files were chosen by.
    Raises BadInput for an incomplete choice, NoRoom.
    """
    if not choice.models:
        raise BadInput("Choose at least one quantization of the language model.")
    if len(choice.models) > _MAX_MODELS:
        raise BadInput(f"Choose at most {_MAX_MODELS} language models at once.")
    if choice.projector is None:
        raise BadInput(
            "Choose a projector (mmproj): without it the model reads no images. It may be in another repository."
        )
    incomplete = next((model for model in (*choice.models, choice.projector) if model.missing), None)
    if incomplete is not None:
        raise BadInput(f"The repository lacks {incomplete.missing} shards of {incomplete.name}.")
    downloads.start(choice.files, token)
    projector = hub.snapshot(choice.projector_repo.id, choice.projector_repo.commit, choice.projector.name)
    pairs = tuple((hub.snapshot(choice.repo.id, choice.repo.commit, model.name), projector) for model in choice.models)
    for model_path, projector_path in pairs:
        catalog.expect_pair(
            model_path,
            projector_path,
            preset.chat_template if preset else None,
            preset.family if preset else "",
        )
    return pairs
