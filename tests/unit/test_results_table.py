"""The table over results documents: where they are read from, how files of one label are told apart, what is shown."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import msgspec
import pytest

from playground.errors import BadInput, Offline
from playground.measuring import result_documents, result_sources, results_table
from playground.measuring.result_documents import ResultDocument
from playground.measuring.result_sources import ResultsShelf, SharedDocument
from playground.measuring.results_table import ResultRow
from playground.rendering import results_view
from testkit.result_documents import MARKUP, OneRepo, document, write_shelf


def rows_of(*documents: ResultDocument) -> tuple[ResultRow, ...]:
    return results_table.rows(SharedDocument(f"{n}.json", each) for n, each in enumerate(documents))


def fetched_from(document: ResultDocument, repo: str) -> ResultDocument:
    variants = tuple(
        msgspec.structs.replace(v, model=msgspec.structs.replace(v.model, repo=repo)) for v in document.variants
    )
    return msgspec.structs.replace(document, variants=variants)


# --- sources ----------------------------------------------------------------------------------------------------------


def test_folder_when_read_then_all_documents_below_it_and_the_others_in_words(tmp_path: Path) -> None:
    collected = result_sources.from_folder(write_shelf(tmp_path / "results"))
    assert [shared.source for shared in collected.documents] == ["a.results.json", "sub/b.results.json"]
    newer, damaged, other = collected.problems
    assert "newer version of the app (format 9; this one reads 1)" in newer
    assert "d.results.json is not a results document, or it is damaged or cut short" in damaged
    assert other == "1 JSON file is not a results document."


def test_folder_when_links_or_pipes_are_in_it_then_nothing_outside_is_read(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    result_documents.write(outside / "secret.json", document(uploader="secret"))
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "a.json").symlink_to(outside / "secret.json")
    (folder / "linked").symlink_to(outside)
    (folder / "gone.json").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.json")
    collected = result_sources.from_folder(folder)
    assert collected.documents == ()
    assert sorted(collected.problems) == [
        "a.json is a link that leads out of the folder.",
        "gone.json cannot be read: No such file or directory.",
        "pipe.json is not a file.",
    ]


def test_repository_when_read_then_its_documents_and_what_is_too_large_is_not_fetched(tmp_path: Path) -> None:
    hub = OneRepo(write_shelf(tmp_path / "repo"))
    collected = result_sources.collect(["acme/results@v1", str(tmp_path / "repo/a.results.json")], hub)
    assert hub.asked == [("acme/results", "v1")]
    assert [shared.source for shared in collected.documents] == ["acme/results: a.results.json"]  # and once only
    assert "h.json is larger than 2 MB." in collected.problems
    with pytest.raises(BadInput, match="'no such' is not a folder or file here, and not a dataset repository"):
        result_sources.collect(["no such"], hub)


def test_source_when_its_documents_are_large_together_then_the_first_ones_are_read_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shelf(tmp_path / "repo")
    (tmp_path / "repo/b.results.json").write_bytes((tmp_path / "repo/a.results.json").read_bytes())
    monkeypatch.setattr(result_sources, "MAX_BYTES", (tmp_path / "repo/a.results.json").stat().st_size)
    folder = result_sources.from_folder(tmp_path / "repo")
    assert [shared.source for shared in folder.documents] == ["a.results.json"]
    assert any(problem.startswith("Only the first") for problem in folder.problems)
    monkeypatch.setattr(result_sources, "MAX_BYTES", 10)  # as the listing of this repository says of each
    repo = result_sources.from_repo(OneRepo(tmp_path / "repo"), "acme/results")
    assert [shared.source for shared in repo.documents] == ["acme/results: a.results.json"]
    assert any("only the first" in problem for problem in repo.problems)


def test_shelf_when_a_source_fails_then_it_is_said_and_what_was_read_before_stays(tmp_path: Path) -> None:
    now = [0.0]
    hub = OneRepo(write_shelf(tmp_path / "repo"))
    shelf = ResultsShelf(hub, tmp_path / "gone", ["acme/results"], lambda: now[0])
    assert shelf.sources == ("a folder of this server", "acme/results")
    first = shelf.collected()
    assert len(first.documents) == 1
    assert "The folder of results cannot be read." in first.problems
    assert str(tmp_path) not in "".join(first.problems)
    hub.failure = Offline("The Hub cannot be reached.")
    assert shelf.collected() is first
    assert hub.asked == [("acme/results", "main")]
    now[0] = 1000.0
    again = shelf.collected()
    assert again.documents == first.documents
    assert "The Hub cannot be reached." in again.problems


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("documents", "names"),
    [
        ((document(), document(when="2026-02-02")), {"Q4"}),  # the same files
        (
            (fetched_from(document(), "acme/m-GGUF"), fetched_from(document(salt="x"), "ben/m-GGUF")),
            {"Q4 (acme)", "Q4 (ben)"},
        ),
        (
            (fetched_from(document(), "acme/m-GGUF"), fetched_from(document(salt="x"), "acme/n-GGUF")),
            {"Q4 (acme/m-GGUF)", "Q4 (acme/n-GGUF)"},
        ),
        ((document(uploader="Anna"), document(uploader="Ben", salt="x")), {"Q4 (Anna)", "Q4 (Ben)"}),
        ((document(), document(uploader="Ben", salt="x")), {"Q4 (sha256 "}),
    ],
)
def test_rows_when_files_of_one_label_differ_then_their_names_do(
    documents: tuple[ResultDocument, ...], names: set[str]
) -> None:
    table = [row for row in rows_of(*documents) if row.variant.startswith("Q4")]
    assert len(table) == 2
    row_names = {row.variant for row in table}
    if any("sha256" in name for name in names):
        assert row_names == {f"Q4 (sha256 {row.model_sha256[:8]})" for row in table}
        assert len(row_names) == 2
    else:
        assert row_names == names


def test_rows_when_sorted_and_filtered_then_what_is_unknown_stands_at_the_end() -> None:
    table = rows_of(document(uploader="Anna"), document(uploader="Ben", salt="x", when="2026-03-03"))
    assert [row.bytes for row in table] == sorted((row.bytes for row in table), reverse=True)
    by_kl = results_table.ordered(table, "kl")
    assert [row.kl for row in by_kl] == [0.0001, 0.0001, 0.001, 0.001, 0.009, 0.009, 0.5, 0.5, None, None]
    down = results_table.ordered(table, "kl", descending=True)
    assert [row.kl for row in down][:3] == [0.5, 0.5, 0.009]
    assert down[-1].kl is None
    for by in results_table.SORTS:
        assert len(results_table.ordered(table, by)) == 10
    assert {row.uploader for row in results_table.matching(table, "ANNA q2")} == {"Anna"}
    assert len(results_table.matching(table, table[0].model_sha256)) == 1
    assert results_table.matching(table, "zzz") == ()


# --- shown ------------------------------------------------------------------------------------------------------------


def test_lines_when_a_stranger_writes_control_characters_then_the_terminal_gets_none() -> None:
    evil = msgspec.structs.replace(document(), model=MARKUP, engine=MARKUP, machine=MARKUP, uploader=MARKUP)
    text = "\n".join(results_view.lines(rows_of(evil)))
    assert "\x1b" not in text
    assert "<b>ben" in text


@pytest.mark.thorough
def test_table_when_there_are_very_many_rows_then_the_first_ones_and_a_plot_without_labels() -> None:
    table = rows_of(*(document(salt=str(n)) for n in range(110)))
    html = str(results_view.html(table, 110, (), ("a",)))
    assert "the first 500 are shown" in html
    assert html.count("<tr") == 501
    assert html.count("vp-bar-name") == html.count("<circle") == 390
    assert "Q8</text>" not in html


def test_csv_when_a_text_looks_like_a_formula_then_it_is_none() -> None:
    rows = list(csv.DictReader(results_view.written_csv(rows_of(document(uploader="=1+1"))).splitlines()))
    assert {row["uploader"] for row in rows} == {"'=1+1"}
    assert [row["kl"] for row in rows] == ["", "0.0001", "0.001", "0.009", "0.5"]
