"""Reference packs in dataset repositories of the Hub."""

from __future__ import annotations

from pathlib import Path

from playground.errors import BadInput
from playground.measuring.packs import MAX_BYTES
from playground.measuring.result_sources import ResultsHub


def fetch(hub: ResultsHub, name: str, revision: str = "main", *, most_bytes: int = MAX_BYTES) -> tuple[Path, str]:
    """The file of a pack in the Hub's cache, and its commit.

    `name`: owner/name, or owner/name:FILE where the repository has several.
    Raises BadInput, and what the Hub's client raises.
    """
    id, _, wanted = name.removeprefix("https://huggingface.co/datasets/").partition(":")
    listing = hub.dataset_files(id, revision)
    sizes = {file.name: file.bytes for file in listing.files if file.name.endswith(".safetensors")}
    if (wanted and wanted not in sizes) or (len(sizes) != 1 and not wanted):
        known = ", ".join(sizes)[:400] or "none"
        raise BadInput(f"Name the pack: {id}:FILE. The repository has: {known}.")
    file = wanted or next(iter(sizes))
    if sizes[file] > most_bytes:
        raise BadInput(f"{file} is larger than {most_bytes // 2**20:,} MiB.")
    return hub.dataset_file(listing, file), listing.commit
