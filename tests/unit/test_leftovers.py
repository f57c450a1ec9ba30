"""What a process that was killed while it collected an importance matrix leaves behind."""

from __future__ import annotations

import os
from pathlib import Path

from playground.quantizing.importance_matrix import delete_leftovers


def test_leftovers_when_their_process_is_gone_then_deleted_and_those_of_a_live_one_kept(tmp_path: Path) -> None:
    live, gone, old = (tmp_path / "made" / f"importance-{n}" for n in (f"{os.getpid()}-a1", "999999999-b2", "c3d4_x"))
    for folder in (live, gone, old):
        folder.mkdir(parents=True)
        (folder / "imatrix.gguf").touch()
    (tmp_path / "made/importance-of-all.gguf").touch()
    delete_leftovers(tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [live.name, "importance-of-all.gguf"]
