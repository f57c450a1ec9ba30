"""What the results page sends: what the operator named, and nothing that a stranger's document could run."""

from __future__ import annotations

from pathlib import Path

import msgspec

from playground.measuring import result_documents
from playground.measuring.result_sources import ResultsShelf
from playground.web.results_page import ResultsPage
from testkit.html_tags import Tags
from testkit.result_documents import MARKUP, OneRepo, document


def test_page_when_a_stranger_writes_markup_then_it_is_text(tmp_path: Path) -> None:
    evil = msgspec.structs.replace(document(), model=MARKUP, engine=MARKUP, machine=MARKUP, uploader=MARKUP)
    result_documents.write(tmp_path / "a.json", evil)
    page = ResultsPage(ResultsShelf(OneRepo(tmp_path), tmp_path, []))
    html = str(page.page()) + page.table().html
    assert not {"b", "script"} & Tags(html).seen
    assert "&lt;b&gt;ben&lt;/b&gt;" in html
    assert str(tmp_path) not in html
    assert "No row has all" in page.table(words="zzz").html


def test_page_when_the_operator_named_nothing_then_it_says_how() -> None:
    html = str(ResultsPage(ResultsShelf(OneRepo(Path()), None, [])).page())
    assert "results_dir" in html
    assert "data-filter" not in html
