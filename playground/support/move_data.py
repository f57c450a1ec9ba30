"""Moves what people made out of the cache folder, where earlier versions kept it: anybody may empty a cache."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from playground.support import atomic

logger = logging.getLogger(__name__)


def move_data(old: Path, new: Path, names: Sequence[str]) -> Path:
    """Moves files and folders that are in `old` and not yet in `new`. Returns the folder that has them.

    That is `old` if the disk refuses it.
    """
    if old.resolve() == new.resolve():
        return new
    try:
        with atomic.locked(new / "moving"):
            for name in names:
                if (old / name).exists() and not (new / name).exists():
                    _move(old / name, new / name)
                    logger.info("Moved %s to %s", old / name, new / name)
    except OSError as error:
        logger.warning("The data stays in %s: %s", old, error)
        return old
    return new


def _move(old: Path, new: Path) -> None:
    """A crash leaves all of it under the old name, or all under the new one."""
    try:
        os.rename(old, new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        part = new.with_name(f"{new.name}.part")
        if part.is_dir():
            shutil.rmtree(part)
        shutil.copytree(old, part) if old.is_dir() else shutil.copy2(old, part)
        os.rename(part, new)
        shutil.rmtree(old) if old.is_dir() else old.unlink()
