"""The page's server functions, called without a page."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, cast
from urllib.parse import unquote

import msgspec
import PIL.Image
import pytest
from gradio.utils import get_upload_folder
from starlette.applications import Starlette
from starlette.testclient import TestClient

from playground.errors import BadImage, BadInput, NoRoom, NotAllowed
from playground.notebooks.cells import CellQuestions, CompareCell, NoteCell, Run
from playground.notebooks.file_format import WholeCell
from playground.notebooks.library import Library
from playground.rendering import cell_view, qr_code
from playground.web import notebook_file
from playground.web.live_runs import LiveRuns, RunJob
from playground.web.notebook_actions import NotebookActions
from playground.web.notebook_view import NotebookView
from playground.web.public_link import PublicLink
from playground.web.replies import DocumentPages, RunUpdate
from playground.wiring import Parts
from testkit.notebooks import ANSWERED, RED, compare_cell, filled, run_of
from testkit.running import SCENE

ActionsOf = Callable[[Parts], NotebookActions]


@pytest.fixture
def actions_of() -> ActionsOf:
    deriving = Thread(target=lambda: None)
    deriving.start()
    return lambda parts: NotebookActions(
        parts, NotebookView(parts), LiveRuns(lambda job: iter(()), unwatched_s=0), deriving
    )


def test_notebooks_when_there_is_no_room_then_no_way_makes_another_one(
    parts: Parts, tmp_path: Path, actions_of: ActionsOf
) -> None:
    with_room = actions_of(parts)
    opened = with_room.open()
    exported = with_room.export(str(opened.key), "json").text
    library = Library(parts.library.pictures.folder.parent, limit_bytes=1)
    actions = actions_of(dataclasses.replace(parts, library=library))
    for make in (
        lambda: actions.create(opened.browser),
        lambda: actions.copy(str(opened.key), opened.browser),
        lambda: actions.import_file(opened.browser, exported),
    ):
        with pytest.raises(NoRoom, match="notebooks_bytes"):
            make()
    stranger = actions.open()
    assert (stranger.key, "notebooks_bytes" in stranger.page) == (None, True)
    assert actions.open(opened.key, opened.browser).key == opened.key  # what is there opens
    library.close()


def test_link_when_it_names_a_cell_of_another_notebook_of_the_browser_then_that_one_opens(
    parts: Parts, actions_of: ActionsOf
) -> None:
    actions = actions_of(parts)
    first = actions.open()
    cell = parts.library.own(str(first.key)).cells[1]
    later = actions.create(first.browser)
    opened = [actions.open(browser=first.browser, cell=cell) for cell in (None, "gone", cell)]
    assert [page.key for page in opened] == [later.key, later.key, first.key]
    assert actions.open(cell=cell).key != first.key  # another browser's


def test_part_of_an_image_when_taken_then_the_cell_or_a_new_one_has_it_under_its_name(
    parts: Parts, actions_of: ActionsOf
) -> None:
    actions = actions_of(parts)
    key = str(actions.open().key)
    notebook = parts.library.own(key)
    id = notebook.cells[1]
    before = parts.library.cell(notebook, id)
    assert isinstance(before, CompareCell)
    (whole,) = before.pictures
    actions.pictures.crop(key, id, whole.sha256, 10, 20, 30, 40)
    after = parts.library.cell(notebook, id)
    assert isinstance(after, CompareCell)
    part = after.pictures[1]
    assert after.pictures[0] == whole
    assert (part.width, part.height, part.name) == (30, 40, f"{whole.name}, 30 × 40 at 10, 20")
    pixels, rgb = parts.library.pictures.image(part).rgb, parts.library.pictures.image(whole).rgb
    begin = 3 * (20 * whole.width + 10)
    assert pixels[: 3 * 30] == rgb[begin : begin + 3 * 30]
    new = actions.pictures.crop(key, id, whole.sha256, 10, 20, 30, 40, alone=True).cells[0].id
    alone = parts.library.cell(parts.library.own(key), new)
    assert isinstance(alone, CompareCell)
    assert (alone.pictures, alone.prompts, alone.variants) == ((part,), before.prompts, before.variants)
    for x, width, height in ((-1, 5, 5), (0, 0, 5), (0, 5, 10**6)):
        with pytest.raises(BadImage):
            actions.pictures.crop(key, id, whole.sha256, x, 20, width, height)
    with pytest.raises(BadInput):
        actions.pictures.crop(key, id, "0" * 64, 0, 0, 5, 5)


def test_share_menu_when_the_app_has_a_public_link_then_address_and_code_lead_to_the_shared_notebook(
    parts: Parts, actions_of: ActionsOf
) -> None:
    """The tunnel is Gradio's; its address is given here."""
    opened = actions_of(parts).open()
    key = str(opened.key)
    assert "<svg" not in opened.page.partition("vp-cells")[0]
    view = NotebookView(parts, PublicLink("https://abc.gradio.live"))
    alone = view.page(key, opened.browser).page.partition("vp-cells")[0]
    share = parts.library.share(key, True).share
    shared = view.page(key, opened.browser).page.partition("vp-cells")[0]
    assert 'href="https://abc.gradio.live"' in alone
    assert str(qr_code.svg("https://abc.gradio.live")) in alone
    assert 'data-public="https://abc.gradio.live"' in shared
    assert str(qr_code.svg(f"https://abc.gradio.live/?notebook={share}")) in shared
    failed = NotebookView(parts, PublicLink(problem="There is no public link.")).page(key, opened.browser).page
    assert "There is no public link. The app's log says more" in failed


