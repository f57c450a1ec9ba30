"""The pure parts of the page's scripts, tested by Node's own runner (tests/js)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

JS = Path(__file__).parents[1] / "js"


def test_scripts_when_node_tests_them_then_nothing_fails() -> None:
    node = shutil.which("node")
    if node is None:
        assert "CI" not in os.environ, "the tests of the page's scripts have to run in CI, and there is no Node"
        pytest.skip("no Node here: the tests of the page's scripts (tests/js) were not run; install Node 20 or newer")
    files = sorted(str(path) for path in JS.glob("*.test.mjs"))
    assert len(files) >= 5
    process = subprocess.run([node, "--test", *files], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-2000:]
    assert "# fail 0" in process.stdout or "ℹ fail 0" in process.stdout
