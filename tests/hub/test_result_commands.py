"""`results push` and `results` as a person calls them, against a Hub of the tests' own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub.utils import close_session

from playground.measuring import result_documents
from testkit.command_line import Called, called
from testkit.hub_server import TOKEN, hub_server
from testkit.result_documents import document


def test_results_when_pushed_then_others_read_them_in_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    result_documents.write(tmp_path / "a.json", document(uploader="anna"))
    result_documents.write(tmp_path / "here/b.json", document(uploader="ben", salt="x"))
    (tmp_path / "cut.json").write_bytes((tmp_path / "a.json").read_bytes()[:99])
    with hub_server([]) as served:
        served.patch(monkeypatch, tmp_path / "hf")
        monkeypatch.setenv("HF_TOKEN", TOKEN)

        def call(*words: object) -> Called:
            return called(monkeypatch, capfd, "results", *words)

        refused = call("push", tmp_path / "a.json", tmp_path / "cut.json", "acme/results")
        assert (refused.code, served.repos) == (2, {})
        assert "cut.json is not a results document, or it is damaged" in refused.err
        pushed = call("push", tmp_path / "a.json", "acme/results")
        assert pushed.code == 0, pushed.err
        assert "acme/results: a.json, commit " in pushed.out
        table = call("acme/results", tmp_path / "here", "--json", "--sort", "kl", "--filter", "Q2")
        close_session()
    assert table.code == 0, table.err
    rows = json.loads(table.out)
    assert rows["documents"] == 2
    assert {row["variant"] for row in rows["rows"]} == {"Q2 (anna)", "Q2 (ben)"}
