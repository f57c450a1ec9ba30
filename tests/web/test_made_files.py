"""Files that were made here: downloaded, and deleted with their variants."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from playground.comparing.compare import StopFlag
from playground.errors import BadInput
from playground.measuring import question_sets
from playground.measuring.results import Progress
from playground.values.request import PromptForm
from playground.web import made_files
from playground.wiring import Parts


def test_made_file_when_downloaded_and_deleted_then_only_files_of_that_folder_are_reached(parts: Parts) -> None:
    folder = parts.catalog.made
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a b.gguf").write_bytes(b"GGUF made")
    (folder.parent / "other.gguf").write_bytes(b"GGUF other")
    with TestClient(Starlette(routes=made_files.routes(parts))) as client:
        reply = client.get("/vp-made/a%20b.gguf")
        assert (reply.status_code, reply.content) == (200, b"GGUF made")
        assert "attachment" in reply.headers["content-disposition"]
        for name in ("other.gguf", "..%2Fother.gguf", "%2e%2e/other.gguf"):
            assert client.get(f"/vp-made/{name}").status_code == 404
        with pytest.raises(BadInput):
            made_files.delete(parts, "../other.gguf")
        assert list(made_files.files(parts)) == ["a b.gguf"]
        assert made_files.delete(parts, "a b.gguf") == 9
        assert client.get("/vp-made/a%20b.gguf").status_code == 404
    assert (folder.parent / "other.gguf").exists()


def test_making_when_a_type_needs_a_matrix_then_refused_before_it_starts(parts: Parts) -> None:
    source, questions = parts.catalog.variants[0], question_sets.embedded(parts.evaluation)
    wanted = made_files.FileChoice("Projector (mmproj)", " iq2_xs ", "", calibrate=False)
    updates = made_files.make(parts, source, wanted, questions, PromptForm(), StopFlag())
    with pytest.raises(BadInput, match="Calibrate with images"):
        next(updates)
    with pytest.raises(BadInput, match="Calibrate with images"):
        made_files.check(parts, source, wanted, StopFlag())


def test_making_when_the_cell_says_how_many_then_as_many_questions_judge_and_calibrate(parts: Parts) -> None:
    source, questions = parts.catalog.variants[0], question_sets.embedded(parts.evaluation)
    wanted, stop = made_files.FileChoice("Projector (mmproj)", "Q8_0", "", calibrate=True), StopFlag()
    updates = made_files.make(parts, source, wanted, questions, PromptForm(), stop, 3)
    first = next(updates)
    stop.run()
    updates.close()
    assert isinstance(first, Progress)
    assert (first.what, first.total) == ("calibrating", 3)


def test_making_when_the_name_is_unknown_then_refused_before_anybody_waits_for_a_turn(parts: Parts) -> None:
    wanted = made_files.FileChoice("Projector (mmproj)", "Q9_9", "", calibrate=True)
    with pytest.raises(BadInput, match="no quantization called 'Q9_9'"):
        made_files.check(parts, parts.catalog.variants[0], wanted, StopFlag())
