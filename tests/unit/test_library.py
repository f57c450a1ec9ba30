"""The notebooks on disk: what is kept, who may do what, and what a full or broken disk does."""

from __future__ import annotations

import base64
import datetime
import io
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import numpy
import PIL.Image
import pytest

from playground.comparing.images import from_rgb
from playground.errors import BadImage, BadInput, Busy, NoNotebook, NotAllowed, Unreadable
from playground.notebooks import file_format
from playground.notebooks.cells import CompareCell, NoteCell, RunState
from playground.notebooks.file_format import WholeCell, from_json, to_json
from playground.notebooks.library import Library, Notebook
from playground.support.byte_cache import BytesCache
from testkit.full_disk import full_disk, needs_linux
from testkit.notebooks import ANSWERED, BLUE, F16, RED, compare_cell, filled, image, pane, picture, png, result, run_of

OpenLibrary = Callable[[], Library]


@pytest.fixture
def open_library(tmp_path: Path) -> Iterator[OpenLibrary]:
    """One folder, opened anew as by each start of the app."""
    opened: list[Library] = []

    def make() -> Library:
        if opened:
            opened[-1].close()
        opened.append(Library(tmp_path / "notebooks"))
        return opened[-1]

    yield make
    for library in opened:
        library.close()


@pytest.fixture
def library(open_library: OpenLibrary) -> Library:
    return open_library()


def texts(library: Library, notebook: Notebook) -> list[str]:
    """Each cell's text, in order."""
    cells = [library.cell(library.own(notebook.id), id) for id in library.own(notebook.id).cells]
    return [cell.text if isinstance(cell, NoteCell) else cell.prompts[0] for cell in cells]


def notes(library: Library, *texts: str) -> Notebook:
    return library.create("me", "Notes", [WholeCell(NoteCell("", text)) for text in texts])


# --- kept -------------------------------------------------------------------------------------------------------------


def test_notebook_when_the_app_is_started_again_then_all_is_there(open_library: OpenLibrary, tmp_path: Path) -> None:
    library = open_library()
    notebook, note, cell = filled(library)
    shared = library.share(notebook.id, True)
    before = library.all_runs(notebook, cell.id)
    again = open_library()
    assert again.problem is None
    assert [(entry.id, entry.title) for entry in again.browser("me")[1]] == [(notebook.id, "Mine")]
    assert again.read(notebook.id) == (shared, True)
    assert [again.cell(notebook, id) for id in notebook.cells] == [note, cell]
    assert again.all_runs(notebook, cell.id) == before
    assert [(info.number, info.state) for info in again.runs(notebook, cell.id)] == [(1, "done"), (2, "done")]
    assert again.pictures.image(cell.pictures[0]).rgb == RED.rgb
    assert again.pictures.thumbnail(RED.sha256) is not None


def test_folder_when_opened_then_only_this_user_can_read_it(library: Library, tmp_path: Path) -> None:
    filled(library)
    for folder in (tmp_path / "notebooks", tmp_path / "notebooks/pictures"):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_run_when_large_then_nothing_gives_way(open_library: OpenLibrary) -> None:
    library = open_library()
    notebook, _, cell = filled(library)
    text = "word " * 60_000
    for _ in range(4):
        library.begin_run(notebook.id, run_of(cell, result(pane(F16, "x", log=(text,)))))
    again = open_library()
    assert [run.number for run in again.all_runs(notebook, cell.id)] == [1, 2, 3, 4, 5, 6]
    assert again.all_runs(notebook, cell.id)[-1].results[0].update.panes[0].log == (text,)


def test_clock_when_it_goes_back_then_nothing_is_lost(
    open_library: OpenLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = open_library()
    notebook, note, cell = filled(library)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 10 * 365 * 86400)
    library.write(notebook.id, msgspec.structs.replace(note, text="later"))
    library.begin_run(notebook.id, run_of(cell, ANSWERED, started="2001-01-01T00:00:00+00:00"))
    again = open_library()
    assert texts(again, notebook) == ["later", "What?"]
    assert again.newest_run(notebook, cell.id) == again.all_runs(notebook, cell.id)[-1]
    assert again.all_runs(notebook, cell.id)[-1].number == 3


