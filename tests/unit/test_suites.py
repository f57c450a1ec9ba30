"""Suites: what a row of each set becomes, and in which order rows are drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from playground.errors import BadInput
from playground.measuring import suite_source
from playground.measuring.question_sets import Question, Rule, SampleRecord
from playground.measuring.scoring_rules import score
from playground.measuring.suite_samples import row_order
from playground.measuring.suites import guessed, read_suites, row_image, row_question
from playground.models.hub.datasets import DatasetListing, read_configurations
from playground.models.hub.listing import RemoteFile

SUITES = read_suites()
PICTURE = {"bytes": b"png", "path": None}


def question(suite: str, draw: int = 0, **row: Any) -> Question:
    return row_question(SUITES[suite], row, "a.png", (200, 100), draw)


def test_suites_when_read_then_the_sets_of_the_field_are_there() -> None:
    names = (
        "ai2d chartqa countbenchqa docvqa infovqa mmbench mmmu mmstar mtvqa ocrbench pope realworldqa refcoco textvqa"
    )
    assert sorted(SUITES) == names.split()
    assert all(suite.evidence and suite.about and suite.size for suite in SUITES.values())


@pytest.mark.parametrize(
    ("suite", "row", "prompt", "answers"),
    [
        (
            "chartqa",
            {"question": "How many?", "answer": "14"},
            "How many?\nAnswer the question with a single word.",
            ("14",),
        ),
        (
            "docvqa",
            {"question": "What date?", "answers": ["1/8/93", "8 Jan"], "question_types": ["handwritten", "form"]},
            "What date?\nAnswer the question using a single word or phrase.",
            ("1/8/93", "8 Jan"),
        ),
        (
            "textvqa",
            {"question": "what is the Brand?", "answers": ["dakota"] * 10},
            "What is the brand?\nAnswer the question using a single word or phrase.",
            ("dakota",) * 10,
        ),
        (
            "ai2d",
            {"question": "Which part?", "options": ["leaf", "root"], "answer": "1"},
            "Which part?\nA. leaf\nB. root\nAnswer with the option's letter from the given choices directly.",
            ("B",),
        ),
        (
            "mmbench",
            {"question": "Who?", "hint": "Look.", "A": "he", "B": "she", "C": "nan", "D": None, "E": "", "answer": "B"},
            "Look. Who? There are several options:\nA. he\nB. she\n\n"
            "Answer with the option's letter from the given choices directly.",
            ("B",),
        ),
        (
            "mmstar",
            {"question": " Which? Please answer yes or no.\nOptions: A: a, B: b ", "answer": "A"},
            "Which?\nOptions: A: a, B: b\nAnswer with the option's letter from the given choices directly",
            ("A",),
        ),
        (
            "mmmu",
            {"question": "<image 1> Which?", "options": "['$5', \"it's\"]", "answer": "A"},
            "<image 1> Which?\nA. $5\nB. it's\n\nAnswer with the option's letter from the given choices directly.",
            ("A",),
        ),
        (
            "mmmu",
            {"question": "How much?", "options": "[]", "answer": "['8.5', '8.50']"},
            "How much?\n\nAnswer the question using a single word or phrase.",
            ("8.5", "8.50"),
        ),
        (
            "pope",
            {"question": "Is there a dog? ", "answer": "no", "category": "popular"},
            "Is there a dog?\nAnswer the question using a single word or phrase.",
            ("no",),
        ),
        (
            "countbenchqa",
            {"question": "How many cups?", "number": 4, "text": "four cups"},
            "How many cups?\nAnswer with a single number.",
            ("4",),
        ),
        (
            "mtvqa",
            {"qa_pairs": "[{'question': 'Was?', 'answer': 'Brot'}]", "lang": "de"},
            "Was?\nAnswer the question using a word or phrase in the language of the question.",
            ("Brot",),
        ),
    ],
)
def test_row_when_it_becomes_a_question_then_it_is_put_as_lmms_eval_puts_it(
    suite: str, row: dict[str, Any], prompt: str, answers: tuple[str, ...]
) -> None:
    item = question(suite, **row)
    assert (item.question, item.answers) == (prompt, answers)
    assert score(item, answers[0]) == 1.0


def test_mmmu_when_a_question_is_open_then_it_has_a_rule_of_its_own() -> None:
    item = question("mmmu", question="How much?", options="[]", answer="8.5")
    assert (item.rule, item.options) == (Rule.CONTAINS, ())
    assert question("mmmu", question="Which?", options="['a', 'b']", answer="A").rule is Rule.CHOICE


def test_refcoco_when_a_box_is_in_pixels_then_an_answer_in_shares_is_right() -> None:
    item = question("refcoco", answer=["the left man", "man in red"], bbox=[20.0, 10.0, 100.0, 50.0], draw=1)
    assert item.question.endswith("this sentence describes: man in red")
    assert score(item, "[0.1, 0.1, 0.6, 0.6]") == 1.0
    assert score(item, "[0.6, 0.1, 0.9, 0.6]") == 0.0


@pytest.mark.parametrize("hidden", [None, "", [], [None]])
def test_answers_when_the_set_keeps_them_secret_then_the_question_has_none(hidden: object) -> None:
    assert question("docvqa", question="What?", answers=hidden).answers == ()


@pytest.mark.parametrize(
    ("suite", "row", "problem"),
    [
        ("chartqa", {"image": None}, "no image"),
        ("chartqa", {"image": {"bytes": None, "path": "a.png"}}, "no image"),
        ("chartqa", {"image": "not base64!"}, "no image"),
        ("mmmu", {"image_1": PICTURE, "image_2": PICTURE}, "more than one image"),
    ],
)
def test_row_when_its_image_cannot_be_used_then_it_says_why(suite: str, row: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        row_image(SUITES[suite], row)


@pytest.mark.parametrize("row", [{"question": None}, {"question": " "}, {}])
def test_row_when_it_has_no_question_then_it_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="no question"):
        question("chartqa", **row)


def test_ai2d_when_the_answer_is_no_place_then_it_is_refused() -> None:
    with pytest.raises(BadInput, match="'7' is not the place"):
        question("ai2d", question="Which?", options=["a", "b"], answer="7")


def test_order_when_drawn_then_it_follows_from_the_seed() -> None:
    assert row_order(8, 0) == [6, 4, 2, 1, 7, 5, 0, 3]  # for ever: samples of earlier versions are repeatable
    assert row_order(1000, 1) == row_order(1000, 1) != row_order(1000, 2)
    assert sorted(row_order(1000, 1)) == list(range(1000))


def test_order_when_there_are_strata_then_every_beginning_has_its_share() -> None:
    strata = ["rare" if row % 10 == 0 else "common" for row in range(1000)]
    order = row_order(1000, 3, strata)
    for n in (50, 200, 700):
        assert abs(Counter(strata[row] for row in order[:n])["rare"] - n / 10) <= 1
    assert row_order(1000, 3, ["a"] * 1000) == row_order(1000, 3)


def test_suites_when_two_have_one_name_then_both_files_are_named(tmp_path: Path) -> None:
    text = 'name = "{}"\nrepo = "a/b"\nsplit = "test"\nrule = "exact"\n[columns]\nimage = "image"\nquestion = "q"\n'
    (tmp_path / "one.toml").write_text(text.format("Charts"))
    (tmp_path / "two.toml").write_text(text.format("charts"))
    with pytest.raises(BadInput, match=r"one\.toml and two\.toml are two suites with one name"):
        read_suites(tmp_path)


def test_suite_when_a_key_is_unknown_then_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "a"\ncolour = "red"\n')
    with pytest.raises(BadInput, match=r"a\.toml.*colour"):
        read_suites(tmp_path)


def test_columns_when_guessed_then_the_usual_names_are_known() -> None:
    kinds = {"id": "number", "Image": "image", "query": "text", "choices": "list", "label": "number", "topic": "text"}
    suite = guessed("acme/set", "", "test", kinds)
    assert suite.columns.names == ("Image", "query", "label", "topic", "choices")
    assert (suite.rule, suite.answer_index) == (Rule.CHOICE, True)


def test_columns_when_none_has_images_then_all_are_named() -> None:
    with pytest.raises(BadInput, match=r"a column with images was not found. Its columns: text, question"):
        guessed("acme/set", "", "test", {"text": "text", "question": "text"})


def listing(*names: str, configs: object = None) -> DatasetListing:
    files = tuple(RemoteFile(name, 1) for name in names)
    return DatasetListing("acme/set", "0" * 40, files, configurations=read_configurations(configs))


def test_splits_when_the_card_names_them_then_its_patterns_decide() -> None:
    configs = [
        {"config_name": "en", "data_files": [{"split": "dev", "path": "en/dev-*"}]},
        {"config_name": "cn", "data_files": [{"split": "dev", "path": ["cn/dev-*"]}, {"split": "gone", "path": "x/*"}]},
        "garbage",
    ]
    datasets = listing("cn/dev-0.parquet", "en/dev-0.parquet", "README.md", configs=configs)
    assert datasets.splits("cn") == {"dev": ("cn/dev-0.parquet",)}
    assert datasets.split("", "")[0] == "dev"
    with pytest.raises(BadInput, match=r"no configuration 'fr'. It has: en, cn"):
        datasets.splits("fr")


@pytest.mark.parametrize(
    ("names", "configuration", "splits"),
    [
        (["data/test-00000-of-00002.parquet", "data/test-00001-of-00002.parquet"], "", ["test"]),
        (["default/test/0000.parquet", "default/train/0000.parquet"], "", ["test", "train"]),
        (["DocVQA/validation-0.parquet", "InfographicVQA/test-0.parquet"], "DocVQA", ["validation"]),
        (["0000.parquet"], "", ["train"]),
    ],
)
def test_splits_when_the_card_says_nothing_then_file_names_do(
    names: list[str], configuration: str, splits: list[str]
) -> None:
    assert list(listing(*names).splits(configuration)) == splits


def test_sample_when_a_stranger_wrote_where_it_is_from_then_it_names_no_file_of_this_machine() -> None:
    def record(repo: str, split: str) -> SampleRecord:
        return SampleRecord("S", repo, "c" * 40, split, 0, (1, 2), 9)

    assert suite_source.name_of(record("me/questions", "test")) == "me/questions:test"
    for repo, split in (("me/questions", "x.toml"), ("/etc/a", "/../../b.toml"), ("", ".toml")):
        with pytest.raises(BadInput, match="is not a dataset"):
            suite_source.name_of(record(repo, split))