def test_cell_when_deleted_then_its_run_stops_and_no_other_and_a_reader_stops_none(parts: Parts) -> None:
    """A scan of a deleted cell went on for minutes where the page's "stop" came behind its "delete"."""
    began: SimpleQueue[RunJob] = SimpleQueue()

    def until_stopped(job: RunJob) -> Iterator[RunUpdate]:
        began.put(job)
        while not job.stop.wanted():
            yield RunUpdate(cell=job.cell)

    runs, deriving = LiveRuns(until_stopped, unwatched_s=0), Thread(target=lambda: None)
    deriving.start()
    actions = NotebookActions(parts, NotebookView(parts), runs, deriving)
    key = actions.open().key
    assert key is not None
    deleted, remaining = [actions.add(key, "compare").cells[0].id for _ in range(2)]
    actions.write(key, remaining, repeats=3)
    assert actions.run(key, [deleted, remaining]).queue.waiting.count(remaining) == 3
    first = began.get(timeout=60)
    link = parts.library.share(key, True).share
    assert link is not None
    for refused in (
        lambda: actions.delete(link, deleted),
        lambda: actions.run(link, [remaining]),
        lambda: actions.stop(link),
    ):
        with pytest.raises(NotAllowed):
            refused()
    assert not first.stop.wanted()
    actions.delete(key, deleted)
    second = began.get(timeout=60)
    assert (first.cell, second.cell) == (deleted, remaining)
    assert first.stop.wanted()
    assert not second.stop.wanted()
    runs.close()


def test_report_when_written_then_the_tutorials_notes_are_left_out_until_they_are_changed(
    parts: Parts, actions_of: ActionsOf
) -> None:
    actions = actions_of(parts)
    key = str(actions.open().key)
    note = parts.catalog.presets[0].cells[0].note.strip()
    begins = note.splitlines()[0][:40]
    assert [begins in actions.export(key, kind).text for kind in ("md", "json")] == [False, True]
    notebook, _ = parts.library.read(key)
    actions.write(key, notebook.cells[0], text=f"{note} Mine.")
    assert begins in actions.export(key, "md").text


