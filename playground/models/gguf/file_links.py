"""Links to GGUF files, such as those of the Hub's cache: the name that counts, and the folder that a file lies in."""

from __future__ import annotations

import re
from pathlib import Path

from playground.models.gguf import file_names

_COMMIT = re.compile("[0-9a-f]{40}")
_MAX_LINKS = 40  # of one chain, as in Linux


def named(path: Path) -> Path:
    """The path under which llama.cpp opens a file: of the first shard, in a folder that is no link.

    A link keeps its own name, unless only its target has the name of a shard: llama.cpp finds the others by name.
    """
    names = [path.parent.resolve() / path.name]
    while names[-1].is_symlink() and len(names) < _MAX_LINKS:
        target = names[-1].parent / names[-1].readlink()
        names.append(target.parent.resolve() / target.name)
    whole = (name for name in names if file_names.shard(name.name) and all(map(Path.exists, shards(name))))
    return shards(next(whole, names[0]))[0]


def shards(path: Path) -> list[Path]:
    """All files of the model that `path` belongs to, the first one first."""
    return [path.with_name(name) for name in file_names.shards(path.name)]


def place(path: Path, target: Path) -> Path:
    """Which of the two has to lie in an allowed folder: a link's target, or the link.

    The Hub's cache keeps a repository's files in snapshots/, as links to blobs/ of the same repository. Whoever allows
    a snapshot allows its files.
    """
    repository = next((folder.parent for folder in path.parents if folder.name == "snapshots"), None)
    return path if repository is not None and target.parent == repository / "blobs" else target


def origin(path: Path) -> tuple[str, str] | None:
    """The repository of the Hub and its commit, of a file in the Hub's cache: models--OWNER--NAME/snapshots/COMMIT."""
    for folder in path.parents:
        if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
            kind, _, repo = folder.parent.parent.name.partition("--")
            return (repo.replace("--", "/", 1), folder.name) if kind == "models" and repo else None
    return None