# --- who may do what --------------------------------------------------------------------------------------------------


def test_share_key_when_used_then_it_reads_and_changes_nothing(library: Library) -> None:
    notebook, note, cell = filled(library)
    key = library.share(notebook.id, True).share
    assert key is not None
    shared, can_edit = library.read(key)
    assert (shared.id, can_edit) == (notebook.id, False)
    forbidden: list[Callable[[], object]] = [
        lambda: library.rename(key, "x"),
        lambda: library.share(key, False),
        lambda: library.remove(key),
        lambda: library.write(key, msgspec.structs.replace(note, text="x")),
        lambda: library.add(key, NoteCell("", "x"), None),
        lambda: library.move(key, note.id, 1),
        lambda: library.delete(key, note.id),
        lambda: library.undo(key),
        lambda: library.begin_run(key, run_of(cell)),
        lambda: library.save_run(key, run_of(cell)),
    ]
    for change in forbidden:
        with pytest.raises(NotAllowed, match="read-only"):
            change()
    assert library.read(key) == (shared, False)
    assert texts(library, notebook) == ["hello", "What?"]
    assert len(library.runs(notebook, cell.id)) == 2


@pytest.mark.parametrize("key", ["", "x", "../x", "%", "*", "\ud800", "x\0", "x" * 100_000])
def test_key_when_unknown_then_there_is_no_notebook(library: Library, key: str) -> None:
    filled(library)
    for use in (library.read, library.own, library.remove):
        with pytest.raises(NoNotebook):
            use(key)


def test_sharing_when_ended_then_the_old_key_is_unknown_and_the_next_is_another(open_library: OpenLibrary) -> None:
    library = open_library()
    notebook, *_ = filled(library)
    first = library.share(notebook.id, True).share
    assert first is not None
    assert library.share(notebook.id, True).share == first
    assert library.share(notebook.id, False).share is None
    second = library.share(notebook.id, True).share
    assert second not in (None, first)
    for opened in (library, open_library()):
        with pytest.raises(NoNotebook):
            opened.read(first)


def test_browser_when_unknown_then_it_gets_a_token_and_sees_no_others(library: Library) -> None:
    filled(library)
    for token in (None, "somebody", "\ud800"):
        browser, listed = library.browser(token)
        assert browser not in (None, token, "me")
        assert listed == ()


def test_list_when_a_notebook_is_opened_then_it_comes_first(library: Library) -> None:
    notebook, two = notes(library, "1"), notes(library, "2")
    assert [entry.id for entry in library.browser("me")[1]] == [two.id, notebook.id]
    library.opened("me", notebook.id)
    assert [entry.id for entry in library.browser("me")[1]] == [notebook.id, two.id]


# --- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 2])
def test_cell_when_deleted_and_brought_back_then_its_place_and_runs_are_as_before(library: Library, at: int) -> None:
    notebook, _, cell = filled(library)
    library.add(notebook.id, NoteCell("", "third"), None)
    library.move(notebook.id, cell.id, at)
    before = library.own(notebook.id).cells
    library.delete(notebook.id, cell.id)
    assert texts(library, notebook) == ["hello", "third"]
    with pytest.raises(BadInput, match="This cell is gone"):
        library.write(notebook.id, cell)
    assert library.undo(notebook.id) == cell.id
    assert library.own(notebook.id).cells == before
    assert library.cell(library.own(notebook.id), cell.id) == cell
    assert len(library.all_runs(notebook, cell.id)) == 2
    with pytest.raises(BadInput, match="no deleted cell"):
        library.undo(notebook.id)


def test_cells_when_25_are_deleted_then_the_last_20_come_back_in_order(open_library: OpenLibrary) -> None:
    library = open_library()
    notebook = notes(library, *(str(number) for number in range(25)))
    for id in notebook.cells:
        library.delete(notebook.id, id)
    library = open_library()
    for _ in range(20):
        library.undo(notebook.id)
    assert texts(library, notebook) == [str(number) for number in range(5, 25)]
    with pytest.raises(BadInput):
        library.undo(notebook.id)


