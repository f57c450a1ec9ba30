"""`results push` and `results` as a person calls them, against a Hub of the tests' own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from playground.measuring import result_documents
from testkit.hub_server import TOKEN, hub_server
from testkit.result_documents import document


def test_results_when_pushed_then_others_read_them_in_one_table(tmp_path: Path) -> None:
    result_documents.write(tmp_path / "a.json", document(uploader="anna"))
    result_documents.write(tmp_path / "here/b.json", document(uploader="ben", salt="x"))
    (tmp_path / "cut.json").write_bytes((tmp_path / "a.json").read_bytes()[:99])
    with hub_server([]) as served:
        environment = os.environ | served.environment(tmp_path / "hf") | {"HF_TOKEN": TOKEN}

        def call(*words: object) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "playground", "results", *map(str, words)]
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)

        refused = call("push", tmp_path / "a.json", tmp_path / "cut.json", "acme/results")
        assert (refused.returncode, served.repos) == (2, {})
        assert "cut.json is not a results document, or it is damaged" in refused.stderr
        pushed = call("push", tmp_path / "a.json", "acme/results")
        assert pushed.returncode == 0, pushed.stderr
        assert "acme/results: a.json, commit " in pushed.stdout
        table = call("acme/results", tmp_path / "here", "--json", "--sort", "kl", "--filter", "Q2")
    assert table.returncode == 0, table.stderr
    rows = json.loads(table.stdout)
    assert rows["documents"] == 2
    assert {row["variant"] for row in rows["rows"]} == {"Q2 (anna)", "Q2 (ben)"}