def test_answer_when_marked_as_right_then_a_measurement_asks_it_and_a_reader_marks_none(
    parts: Parts, actions_of: ActionsOf
) -> None:
    actions, library = actions_of(parts), parts.library
    notebook, _, cell = filled(library)
    reader = library.share(notebook.id, shared=True).share
    variant = library.run(notebook, cell.id, 2).cell.variants[0]  # type: ignore[union-attr]
    with pytest.raises(NotAllowed):
        actions.mark(str(reader), cell.id, 2, 0, variant, right=True)
    assert 'aria-pressed="true"' not in actions.look(notebook.id, cell.id, 2).html
    actions.mark(notebook.id, cell.id, 2, 0, variant, right=True)
    assert actions.look(notebook.id, cell.id, 2).html.count('aria-pressed="true"') == 1
    assert "marked right" in actions.export(notebook.id, "html", cell.id).text

    measure = actions.add(notebook.id, "measure").cells[0].id
    actions.questions.marked_questions(notebook.id, measure)
    written = library.cell(library.own(notebook.id), measure)
    assert isinstance(written, CompareCell)
    assert written.questions is not None
    read = library.files(library.own(notebook.id)).questions(written.questions.source)
    assert [(question.question, question.answers) for question in read.items] == [("What?", ("three red squares",))]
    assert read.image(read.items[0]).width == cell.pictures[0].width
    assert base64.b64decode(actions.questions.questions_file(notebook.id).data)[:2] == b"PK"


def without_images(text: str) -> str:
    """An exported notebook that names its pictures, and holds none."""
    head, *lines = text.splitlines()
    assert '"images"' in text
    return "\n".join([head, *(re.sub(r',?"images":\{[^}]*\}', "", line) for line in lines)])


def test_picture_when_an_imported_file_only_names_it_then_no_way_shows_it(parts: Parts, actions_of: ActionsOf) -> None:
    actions, library = actions_of(parts), parts.library
    anna = actions.open()
    key = str(anna.key)
    compare = next(id for id in library.own(key).cells if isinstance(library.cell(library.own(key), id), CompareCell))
    named = without_images(actions.export(key, "json", compare).text)

    ben = actions.import_file("a browser of ben's", named)
    stolen = str(ben.key)
    (cell,) = library.own(stolen).cells
    written = library.cell(library.own(stolen), cell)
    assert isinstance(written, CompareCell)
    (picture,) = written.pictures
    actions.write(stolen, cell, collapsed=True)
    actions.duplicate(stolen, cell)
    copied = actions.copy(stolen, ben.browser)
    for notebook in (library.own(stolen), library.own(str(copied.key))):
        files = library.files(notebook)
        assert files.png(picture.sha256) is None
        assert files.thumbnail(picture.sha256) is None
        with pytest.raises(BadImage, match="was not in the imported file"):
            files.image(picture)
        assert "data:image" not in actions.export(notebook.id, "html").text
        assert '"images"' not in actions.export(notebook.id, "json").text
    with pytest.raises(BadInput, match="image is gone"):
        actions.pictures.picture(stolen, cell, picture.sha256)

    actions.pictures._add_picture(
        stolen, library.own(stolen).cells[1], SCENE.with_name("hard-61.png")
    )  # another picture changes nothing
    assert library.files(library.own(stolen)).png(picture.sha256) is None
    again = actions.import_file(anna.browser, named)  # her own: one of her notebooks has it
    assert library.files(library.own(str(again.key))).png(picture.sha256) is not None


def test_picture_when_its_image_is_uploaded_or_in_the_file_then_it_is_shown(
    parts: Parts, actions_of: ActionsOf
) -> None:
    actions, library = actions_of(parts), parts.library
    opened = actions.open()
    key = str(opened.key)
    compare = next(id for id in library.own(key).cells if isinstance(library.cell(library.own(key), id), CompareCell))
    whole = actions.export(key, "json", compare).text
    with_image = actions.import_file("another browser", whole)
    stranger = actions.import_file("a third browser", without_images(whole))
    sha256 = library.files(library.own(key))
    (cell,) = library.own(str(stranger.key)).cells
    written = library.cell(library.own(str(stranger.key)), cell)
    assert isinstance(written, CompareCell)
    (picture,) = written.pictures
    assert library.files(library.own(str(with_image.key))).png(picture.sha256) == sha256.png(picture.sha256)
    png = sha256.png(picture.sha256)
    assert png is not None
    path = library.pictures.folder / "again.png"
    path.write_bytes(png)
    actions.pictures._add_picture(str(stranger.key), cell, path)
    assert library.files(library.own(str(stranger.key))).png(picture.sha256) == png
    path.write_bytes(b"garbage")
    forged = re.sub(r'("images":\{"[0-9a-f]{64}":")[^"]*', r"\1AAAA", whole)
    third = actions.import_file("a fourth browser", forged)
    assert library.files(library.own(str(third.key))).png(picture.sha256) is None


