"""Workers are started here as the app starts them."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def workers_are_forked() -> None:
    """They are not."""