def test_run_when_its_cell_cannot_come_back_then_nothing_of_it_is_kept(library: Library) -> None:
    notebook = notes(library, *(str(number) for number in range(20)))
    cell = library.add(notebook.id, compare_cell(), None)
    assert isinstance(cell, CompareCell)
    run = library.begin_run(notebook.id, run_of(cell, state=RunState.RUNNING))
    library.delete(notebook.id, cell.id)
    library.save_run(notebook.id, run)
    assert library.runs(notebook, cell.id)  # undo may bring it back
    for id in notebook.cells:
        library.delete(notebook.id, id)
    library.save_run(notebook.id, run)
    assert library.runs(notebook, cell.id) == ()


def test_write_when_another_tab_wrote_before_then_the_later_one_wins_and_says_so(library: Library) -> None:
    notebook, note, _ = filled(library)
    cell, overtaken = library.write(notebook.id, msgspec.structs.replace(note, text="mine"), note.version)
    assert not overtaken
    yours, overtaken = library.write(notebook.id, msgspec.structs.replace(note, text="yours"), note.version)
    assert overtaken
    assert (cell.version, yours.version) == (note.version + 1, note.version + 2)
    assert texts(library, notebook)[0] == "yours"
    assert library.write(notebook.id, msgspec.structs.replace(yours, text="next"), yours.version)[1] is False


def test_cells_when_two_threads_write_them_then_nothing_is_lost(open_library: OpenLibrary) -> None:
    library = open_library()
    notebook = notes(library, "", "")

    def work(id: str) -> None:
        for number in range(25):
            cell = library.cell(notebook, id)
            library.write(notebook.id, msgspec.structs.replace(cell, text=f"{id} {number}"))
            library.add(notebook.id, NoteCell("", f"{id} {number}"), None)

    threads = [Thread(target=work, args=(id,)) for id in notebook.cells]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    contents = texts(open_library(), notebook)
    assert contents[:2] == [f"{id} 24" for id in notebook.cells]
    assert sorted(contents[2:]) == sorted(f"{id} {number}" for id in notebook.cells for number in range(25))


def test_run_when_its_cell_or_notebook_is_gone_then_saving_it_raises_nothing(library: Library) -> None:
    notebook, _, cell = filled(library)
    run = library.begin_run(notebook.id, run_of(cell, state=RunState.RUNNING))
    library.delete(notebook.id, cell.id)
    library.save_run(notebook.id, run)
    library.undo(notebook.id)
    assert library.newest_run(notebook, cell.id) == run
    library.remove(notebook.id)
    library.save_run(notebook.id, run)
    assert library._entries.keys("run") == []


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_notebook_when_removed_then_its_pictures_go_but_not_those_of_another(library: Library, tmp_path: Path) -> None:
    shown = [library.pictures.keep(image, "a.png") for image in (RED, BLUE)]
    both = library.create("me", "Both", [WholeCell(compare_cell(pictures=tuple(shown)))])
    notebook = library.create("you", "One", [WholeCell(compare_cell(pictures=(shown[0],)))])
    library.remove(both.id)
    assert [path.name for path in (tmp_path / "notebooks/pictures").iterdir()] == [f"{RED.sha256}.png"]
    assert library.browser("me")[1] == ()
    assert library.pictures.image(shown[0]).rgb == RED.rgb
    with pytest.raises(BadImage, match="the file is gone"):
        library.pictures.image(shown[1])
    library.remove(notebook.id)
    assert list((tmp_path / "notebooks/pictures").iterdir()) == []
    assert set(library._entries.keys("")) == {"browser/me", "browser/you"}


def test_notebook_when_removed_then_a_picture_of_an_old_run_goes_too(library: Library, tmp_path: Path) -> None:
    old = compare_cell(pictures=(library.pictures.keep(RED, "a.png"),))
    notebook = library.create("me", "T", [WholeCell(compare_cell(pictures=()), (run_of(old, ANSWERED),))])
    assert library.pictures.png(RED.sha256) is not None
    library.remove(notebook.id)
    assert list((tmp_path / "notebooks/pictures").iterdir()) == []


def imported(library: Library, sha256: str, data: bytes | str) -> None:
    text = data if isinstance(data, str) else base64.b64encode(data).decode()
    library.create("me", "T", [WholeCell(compare_cell(pictures=(picture(RED),)), (), {sha256: text})])