def test_run_when_it_cannot_be_shown_then_the_others_are(
    parts: Parts, actions_of: ActionsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = str(actions_of(parts).open().key)
    first, second = (parts.library.add(key, compare_cell(), None) for _ in range(2))
    for cell in (first, second):
        parts.library.begin_run(key, run_of(cast(CompareCell, cell), ANSWERED))
    drawn = cell_view.run

    def fails_for_one(shown: Run, *rest: Any, **more: Any) -> Any:
        if shown.cell.id == first.id:
            raise ZeroDivisionError
        return drawn(shown, *rest, **more)

    monkeypatch.setattr(cell_view, "run", fails_for_one)
    failed, shown = (output.html for output in actions_of(parts).outputs(key, [first.id, second.id]).outputs)
    assert "This run cannot be shown." in failed
    assert "vp-pane" in shown


def test_pack_when_chosen_then_the_cell_has_its_limits_and_another_notebook_gets_it_by_no_name(
    parts: Parts, actions_of: ActionsOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    uploads = Path(get_upload_folder())
    uploads.mkdir(parents=True, exist_ok=True)
    data = (Path(__file__).parents[2] / "examples/tiny-vlm-7M-F16-hard-150.safetensors").read_bytes()
    (uploads / "a.safetensors").write_bytes(data)
    (uploads / "cut.safetensors").write_bytes(data[:999])
    actions, library, view = actions_of(parts), parts.library, NotebookView(parts)
    key = str(actions.open().key)
    cell = actions.add(key, "measure").cells[0].id

    def questions_of(key: str, cell: str) -> CellQuestions:
        now = library.cell(library.own(key), cell)
        assert isinstance(now, CompareCell)
        assert now.questions is not None
        return now.questions

    before = questions_of(key, cell)
    with pytest.raises(BadInput, match=r"cut\.safetensors is damaged or cut short"):
        actions.questions.own_pack(key, cell, str(uploads / "cut.safetensors"))
    with pytest.raises(NotAllowed):
        actions.questions.own_pack(key, cell, str(tmp_path / "../a.safetensors"))
    shown = actions.questions.own_pack(key, cell, str(uploads / "a.safetensors")).cells[0].html
    assert "against the pack <b>a.safetensors</b>" in shown
    actions.write(key, cell, questions=msgspec.structs.replace(before, n=5))  # as the page's fields do
    chosen = questions_of(key, cell)
    assert (chosen.pack_name, chosen.n) == ("a.safetensors", 5)
    assert len(view.pack(library.own(key), chosen).record.questions) == 150
    stranger = actions.import_file("another browser", actions.export(key, "json", cell).text)
    other = str(stranger.key)
    (copied,) = library.own(other).cells
    assert questions_of(other, copied).pack == chosen.pack
    with pytest.raises(BadInput, match=r"The reference pack a\.safetensors is not on this machine"):
        view.pack(library.own(other), questions_of(other, copied))
    actions.questions.own_pack(other, copied, str(uploads / "a.safetensors"))
    assert view.pack(library.own(other), questions_of(other, copied)).digest == chosen.pack
    actions.questions.own_pack(key, cell)
    assert questions_of(key, cell).pack == ""


def test_upload_when_only_examples_are_there_or_on_a_picture_then_it_takes_their_place_and_they_come_back(
    parts: Parts, actions_of: ActionsOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    uploads = Path(get_upload_folder())
    uploads.mkdir(parents=True, exist_ok=True)
    actions, library = actions_of(parts), parts.library
    key = str(actions.open().key)
    cell = next(id for id in library.own(key).cells if isinstance(library.cell(library.own(key), id), CompareCell))

    def names() -> list[str]:
        now = library.cell(library.own(key), cell)
        assert isinstance(now, CompareCell)
        return [picture.name for picture in now.pictures]

    def add(name: str, instead: str | None = None) -> bool:
        PIL.Image.new("RGB", (40, 30), name.removesuffix(".png")).save(uploads / name)
        return actions.pictures.add_picture(key, cell, str(uploads / name), instead).replaced

    (example,) = names()
    assert add("red.png")
    assert names() == ["red.png"]
    actions.pictures.put_back(key, cell)
    assert names() == [example]
    with pytest.raises(BadInput, match="nothing to undo"):
        actions.pictures.put_back(key, cell)
    add("red.png")
    actions.pictures.put_back(key, cell, both=True)
    assert names() == [example, "red.png"]
    assert not add("green.png")  # an own image is there: the new one joins it
    before = library.cell(library.own(key), cell)
    assert isinstance(before, CompareCell)
    assert add("blue.png", instead=before.pictures[1].sha256)
    assert names() == [example, "blue.png", "green.png"]


def test_document_when_other_pages_are_chosen_then_they_take_the_place_of_the_first_ones(
    parts: Parts, actions_of: ActionsOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    path = Path(get_upload_folder()) / "a.pdf"
    path.parent.mkdir(parents=True, exist_ok=True)
    sheets = [PIL.Image.new("RGB", (40, 30), (20 * n, 0, 0)) for n in range(10)]
    sheets[0].save(path, save_all=True, append_images=sheets[1:])
    actions, library = actions_of(parts), parts.library
    opened = actions.open()
    key = str(opened.key)
    cell = library.own(key).cells[1]

    def shown() -> list[str]:
        now = library.cell(library.own(key), cell)
        assert isinstance(now, CompareCell)
        return [str(picture.note)[:13].strip(" ,") for picture in now.pictures]

    document = actions.pictures.add_picture(key, cell, str(path)).document
    assert isinstance(document, DocumentPages)
    assert (document.name, document.pages, document.most, document.taken) == ("a.pdf", 10, 8, "1-8")
    assert shown() == [f"page {n} of 10" for n in range(1, 9)]
    chosen = actions.pictures.add_picture(key, cell, str(path), pages="9, 2", others=list(document.pictures)).document
    assert isinstance(chosen, DocumentPages)
    assert (chosen.taken, sorted(shown())) == ("9, 2", ["page 2 of 10", "page 9 of 10"])
    with pytest.raises(BadInput, match="there is no page 11"):
        actions.pictures.add_picture(key, cell, str(path), pages="11", others=list(chosen.pictures))
    assert len(shown()) == 2


def test_questions_when_an_imported_file_only_names_their_zip_then_they_are_not_there(
    parts: Parts, actions_of: ActionsOf, tmp_path: Path
) -> None:
    path = tmp_path / "q.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(SCENE, "a.png")
        archive.writestr("items.jsonl", '{"image": "a.png", "question": "What?", "answer": "a"}\n')
    actions, library = actions_of(parts), parts.library
    source = library.questions.keep(path)
    cell = CompareCell("c", questions=CellQuestions(source=source, name="q.zip"))
    anna = library.create("anna", "Mine", [WholeCell(cell)])
    assert library.files(anna).has_questions(source)
    exported = actions.export(anna.id, "json").text
    stolen = library.own(str(actions.import_file("ben", exported).key))
    assert not library.files(stolen).has_questions(source)
    with pytest.raises(BadInput, match="not on this machine"):
        NotebookView(parts).question_set(stolen, CellQuestions(source=source))
    own = library.own(str(actions.import_file("anna", exported).key))
    assert library.files(own).has_questions(source)


def test_run_when_put_back_then_the_cell_asks_what_it_asked_and_keeps_its_runs(
    parts: Parts, actions_of: ActionsOf
) -> None:
    actions = actions_of(parts)
    notebook, _, cell = filled(parts.library)
    actions.write(notebook.id, cell.id, prompts=["Where?"], unpicture=cell.pictures[0].sha256)
    variant = cell.variants[0]
    assert "<b>three</b> 50.0%" in actions.likely(notebook.id, cell.id, 1, 0, variant, 2).html
    for number, index, name in ((9, 0, variant), (1, -1, variant), (1, 5, variant), (1, 0, "nobody")):
        with pytest.raises(BadInput):
            actions.likely(notebook.id, cell.id, number, index, name, 0)
    reply = actions.restore(notebook.id, cell.id, 1)
    back = parts.library.cell(parts.library.own(notebook.id), cell.id)
    assert isinstance(back, CompareCell)
    assert (back.prompts, back.pictures, back.variants) == (cell.prompts, cell.pictures, cell.variants)
    assert len(parts.library.runs(notebook, cell.id)) == 2
    assert "run 1" in str(reply.notice)
    with pytest.raises(BadInput):
        actions.restore(notebook.id, cell.id, 9)


def test_compare_when_a_link_names_variants_then_a_new_last_cell_has_those_of_one_family(
    parts: Parts, actions_of: ActionsOf
) -> None:
    actions = actions_of(parts)
    opened = actions.open()
    ids = [variant.id for variant in parts.catalog.variants][:2]
    reply = actions.compare(str(opened.key), [*ids, "nobody:knows"], opened.browser)
    (added,) = reply.cells
    assert isinstance(reply.order, tuple)
    assert reply.order[-1] == added.id
    cell = parts.library.cell(parts.library.own(str(opened.key)), added.id)
    assert isinstance(cell, CompareCell)
    assert cell.variants == tuple(ids)
    with pytest.raises(BadInput):
        actions.compare(str(opened.key), ["nobody:knows"], opened.browser)


def test_notebook_when_downloaded_in_pieces_then_as_exported_and_a_report_of_too_many_runs_is_refused(
    parts: Parts, actions_of: ActionsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions = actions_of(parts)
    library = parts.library
    note, compare = NoteCell(""), compare_cell(pictures=(library.pictures.keep(RED, "red.png"),))
    runs = tuple(run_of(compare, ANSWERED, number=number) for number in (1, 2))
    notebook = library.create("anna", 'Größe: 3 "x"', [WholeCell(note), WholeCell(compare, runs)])
    other = library.create("ben", "Ben's", [WholeCell(NoteCell(""))])
    with TestClient(Starlette(routes=notebook_file.routes(actions))) as client:
        for cell in (None, notebook.cells[1]):
            reply = client.get("/vp-notebook", params={"notebook": notebook.id, **({"cell": cell} if cell else {})})
            exported = actions.export(notebook.id, "json", cell)
            assert (reply.status_code, reply.text) == (200, exported.text)
            assert unquote(reply.headers["content-disposition"]).endswith(f"UTF-8''{exported.name}")
        assert client.get("/vp-notebook", params={"notebook": "no such key"}).status_code == 404
        foreign = client.get("/vp-notebook", params={"notebook": notebook.id, "cell": other.cells[0]})
        assert (foreign.status_code, "cell is gone" in foreign.text) == (400, True)
        monkeypatch.setattr("playground.web.notebook_actions._MOST_REPORTED", 1)
        for kind in ("html", "md", "ipynb", "json"):
            with pytest.raises(BadInput, match="at most 1 runs, and these are 2"):
                actions.export(notebook.id, kind)
        whole = client.get("/vp-notebook", params={"notebook": notebook.id})
    assert len(json.loads(whole.text)["cells"][1]["runs"]) == 2


def test_chunks_when_pieces_are_small_then_few_and_nothing_is_held_back_for_long() -> None:
    given = iter(["ab"] * 10)
    chunks = notebook_file.chunks(given, size=6)
    assert next(chunks) == b"ababab"
    assert len(list(given)) == 7, "the rest was not taken yet"


def test_notebook_when_the_browser_has_one_of_its_title_then_a_number_tells_them_apart(
    parts: Parts, actions_of: ActionsOf
) -> None:
    actions, library = actions_of(parts), parts.library
    opened = actions.open()
    exported = actions.export(str(opened.key), "json").text
    replies = [actions.import_file(opened.browser, exported) for _ in range(2)]
    replies += [actions.copy(str(opened.key), opened.browser) for _ in range(2)]
    title = library.own(str(opened.key)).title
    assert [library.own(str(reply.key)).title for reply in replies] == [
        f"{title} (2)", f"{title} (3)", f"{title} (copy)", f"{title} (copy) (2)"
    ]  # fmt: skip
    elsewhere = actions.import_file("another browser", exported)
    assert library.own(str(elsewhere.key)).title == title
