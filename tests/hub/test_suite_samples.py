"""Samples of dataset repositories, from a Hub of the tests' own with parquet files in the real schemas."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from huggingface_hub.utils import close_session

from playground.errors import BadInput, Interrupted, NoRoom, NotAllowed, Offline
from playground.measuring import pace, suite_samples, suite_source
from playground.measuring.question_sets import QuestionSet, read_questions
from playground.measuring.suite_samples import SampleJob, newest_sample
from playground.measuring.suites import Suite, guessed, read_suites
from playground.models.hub.client import Hub
from playground.notebooks.cells import CellQuestions
from playground.support import atomic
from playground.values import durations
from playground.web.live_runs import LiveRuns
from playground.web.notebook_actions import NotebookActions
from playground.web.notebook_view import NotebookView
from playground.wiring import Parts
from testkit import datasets
from testkit.hub_server import TOKEN, HubRepo, HubServer, hub_server

CHARTQA = read_suites()["chartqa"]
DOCVQA = read_suites()["docvqa"]
FILES = {
    "data/test-00000-of-00002.parquet": datasets.chartqa(60),
    "data/test-00001-of-00002.parquet": datasets.chartqa(40, start=60),
}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with hub_server([HubRepo(CHARTQA.repo, dict(FILES), licence="gpl-3.0", dataset=True)]) as server:
        server.patch(monkeypatch, tmp_path / "hf")
        yield server
        close_session()


def job(folder: Path, n: int, suite: Suite = CHARTQA, seed: int = 0, stop: Callable[[], bool] = bool) -> SampleJob:
    table = Hub(own_token=False).dataset(suite.repo, suite.configuration, suite.split)
    return SampleJob(suite, table, n, seed, folder / "suites", stop)


def drawn(job: SampleJob) -> QuestionSet:
    *_, questions = job.run()
    assert isinstance(questions, QuestionSet)
    return questions


def served_bytes(server: HubServer) -> int:
    return sum(seen.sent for seen in server.seen("GET", ".parquet", cdn=True))


def test_sample_when_drawn_then_each_question_has_its_own_picture_and_answer(served: HubServer, tmp_path: Path) -> None:
    questions = drawn(job(tmp_path, 20))
    assert questions.sample is not None
    assert len(questions.items) == len(set(questions.sample.rows)) == 20
    for item, row in zip(questions.items, questions.sample.rows, strict=True):
        assert item.question == f"What is value {row}?\nAnswer the question with a single word."
        assert item.answers == (str(row),)
        assert item.category == ("augmented_test" if row % 4 == 3 else "human_test")
        assert questions.image(item).rgb[:3] == bytes((row, 0, 90))
    assert sum(item.category == "augmented_test" for item in questions.items) == 5
    assert (questions.sample.licence, questions.sample.of) == ("gpl-3.0", 100)
    assert questions.sample.commit == served.repos[f"datasets/{CHARTQA.repo}"].commit
    assert questions.problems == ()


def test_sample_when_drawn_again_then_nothing_is_fetched_and_a_larger_one_begins_with_it(
    served: HubServer, tmp_path: Path
) -> None:
    small = drawn(job(tmp_path, 20))
    served.forget()
    again = job(tmp_path, 20)
    assert again.cost(again.order) == (0, 0)
    assert drawn(again).items == small.items
    assert drawn(job(tmp_path, 50)).items[:20] == small.items
    assert drawn(job(tmp_path, 20, seed=1)).items != small.items


def test_sample_when_the_hub_is_gone_then_the_last_one_is_there(served: HubServer, tmp_path: Path) -> None:
    questions = drawn(job(tmp_path, 20))
    served.behave(status=503)
    with pytest.raises(Offline):
        job(tmp_path, 20)
    offline = newest_sample(tmp_path / "suites", CHARTQA, 0, 20)
    assert offline is not None
    assert (offline.items, offline.sample) == (questions.items, questions.sample)
    assert newest_sample(tmp_path / "suites", CHARTQA, 0, 90) is None
    assert newest_sample(tmp_path / "suites", CHARTQA, 1, 20) is None


def test_sample_when_few_rows_are_wanted_then_only_their_row_groups_are_fetched(
    served: HubServer, tmp_path: Path
) -> None:
    begun = job(tmp_path, 2)
    order = begun.order
    groups, cost = begun.cost(order)
    served.forget()
    drawn(begun)
    # 10 row groups of 10; the category column was read for the order, and is read again from the wanted groups only.
    assert 1 <= groups <= 2
    assert served_bytes(served) <= 1.5 * cost + 10 * 200


def test_sample_when_stopped_then_it_goes_on_where_it_was(served: HubServer, tmp_path: Path) -> None:
    calls = iter(range(1000))
    stopping = job(tmp_path, 90, stop=lambda: next(calls) >= 3)
    with pytest.raises(Interrupted):
        drawn(stopping)
    rest = job(tmp_path, 90)
    before = job(tmp_path / "other", 90)
    assert rest.cost(rest.order)[0] == before.cost(before.order)[0] - 3
    assert drawn(rest).items == drawn(before).items


def test_sample_when_a_connection_breaks_then_the_rest_is_fetched(served: HubServer, tmp_path: Path) -> None:
    begun = job(tmp_path, 90)
    served.behave("/cdn/", cut_after=500, times=3)
    assert len(drawn(begun).items) == 90


def test_sample_when_a_row_group_is_damaged_then_other_rows_take_its_place(served: HubServer, tmp_path: Path) -> None:
    name = "data/test-00000-of-00002.parquet"
    data = bytearray(FILES[name])
    at = data.find(b"\x89PNG")  # in the first row group
    data[at - 60 : at - 20] = bytes(40)  # the header of its page, and lengths
    served.repos[f"datasets/{CHARTQA.repo}"] = HubRepo(CHARTQA.repo, {**FILES, name: bytes(data)}, dataset=True)
    questions = drawn(job(tmp_path, 60))
    assert questions.sample is not None
    assert len(questions.items) == 60
    assert not set(questions.sample.rows) & set(range(10))
    assert questions.sample.left_out > 0
    assert "Row group 0 of data/test-00000-of-00002.parquet is damaged" in questions.problems[0]


def test_sample_when_an_image_is_missing_or_broken_then_the_next_row_is_asked(
    served: HubServer, tmp_path: Path
) -> None:
    rows = [
        {"type": "a", "question": f"What is {k}?", "answer": str(k), "image": datasets.image(k) if k % 2 else None}
        for k in range(20)
    ]
    rows[1]["image"] = {"bytes": b"\x89PNG and nothing more", "path": None}
    data = datasets.parquet_file(datasets.CHARTQA, rows)
    served.repos[f"datasets/{CHARTQA.repo}"] = HubRepo(CHARTQA.repo, {"data/test-0.parquet": data}, dataset=True)
    questions = drawn(job(tmp_path, 9))
    assert sorted(questions.sample.rows) == [3, 5, 7, 9, 11, 13, 15, 17, 19]
    assert any("it has no image" in problem for problem in questions.problems)
    assert any("not an image" in problem or "damaged" in problem for problem in questions.problems)
    more = drawn(job(tmp_path, 12))
    assert len(more.items) == 9
    assert "The set has only 9 questions that can be used." in more.problems


def test_sample_when_the_commit_changes_then_both_samples_stay(served: HubServer, tmp_path: Path) -> None:
    first = drawn(job(tmp_path, 5))
    repo = HubRepo(CHARTQA.repo, {"data/test-0.parquet": datasets.chartqa(100, start=1000)}, dataset=True, changed=1)
    served.repos[f"datasets/{CHARTQA.repo}"] = repo
    second = drawn(job(tmp_path, 5))
    assert second.sample.rows == first.sample.rows
    assert (second.sample.commit, second.items[0].answers) != (first.sample.commit, first.items[0].answers)
    assert first.image(first.items[0]) != second.image(second.items[0])


def test_sample_when_the_commit_is_gone_while_it_is_drawn_then_no_row_is_blamed(
    served: HubServer, tmp_path: Path
) -> None:
    begun = job(tmp_path, 30)
    order = begun.order
    served.repos[f"datasets/{CHARTQA.repo}"] = HubRepo(CHARTQA.repo, dict(FILES), dataset=True, changed=1)
    served.behave("/cdn/", status=403, body=b"expired")
    with pytest.raises(BadInput, match=r"no such revision"):
        drawn(begun)
    assert begun.cost(order)[0] == 10


def test_sample_when_the_disk_is_full_then_it_says_so_and_goes_on_later(
    served: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = atomic.write

    def full(path: Path, data: bytes) -> None:
        if path.name == "rows.log" and path.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(path, data)

    monkeypatch.setattr(atomic, "write", full)
    with pytest.raises(NoRoom, match=r"the disk is full"):
        drawn(job(tmp_path, 40))
    monkeypatch.undo()
    served.patch(monkeypatch, tmp_path / "hf")
    assert len(drawn(job(tmp_path, 40)).items) == 40


def test_sample_when_the_split_has_no_answers_then_it_is_a_problem(served: HubServer, tmp_path: Path) -> None:
    schema = pa.schema(
        [
            ("questionId", pa.string()),
            ("question", pa.string()),
            ("question_types", pa.list_(pa.string())),
            ("image", datasets.IMAGE),
            ("docId", pa.int64()),
            ("answers", pa.list_(pa.string())),
        ]
    )
    rows = [
        {"question": f"What is {k}?", "question_types": ["form"], "image": datasets.image(k), "answers": None}
        for k in range(10)
    ]
    data = datasets.parquet_file(schema, rows)
    configs = [{"config_name": "DocVQA", "data_files": [{"split": "test", "path": "DocVQA/test-*"}]}]
    repo = HubRepo(DOCVQA.repo, {"DocVQA/test-0.parquet": data}, dataset=True, configs=configs)
    served.repos[f"datasets/{DOCVQA.repo}"] = repo
    questions = drawn(job(tmp_path, 10, msgspec.structs.replace(DOCVQA, split="test")))
    assert questions.problems == ("DocVQA has no accepted answers in this split: accuracy cannot be measured.",)
    with pytest.raises(BadInput, match=r"no split 'validation'. It has: test"):
        job(tmp_path, 10, DOCVQA)


def test_sample_when_a_column_is_gone_then_those_that_are_there_are_named(served: HubServer, tmp_path: Path) -> None:
    columns = msgspec.structs.replace(CHARTQA.columns, answers="label")
    with pytest.raises(BadInput, match=r"no column label. Its columns: type, question, answer, image"):
        job(tmp_path, 5, msgspec.structs.replace(CHARTQA, columns=columns))


def test_dataset_when_gated_then_the_licence_has_to_be_accepted(served: HubServer) -> None:
    repo = HubRepo("acme/gated", {"data/test-0.parquet": datasets.chartqa(10)}, dataset=True, gated=True)
    served.repos["datasets/acme/gated"] = repo
    hub = Hub(own_token=False)
    with pytest.raises(NotAllowed, match=r"accept its licence at .*/datasets/acme/gated "):
        hub.dataset("acme/gated")
    assert hub.dataset("acme/gated", token=TOKEN).n_rows == 10


def test_dataset_when_it_is_not_there_then_its_name_is_said(served: HubServer) -> None:
    with pytest.raises(BadInput, match=r"datasets/acme/nothing is not on the Hub"):
        Hub(own_token=False).dataset("acme/nothing")


def test_dataset_when_a_file_is_not_parquet_then_its_name_is_said(served: HubServer) -> None:
    served.repos["datasets/acme/odd"] = HubRepo("acme/odd", {"data/test-0.parquet": b"PAR1" * 30}, dataset=True)
    with pytest.raises(Exception, match=r"test-0\.parquet is not a valid parquet file"):
        Hub(own_token=False).dataset("acme/odd")


def test_dataset_when_it_has_no_suite_then_its_columns_are_guessed(served: HubServer, tmp_path: Path) -> None:
    table = Hub(own_token=False).dataset(CHARTQA.repo)
    suite = guessed(CHARTQA.repo, "", table.split, table.kinds)
    assert (suite.columns.image, suite.columns.question) == ("image", "question")
    assert (suite.columns.answers, suite.columns.category) == ("answer", "type")
    assert len(drawn(SampleJob(suite, table, 10, 0, tmp_path)).items) == 10


def test_zip_when_written_from_a_sample_then_it_is_the_same_questions_and_says_where_they_are_from(
    served: HubServer, tmp_path: Path
) -> None:
    questions = drawn(job(tmp_path, 12))
    suite_samples.write_zip(questions, tmp_path / "a.zip")
    suite_samples.write_zip(questions, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    read = read_questions(tmp_path / "a.zip")
    assert (read.items, read.sample, read.name) == (questions.items, questions.sample, "ChartQA")
    assert [read.image(item) for item in read.items] == [questions.image(item) for item in questions.items]
    assert len(read.first(5).sample.rows) == 5


def measuring_cell(parts: Parts) -> tuple[NotebookActions, str, str]:
    """What the page calls, a notebook, and its cell that asks 30 questions."""
    deriving = Thread(target=lambda: None)
    deriving.start()
    actions = NotebookActions(parts, NotebookView(parts), LiveRuns(lambda job: iter(()), unwatched_s=0), deriving)
    key = str(actions.open().key)
    actions.add(key, "measure")
    cell = parts.library.own(key).cells[-1]
    actions.write(key, cell, questions=CellQuestions(n=30))
    return actions, key, cell


def test_page_when_a_suite_is_drawn_then_the_cell_asks_it_with_the_suites_limit(
    served: HubServer, parts: Parts
) -> None:
    actions, key, cell = measuring_cell(parts)
    reply = actions.questions.suite_questions(key, cell, "chartqa")
    questions = parts.library.cell(parts.library.own(key), cell).questions
    assert (questions.n, questions.plan.max_tokens, questions.plan.accuracy) == (30, CHARTQA.max_tokens, True)
    assert questions.name.startswith("ChartQA, 30 of 100 rows, seed 0, commit ")
    assert questions.name in reply.cells[0].html
    assert len(parts.library.questions.read(questions.source).items) == 30
    with pytest.raises(BadInput, match=r"There is no suite 'nothing'. There are: ai2d"):
        actions.questions.suite_questions(key, cell, "nothing")
    guessed_reply = actions.questions.suite_questions(key, cell, f"{CHARTQA.repo}:test")
    assert "The columns were guessed. The first question: What is value" in str(guessed_reply.notice)


def test_page_when_a_suite_is_named_then_it_says_what_would_be_fetched_and_a_stop_keeps_what_was(
    served: HubServer, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions, key, cell = measuring_cell(parts)
    html = actions.questions.suite_outlook(key, cell, "chartqa", seed=7).html
    for text in (
        "100 rows",
        "30 rows at random, seed 7, each type with its share",
        "MB in ",
        "row groups",
        "30 questions are too few",
    ):
        assert text in html
    assert "known after the first measurement" in html
    variants = parts.library.cell(parts.library.own(key), cell).variants
    for variant in parts.catalog.variants:
        if variant.id in variants:
            pace.keep(parts.result_cache, variant, 100.0, 20, 64)
    seen: list[str] = []

    def stopping(*args: Any) -> Any:
        for news in draw(*args):
            yield news
            seen.append(actions.questions.suite_progress(key, cell).html)
            actions.questions.stop_suite(key, cell)

    draw = suite_source.draw
    monkeypatch.setattr(suite_source, "draw", stopping)
    assert "Stopped" in str(actions.questions.suite_questions(key, cell, "chartqa", seed=7).notice)
    (fetching,) = seen
    assert "0 of " in fetching
    assert actions.questions.suite_progress(key, cell).html == ""
    later = actions.questions.suite_outlook(key, cell, "chartqa", seed=7).html
    assert f"{durations.about(30 * 5 * len(variants))}, as in the newest" in later
    assert served.seen(where="ChartQA")


def test_page_when_downloads_are_not_allowed_then_no_sample_is_drawn(served: HubServer, parts: Parts) -> None:
    deriving = Thread(target=lambda: None)
    deriving.start()
    settings = parts.settings.model_copy(update={"downloads": False})
    closed = dataclasses.replace(parts, settings=settings)
    actions = NotebookActions(closed, NotebookView(closed), LiveRuns(lambda job: iter(()), unwatched_s=0), deriving)
    key = str(actions.open().key)
    with pytest.raises(NotAllowed, match="does not allow downloads"):
        actions.questions.suite_questions(key, "any", "chartqa")
    assert served.seen(where="ChartQA") == []