def test_notebook_when_the_app_ends_while_it_is_removed_then_the_next_sweep_goes_on(
    open_library: OpenLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = open_library()
    other = notes(library, "kept")
    notebook, _, _ = filled(library)
    with monkeypatch.context() as patch:
        patch.setattr(Library, "_delete_rest", lambda self, id: None)
        library.remove(notebook.id)
    with pytest.raises(NoNotebook):
        library.read(notebook.id)
    assert library.pictures.png(RED.sha256) is not None
    library = open_library()
    library.sweep(None)
    assert library.pictures.png(RED.sha256) is None
    assert [key for key in library._entries.keys("") if notebook.id in key] == []
    assert texts(library, other) == ["kept"]


def test_sweep_when_it_deletes_then_others_write_and_what_they_use_meanwhile_stays(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step of the sweep waits for somebody else's write."""
    old, used, busy = (notes(library, name) for name in ("old", "used", "busy"))
    for notebook in (old, used, busy):
        library._entries.put(f"used/{notebook.id}", b"2020-01-01")
    library.pictures.keep(BLUE, "b.png")
    library.pictures.keep(RED, "r.png")
    make_old(tmp_path / "notebooks")
    library._retention._used.clear()
    steps: list[str] = []

    def meanwhile(method: str) -> None:
        original = getattr(library, method)

        def step(*args: Any) -> Any:
            with ThreadPoolExecutor(1) as somebody:
                somebody.submit(library.rename, busy.id, method).result(20)
                somebody.submit(library.own, used.id).result(20)
                somebody.submit(library.pictures.keep, BLUE, "b.png").result(20)
            steps.append(method)
            return original(*args)

        monkeypatch.setattr(library, method, step)

    for method in ("_unnamed_questions", "_names_of", "_delete_rest"):
        meanwhile(method)
    assert library.sweep(30) == 1
    assert set(steps) == {"_unnamed_questions", "_names_of", "_delete_rest"}
    assert {entry.id for entry in library.browser("me")[1]} == {used.id, busy.id}
    assert texts(library, used) == ["used"]
    assert library.pictures.png(BLUE.sha256) is not None
    assert library.pictures.png(RED.sha256) is None


def test_limits_when_reached_then_a_notebook_a_cell_or_an_image_more_is_refused(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("playground.notebooks.library.MAX_CELLS", 3)
    monkeypatch.setattr("playground.notebooks.library.MAX_NOTEBOOKS", 2)
    me, _ = library.browser(None)
    notebook = library.create(me, "One", [WholeCell(NoteCell("", str(n))) for n in range(3)])
    with pytest.raises(BadInput, match="at most 3 cells"):
        library.add(notebook.id, NoteCell("", "one more"), None)
    assert len(library.own(notebook.id).cells) == 3
    library.create(me, "Two")
    with pytest.raises(BadInput, match="2 notebooks already"):
        library.create(me, "Three")
    assert len(library.browser(me)[1]) == 2
    pictures = tuple(msgspec.structs.replace(picture(RED), sha256=f"{n:064x}") for n in range(17))
    other, _ = library.browser(None)
    empty = library.create(other, "Other")
    library.add(empty.id, compare_cell(pictures=pictures[:16]), None)
    with pytest.raises(BadInput, match="At most 16 images"):
        library.add(empty.id, compare_cell(pictures=pictures), None)


@pytest.mark.thorough
def test_picture_when_imported_then_it_has_to_be_what_its_name_says(library: Library, tmp_path: Path) -> None:
    broken = bytearray(png(RED))
    broken[37:41] = b"\xe9\x01\x02\x03"  # Pillow raises SyntaxError here
    bomb = io.BytesIO()
    PIL.Image.new("1", (6000, 5000)).save(bomb, "PNG")
    for sha256 in (RED.sha256, "../../x", "*", "", "x" * 64, RED.sha256 + "\n"):
        for data in (png(BLUE), bytes(broken), b"", b"x", png(RED)[:50], "not base64!", "\ud800"):
            imported(library, sha256, data)
    imported(library, RED.sha256, bomb.getvalue())  # takes a second
    assert not (tmp_path / "notebooks/pictures").exists()
    assert library.pictures.thumbnail(RED.sha256) is None
    assert [path.name for path in tmp_path.iterdir()] == ["notebooks"]
    imported(library, RED.sha256, png(RED))
    assert library.pictures.image(picture(RED)).rgb == RED.rgb


def test_notebook_when_its_cells_cannot_all_be_read_then_nothing_of_it_is_left(
    library: Library, tmp_path: Path
) -> None:
    def cells() -> Iterator[WholeCell]:
        shown = library.pictures.keep(RED, "a.png")
        asked = compare_cell(pictures=(shown,))
        yield WholeCell(asked, (run_of(asked, ANSWERED),))
        raise Busy("too many pictures at once")

    with pytest.raises(Busy):
        library.create("me", "T", cells())
    assert library._entries.keys("") == []
    assert list((tmp_path / "notebooks/pictures").iterdir()) == []


def test_notebook_when_imported_then_its_cells_are_read_one_after_another(library: Library) -> None:
    """All runs of a large file at once hold up every thread while Python looks through them for garbage."""
    asked = compare_cell(pictures=())
    text = to_json("T", [(asked, (run_of(asked, ANSWERED),)), (NoteCell("", "x"), ())], lambda sha256: None)
    _, cells, problems = file_format.opened(text.replace('"type":"note"', '"type":"no such type"'))
    assert next(cells).runs
    assert problems == []
    assert list(cells) == []
    assert len(problems) == 1


def test_notebook_when_exported_and_imported_then_its_pictures_and_runs_come_along(
    library: Library, tmp_path: Path
) -> None:
    notebook, _, cell = filled(library)
    cells = [(library.cell(notebook, id), library.all_runs(notebook, id)) for id in notebook.cells]
    text = to_json(notebook.title, cells, library.pictures.png)
    other = Library(tmp_path / "other")
    title, whole, _ = from_json(text)
    copy = other.create("you", title, whole)
    assert texts(other, copy) == ["hello", "What?"]
    assert not set(copy.cells) & set(notebook.cells)
    assert other.all_runs(copy, copy.cells[1]) == library.all_runs(notebook, cell.id)
    assert other.pictures.image(cell.pictures[0]).rgb == RED.rgb
    other.close()


def test_picture_when_damaged_on_disk_then_told_and_adding_it_again_heals_it(library: Library, tmp_path: Path) -> None:
    noise = numpy.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=numpy.uint8)
    large = from_rgb(PIL.Image.fromarray(noise))
    picture = library.pictures.keep(large, "noise.png")
    assert library.pictures.thumbnail(picture.sha256) is not None
    for path in (tmp_path / "notebooks/pictures").iterdir():
        path.write_bytes(path.read_bytes()[:100_000]) if path.suffix == ".png" else path.unlink()
    assert library.pictures.thumbnail(picture.sha256) is None
    with pytest.raises(BadImage, match=r"noise.png cannot be read any more .* Add the image again"):
        library.pictures.image(picture)
    library.pictures.keep(large, "noise.png")
    assert library.pictures.image(picture).rgb == large.rgb


def test_thumbnail_when_the_picture_is_large_then_a_small_one_is_made_once(library: Library, tmp_path: Path) -> None:
    noise = numpy.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=numpy.uint8)
    picture = library.pictures.keep(from_rgb(PIL.Image.fromarray(noise)), "noise.png")
    kind, data = library.pictures.thumbnail(picture.sha256) or ("", b"")
    assert kind == "image/webp"
    assert PIL.Image.open(io.BytesIO(data)).size == (512, 398)
    assert (tmp_path / f"notebooks/pictures/{picture.sha256}.webp").read_bytes() == data
    assert library.pictures.thumbnail(picture.sha256) == (kind, data)


# --- a disk that is full or broken ------------------------------------------------------------------------------------


@needs_linux
def test_disk_when_full_then_memory_serves_and_all_is_saved_once_there_is_room(open_library: OpenLibrary) -> None:
    library = open_library()
    old, note, cell = filled(library)
    with full_disk():
        library.write(old.id, msgspec.structs.replace(note, text="changed"))
        shown = library.pictures.keep(BLUE, "b.png")
        run = library.begin_run(old.id, run_of(cell, ANSWERED))
        new = library.create("me", "New", [WholeCell(compare_cell(pictures=(shown,), prompts=("Blue?",)))])
        assert "Not saved, only kept in memory: " in (library.problem or "")
        assert texts(library, old) == ["changed", "What?"]
        assert texts(library, new) == ["Blue?"]
        assert library.newest_run(old, cell.id) == run
        assert library.pictures.image(shown).rgb == BLUE.rgb
        assert [entry.title for entry in library.browser("me")[1]] == ["New", "Mine"]
    assert library.problem is not None
    library.rename(old.id, "There is room")
    assert library.problem is None
    again = open_library()
    assert texts(again, old) == ["changed", "What?"]
    assert texts(again, new) == ["Blue?"]
    assert again.newest_run(old, cell.id) == run
    assert again.pictures.image(shown).rgb == BLUE.rgb
    assert [entry.title for entry in again.browser("me")[1]] == ["New", "There is room"]


@needs_linux
def test_disk_when_full_then_what_is_removed_or_no_longer_shared_stays_so(open_library: OpenLibrary) -> None:
    library = open_library()
    gone, *_ = filled(library)
    notebook = notes(library, "kept")
    key = library.share(notebook.id, True).share
    assert key is not None
    with full_disk():
        library.remove(gone.id)
        library.share(notebook.id, False)
        assert library.problem is not None
        for unknown in (gone.id, key):
            with pytest.raises(NoNotebook):
                library.read(unknown)
        assert [entry.id for entry in library.browser("me")[1]] == [notebook.id]
    library.rename(notebook.id, "There is room")
    assert library.problem is None
    again = open_library()
    for unknown in (gone.id, key):
        with pytest.raises(NoNotebook):
            again.read(unknown)
    assert not [name for name in again._entries.keys("") if gone.id in name]


def test_database_when_garbage_at_the_start_then_set_aside_and_told(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/cache.db").write_bytes(b"garbage" * 1000)
    library = Library(tmp_path / "notebooks")
    notebook, note, cell = filled(library)
    assert "The notebooks' database was damaged" in (library.problem or "")
    assert list(tmp_path.glob("notebooks/cache.db.damaged-*"))
    library.write(notebook.id, msgspec.structs.replace(note, text="changed"))
    assert texts(library, notebook) == ["changed", "What?"]
    assert len(library.all_runs(notebook, cell.id)) == 2
    library.delete(notebook.id, note.id)
    library.remove(notebook.id)
    assert library.browser("me")[1] == ()
    library.close()


def test_folder_when_it_cannot_be_made_then_memory_serves_and_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    library = Library(tmp_path / "file/notebooks")
    notebook, _, cell = filled(library)
    assert "Not saved, only kept in memory" in (library.problem or "")
    assert texts(library, notebook) == ["hello", "What?"]
    assert library.pictures.image(cell.pictures[0]).rgb == RED.rgb
    library.close()


@pytest.mark.parametrize("raw", [b"", b"{", b'{"type":"video","id":"x"}', b"\xff"])
def test_cell_when_it_cannot_be_read_then_a_note_says_so(library: Library, raw: bytes) -> None:
    notebook, note, cell = filled(library)
    library._entries.put(f"cell/{notebook.id}/{note.id}", raw)
    library._entries.put(f"run/{notebook.id}/{cell.id}/2", raw)
    assert "This cell cannot be read" in texts(library, notebook)[0]
    assert library.newest_run(notebook, cell.id) is None
    assert len(library.all_runs(notebook, cell.id)) == 1


def test_image_when_kept_twice_then_one_file(library: Library, tmp_path: Path) -> None:
    first, second = library.pictures.keep(image("green"), "a.png"), library.pictures.keep(image("green"), "b.png")
    assert (first.sha256, first.name, second.name) == (second.sha256, "a.png", "b.png")
    assert len(list((tmp_path / "notebooks/pictures").iterdir())) == 1


# --- a disk that does not answer is not an empty one -----------------------------------------------------------------


def make_old(folder: Path) -> None:
    for path in folder.glob("pictures/*"):
        os.utime(path, (time.time() - 90_000,) * 2)


def test_database_when_overwritten_before_the_start_then_the_sweep_deletes_no_picture(
    open_library: OpenLibrary, tmp_path: Path
) -> None:
    library = open_library()
    filled(library)
    library.pictures.keep(BLUE, "b.png")
    library.close()
    folder = tmp_path / "notebooks"
    make_old(folder)
    with open(folder / "cache.db", "r+b") as file:
        file.write(b"\xa5" * 8192)
    again = open_library()
    assert "The notebooks' database was damaged" in (again.problem or "")
    assert again.sweep(1, datetime.date(2100, 1, 1)) == 0
    assert again.pictures.png(BLUE.sha256) is not None
    another, *_ = filled(again, "another")
    again.remove(another.id)
    assert again.pictures.png(RED.sha256) is not None
    for path in folder.glob("cache.db.damaged-*"):
        path.unlink()
    assert again.problem is None


class Reads:
    """Counts the reads of a cache, and lets one of them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done = 0
        self.failing: int | None = None
        for name in ("get", "keys"):
            monkeypatch.setattr(BytesCache, name, self._counted(getattr(BytesCache, name)))

    def _counted(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def counted(cache: BytesCache, key: str) -> Any:
            self.done += 1
            if self.done == self.failing:
                raise Unreadable("The disk cannot be read now.")
            return read(cache, key)

        return counted


def stored(library: Library) -> dict[str, bytes | None]:
    return {key: library._entries.get(key) for key in library._entries.keys("") if not key.startswith("used/")}


@pytest.mark.parametrize(
    "act",
    [
        lambda library, notebook: library.create("me", "New"),
        lambda library, notebook: library.opened("me", notebook.id),
        lambda library, notebook: library.begin_run(notebook.id, run_of(compare_cell(), ANSWERED)),
        lambda library, notebook: library.delete(notebook.id, notebook.cells[0]),
        lambda library, notebook: library.remove(notebook.id),
        lambda library, notebook: library.sweep(30),
    ],
    ids=["create", "open", "run", "delete a cell", "remove", "sweep"],
)
def test_read_when_any_one_fails_then_nothing_that_was_there_is_changed(
    open_library: OpenLibrary, monkeypatch: pytest.MonkeyPatch, act: Callable[[Library, Notebook], object]
) -> None:
    library = open_library()
    library.create("me", "First")
    notebook, *_ = filled(library)
    library.create("me", "Last")
    before = stored(library)
    reads = Reads(monkeypatch)
    for number in range(1, 100):
        reads.done, reads.failing = 0, number
        try:
            act(library, notebook)
        except Unreadable:
            reads.failing = None
            assert before.items() <= stored(library).items(), f"read {number}"
            assert library.pictures.png(RED.sha256) is not None
        else:
            break
    else:
        pytest.fail("it reads without end")
    assert number > 1


@pytest.mark.parametrize("days", [3650, -3650, 8, -8])
def test_clock_when_it_jumps_then_nothing_is_deleted_and_each_notebook_counts_as_used(
    library: Library, tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int
) -> None:
    notebook, *_ = filled(library)
    library.pictures.keep(BLUE, "b.png")
    make_old(tmp_path / "notebooks")
    today = datetime.datetime.now(datetime.UTC).date()
    (tmp_path / "notebooks/swept").write_text((today - datetime.timedelta(days)).isoformat())
    library._entries.put(f"used/{notebook.id}", (today - datetime.timedelta(9999)).isoformat().encode())
    library._retention._used.clear()
    for _ in range(2):
        assert library.sweep(30) == 0
        assert library.read(notebook.id)
    assert caplog.text.count("the clock jumped") == 1


def test_day_of_use_when_in_the_future_then_it_begins_today(library: Library) -> None:
    notebook, *_ = filled(library)
    library._entries.put(f"used/{notebook.id}", b"2100-01-01")
    library._retention._used.clear()
    assert library.sweep(30) == 0
    assert library._entries.get(f"used/{notebook.id}") != b"2100-01-01"


def test_folder_when_a_second_app_opens_it_then_the_second_one_says_so(tmp_path: Path) -> None:
    first, second = Library(tmp_path / "notebooks"), Library(tmp_path / "notebooks")
    assert first.problem is None
    assert "Another program uses the same cache folder" in (second.problem or "")
    first.close()
    assert second.problem is None
    second.close()
