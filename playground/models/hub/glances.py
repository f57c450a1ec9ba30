"""What the Hub says of the presets' repositories: sizes, downloads, the last change. One request a day for each."""

from __future__ import annotations

import datetime
import fnmatch
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Condition

import cachetools
import msgspec

from playground.errors import Offline, PlaygroundError
from playground.models.hub.client import Hub
from playground.models.hub.listing import RepoListing
from playground.models.presets import Preset
from playground.support.result_cache import ResultCache

_THREADS = 4
_PAUSE_S = 600.0  # without requests, after the Hub could not be reached or refused one
_KEPT = 256


class Glances:
    """Owns the threads that ask. Safe to use from several threads: those that want the same share one request.

    No error leaves it: a repository that the Hub does not list now has no entry in a reply.
    """

    def __init__(self, hub: Hub, cache: ResultCache) -> None:
        self._hub = hub
        self._cache = cache
        self._quiet_until = 0.0
        self._threads = ThreadPoolExecutor(_THREADS, "glance")
        kept = cachetools.TTLCache[tuple[str, ...], RepoListing | None](_KEPT, _PAUSE_S)
        self._of_today = cachetools.cached(kept, condition=Condition())(self._read)

    def of(self, presets: Sequence[Preset]) -> dict[str, RepoListing]:
        """Listings by the preset's family; which file is the projector is decided by names alone."""
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        families = [preset.family for preset in presets]
        listings = self._threads.map(lambda preset: self._of_today(preset.repo, preset.revision, today), presets)
        return {family: listing for family, listing in zip(families, listings, strict=True) if listing is not None}

    def _read(self, repo: str, revision: str, today: str) -> RepoListing | None:
        key = self._cache.key("listing", self._hub.endpoint, repo, revision, today)
        listing = self._cache.get(key, RepoListing)
        if listing is not None or self._hub.offline or time.monotonic() < self._quiet_until:
            return listing
        try:
            listing = self._hub.glance(repo, revision)
        except Offline:
            self._quiet_until = time.monotonic() + _PAUSE_S
            return None
        except PlaygroundError:  # gated, or not there
            return None
        self._cache.put(key, listing)
        return listing


def with_sizes(preset: Preset, listing: RepoListing) -> Preset:
    """A preset with the sizes that it lacks: of the ticked quantizations, and of the projector."""
    sizes, projector = dict(preset.sizes), preset.projector_size
    if not sizes:
        names = {model.name: model for model in listing.models if not model.missing}
        files = [(quantization, preset.file_of(quantization, names)) for quantization in preset.ticked]
        sizes = {quantization: _gigabytes(names[name].bytes) for quantization, name in files if name is not None}
    if projector is None and not preset.projector_repo:
        fitting = (half for half in listing.projectors if fnmatch.fnmatch(half.name.lower(), preset.projector.lower()))
        projector = next((_gigabytes(half.bytes) for half in fitting), None)
    return msgspec.structs.replace(preset, sizes=sizes, projector_size=projector)


def _gigabytes(size: int) -> float:
    return float(f"{size / 1e9:.3g}")
