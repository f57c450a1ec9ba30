"""Files written by version 0.1.0 (tests/data/README.md) open as they did there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from playground.comparing.embedding_cache import EmbeddingCache
from playground.comparing.lab import Lab
from playground.engine.protocol import EncodedPrompt, ImageChunk
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.results import QuestionDrift
from playground.measuring.steps import Item
from playground.models.catalog import Catalog
from playground.models.hub.client import Hub
from playground.models.hub.downloads import Downloads, DownloadState
from playground.models.presets import data_folder
from playground.notebooks.cells import CompareCell, NoteCell, Run, RunState
from playground.notebooks.file_format import from_json, to_json
from playground.notebooks.library import Library, Notebook
from playground.pool.forecast import Forecasts
from playground.pool.pool import Pool
from playground.pool.worker_spec import language_spec
from playground.quantizing import scan_results
from playground.rendering import cell_view, reports, sensitivity_view
from playground.support.result_cache import ResultCache
from playground.values.answer import PaneState
from playground.values.files import Variant
from playground.values.memory import HOST
from playground.values.request import Runtime
from testkit import old_files, pairs
from testkit.old_files import Written

RUNTIME = Runtime(n_ctx=512)  # of the measurement


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return old_files.unpack(tmp_path)


@pytest.fixture
def old(tmp_path: Path, written: Written) -> Path:
    return tmp_path


@pytest.fixture
def library(old: Path) -> Iterator[Library]:
    opened = Library(old / "cache/notebooks")
    yield opened
    opened.close()


@pytest.fixture
def results(old: Path, written: Written) -> Iterator[ResultCache]:
    opened = ResultCache(old / "cache/measured", written.engine)
    yield opened
    opened.close()


@pytest.fixture
def pool() -> Iterator[Pool]:
    opened = Pool.open()
    yield opened
    assert opened.memory().workers == ()  # nothing had to be loaded
    opened.close()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "empty", None)
    yield opened
    opened.close()


def compare_cells(library: Library, notebook: Notebook) -> list[CompareCell]:
    cells = [library.cell(notebook, id) for id in notebook.cells]
    return [cell for cell in cells if isinstance(cell, CompareCell)]


def measured_run(library: Library, written: Written) -> Run:
    notebook = library.own(written.notebook)
    run = library.newest_run(notebook, compare_cells(library, notebook)[-1].id)
    assert run is not None
    return run


def test_notebook_when_old_then_its_cells_runs_and_pictures_are_there(library: Library, written: Written) -> None:
    assert [entry.title for entry in library.browser("browser-of-old")[1]] == ["An old notebook"]
    notebook, can_edit = library.read(written.share)
    assert (notebook.id, can_edit, library.problem) == (written.notebook, False, None)
    note = library.cell(notebook, notebook.cells[0])
    assert isinstance(note, NoteCell)
    assert note.text == "# An old notebook\nWith **text**."
    plain, gallery, measure = compare_cells(library, notebook)
    assert plain.prompts == ("What do you see?", "What colour is it?")
    assert (plain.settings.max_tokens, plain.settings.probabilities, gallery.gallery) == (48, True, True)
    assert [[(info.number, info.state) for info in library.runs(notebook, cell.id)] for cell in (plain, gallery)] == [
        [(1, RunState.DONE), (2, RunState.DONE), (3, RunState.STOPPED), (4, RunState.INTERRUPTED)],
        [(1, RunState.DONE)],
    ]
    panes = [
        [(pane.state, pane.text[:26]) for pane in run.results[0].update.panes]
        for run in library.all_runs(notebook, plain.id)
    ]
    three, four = (PaneState.DONE, "The image shows three obje"), (PaneState.DONE, "The image shows four objec")
    half = (PaneState.STOPPED, " describe describe describ")
    assert panes == [[three, three, four], [three, (PaneState.FAILED, "")], [half], [half]]
    assert [library.pictures.image(p).sha256 for p in gallery.pictures] == [p.sha256 for p in gallery.pictures]
    assert measure.questions is not None
    assert len(library.questions.read(measure.questions.source).items) == 4
    assert library.undo(written.notebook)
    assert library.cell(library.own(written.notebook), library.own(written.notebook).cells[-1]) == NoteCell(
        library.own(written.notebook).cells[-1], "deleted", version=1
    )


@pytest.mark.parametrize("kind", ["html", "json", "md", "ipynb"])
def test_runs_when_old_then_they_are_shown_and_exported(library: Library, written: Written, kind: str) -> None:
    notebook = library.own(written.notebook)
    whole = [(cell, library.all_runs(notebook, cell.id)) for cell in compare_cells(library, notebook)]
    text = reports.write(kind, "Old", whole, library.files(notebook), lambda questions: lambda name: None)["text"]
    older = () if kind == "ipynb" else ("llama.cpp could not load gone.gguf",)  # it has the newest runs alone
    for words in ("three objects", "Q4_K_M", "describe describe", *older):
        assert words in text
    for cell, runs in whole:
        for run in runs:
            html = cell_view.run(
                run, library.runs(notebook, cell.id), cell, library.pictures.thumbnail, lambda name: None, can_edit=True
            )
            assert f'data-block="{run.number}.0"' in html or run.measurement
            assert ("vp-sensitivity" in html) == (run.sensitivity is not None)


def test_export_when_old_then_it_is_imported_without_problems_and_written_again_alike(
    old: Path, tmp_path: Path
) -> None:
    text = (old / "notebook.json").read_text()
    title, cells, problems = from_json(text)
    assert (title, len(cells), problems) == ("An old notebook", 4, ())
    assert sum(len(whole.runs) for whole in cells) == 6
    library = Library(tmp_path / "other")
    notebook = library.create("me", title, cells)
    copies = [(library.cell(notebook, id), library.all_runs(notebook, id)) for id in notebook.cells]
    for (cell, runs), whole in zip(copies, cells, strict=True):
        assert msgspec.structs.replace(cell, id=whole.cell.id) == whole.cell
        # The run that was under way when the app was killed is interrupted now.
        assert [run for run in runs if run.state is not RunState.INTERRUPTED] == [
            run for run in whole.runs if run.state is not RunState.RUNNING
        ]
    library.close()
    files = [(whole.cell, whole.runs) for whole in cells]
    images = {sha256: png for whole in cells for sha256, png in whole.images.items()}
    again = from_json(to_json(title, files, lambda sha256: msgspec.json.decode(f'"{images[sha256]}"', type=bytes)))
    assert again == (title, cells, ())


def test_measurement_when_old_then_its_answers_and_drifts_come_from_the_cache(
    library: Library,
    written: Written,
    results: ResultCache,
    pool: Pool,
    old: Path,
) -> None:
    run = measured_run(library, written)
    assert run.measurement is not None
    cell_questions = run.cell.questions
    assert cell_questions is not None
    plan = msgspec.structs.replace(cell_questions.plan, speed=False)  # times are never kept
    questions = library.questions.read(cell_questions.source)
    lab = Lab(pool, EmbeddingCache(old / "none", 2**20, written.engine), results)
    job = MeasureJob(lab, MeasureRequest(questions, run.variants, run.reference, plan, RUNTIME))
    for variant, result in zip(run.variants, run.measurement.results, strict=True):
        for question, item, answer in zip(questions.items, result.items, run.measurement.answers, strict=True):
            asked_of = Item(question, questions.image(question))
            if variant.id == run.reference:
                assert job.steps.answer(variant, asked_of).text == answer
                continue
            drift = results.get(job.steps.drift_key(variant, asked_of), QuestionDrift)
            assert drift is not None
            assert (drift.kl, drift.first_divergence) == (item.kl, item.first_divergence)
            assert job.steps.answer(variant, asked_of).text == item.text


def of_embedded_files(variant: Variant) -> Variant:
    """The reference of the old run with the paths of the embedded pair: the files are still the same."""
    folder = data_folder() / "tiny-vlm"
    model, projector = (replace(f, path=str(folder / f.path)) for f in (variant.model, variant.projector))
    return replace(variant, model=model, projector=projector)


def test_scan_when_old_then_it_is_shown_and_no_group_is_called_the_dearest(library: Library, written: Written) -> None:
    """It has no numbers of single questions, without which groups cannot be told apart."""
    scanned = measured_run(library, written).sensitivity
    assert scanned is not None
    assert scanned.built is not None
    assert len(scanned.sensed) == 15
    priced = [group for group in scanned.sensed if scan_results.price(group)]
    assert scan_results.dearest(scanned.sensed) == scan_results.ranked(priced)
    assert "cannot tell which of" in sensitivity_view.html(scanned)
    assert "nats a token on the questions kept aside" in scan_results.sentence(scanned.built)


def test_embeddings_when_old_then_they_fill_a_prompt(
    library: Library, written: Written, old: Path, catalog: Catalog
) -> None:
    cache = EmbeddingCache(old / "cache/embeddings", 2**30, written.engine)
    f16 = next(v for v in catalog.variants if v.reference)
    gallery = compare_cells(library, library.own(written.notebook))[1]
    keys = [cache.key(f16.projector, library.pictures.image(picture)) for picture in gallery.pictures]
    (key,) = filter(cache.has, keys)
    chunk = ImageChunk(image=0, key="", n_tokens=144, n_pos=144, non_causal=False, positions=b"", embeddings=b"")
    prompt = EncodedPrompt(chunks=(chunk,), n_embd=256, rendered="", preprocess_s=0.0, encode_s=None)
    filled = cache.fill(prompt, {0: key})
    assert filled is not None
    assert len(filled.chunks[0].embeddings) == 144 * 256 * 4  # type: ignore[union-attr]
    cache.close()


def test_forecasts_when_old_then_the_same_files_are_known(old: Path, written: Written, catalog: Catalog) -> None:
    f16 = next(v for v in catalog.variants if v.reference)
    spec = language_spec(f16.model, Runtime(n_ctx=1024))  # of the first cell
    version = written.engine.split()[1]
    forecasts = Forecasts(old / "cache/forecasts", {HOST: written.machine}, version)
    assert forecasts.of(spec, [HOST]).source == "measured before"
    assert (forecasts.bandwidth(HOST) or 0) > 1e9
    forecasts.close()
    other = Forecasts(old / "cache/forecasts", {HOST: "another machine"}, version)
    assert other.of(spec, [HOST]).source == "header"
    other.close()


def test_pairs_when_old_then_they_open_as_soon_as_their_files_are_there(old: Path) -> None:
    files = pairs.write_llava(old / "models")
    listed = old / "cache/pairs.json"
    listed.write_text(
        listed.read_text()
        .replace("/models/model.gguf", str(files.model))
        .replace("/models/mmproj.gguf", str(files.projector))
    )
    catalog = Catalog(old / "cache", None)
    assert [v.label for v in catalog.variants if v.family == "expected"] == ["F16"]
    assert catalog.problems == ()
    catalog.close()


def test_downloads_when_old_then_they_can_be_gone_on_with(old: Path) -> None:
    downloads = Downloads(Hub(own_token=False), old / "cache/downloads.json")
    (download,) = downloads.all()
    assert download.wanted.key == f"owner/name@{'0' * 40}:model-Q4_K_M.gguf"
    assert (download.state, download.wanted.file.bytes, download.done) == (DownloadState.CUT_OFF, 123456, 0)
    downloads.close()
