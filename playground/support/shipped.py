"""Where the data files are that come with the app: presets and suites."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def shipped_folder(name: str) -> Path:
    """The wheel's folder, or the checkout's when the app is run from there."""
    package = Path(str(resources.files("playground")))
    installed = package / name
    return installed if installed.is_dir() else package.parent / name
