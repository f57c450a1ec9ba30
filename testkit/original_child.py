"""Stands in for an interpreter with torch: `interpreter(folder, ...)` writes one that copies what was prepared."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path


def interpreter(folder: Path, prepared: Path) -> str:
    """An executable that answers every job with the files of `prepared`; one of them, `last.json`, is its last word."""
    path = folder / "python"
    command = f"exec {shlex.quote(sys.executable)} {shlex.quote(__file__)} {shlex.quote(str(prepared))}"
    path.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then exit 0; fi\n{command} "$3"\n')
    path.chmod(0o755)
    return str(path)


def main() -> None:
    prepared, job = Path(sys.argv[1]), Path(sys.argv[2])
    for path in prepared.iterdir():
        shutil.copy(path, job.parent)
    print("a library's own words", flush=True)
    for question in json.loads(job.read_text())["questions"]:
        print(json.dumps({"what": "The original answers", "ended": question["name"]}), flush=True)
    last = prepared / "last.json"
    if not last.exists():
        sys.exit("Killed by somebody")
    print(last.read_text(), flush=True)


if __name__ == "__main__":
    main()
