"""Files of studies: what they may say, and in which words and at which line the rest is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from playground.errors import BadInput
from playground.measuring.measure_request import steps_of
from playground.measuring.results import MeasurementPlan
from playground.measuring.time_left import Kind, expected_seconds
from playground.study import study_file
from playground.study.study_file import find_study, line_of, parse, read_study, studies_folder
from playground.study.study_plan import seconds_of

SHIPPED = sorted(studies_folder().glob("*.toml"))
STUDY = """\
name = "A study"
models = ["source", "Q8_0"]
projectors = ["source", "Q4_0", "Q2_K"]
suites = ["embedded:easy", "chartqa"]
questions = 30

[[families]]
preset = "tiny-vlm"

[[families]]
repo = "owner/name"
projectors = ["source"]
"""


def test_shipped_studies_when_read_then_all_are_there_and_say_why() -> None:
    assert [path.stem for path in SHIPPED] == ["embedded", "image-tokens", "kv-cache", "vision-encoder-4bit"]
    for path in SHIPPED:
        study = read_study(path)
        assert study.about
        assert find_study(path.stem) == path


def test_shipped_studies_when_they_quantize_here_then_each_family_has_16_bits_to_begin_with() -> None:
    families = [family for path in SHIPPED for family in read_study(path).families]
    assert len(families) == 10
    for family in families:
        preset = study_file.preset_of(family)
        assert not preset.repo or {"F16", "BF16"} & {*preset.ticked, *preset.sizes}


def test_study_of_encoders_when_read_then_four_families_are_asked_about_documents_charts_and_texts() -> None:
    study = read_study(find_study("vision-encoder-4bit"))
    assert len(study.families) == 4
    assert study.suites == ("docvqa", "chartqa", "textvqa", "ocrbench")
    assert {"source", "Q4_K_M"} <= set(study.models) & set(study.projectors)


def test_study_when_parsed_then_each_family_has_its_pairs_the_reference_first() -> None:
    study = parse(STUDY)
    first, second = study.families
    assert study.pair_places(first) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert study.pair_places(second) == [(0, 0), (1, 0)]
    assert (first.title, second.title) == ("Tiny VLM 7M", "owner/name")
    halves = parse('pairs = "halves"\n' + STUDY)
    assert halves.pair_places(first) == [(0, 0), (0, 1), (0, 2), (1, 0)]
    swept = parse('kv_types = ["f16", "q8_0"]\nimage_tokens = [256, 64]\n' + STUDY)
    assert swept.n_variants(first) == 24


def test_study_when_it_names_a_difference_then_so_many_questions_are_asked() -> None:
    study = parse(STUDY.replace("questions = 30", "difference = 3"))
    assert 400 < study.n_questions < 2000


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("questions = 30", "question = 30", "line 5: unknown key 'question'. Did you mean 'questions'?"),
        ("questions = 30", "questions = 0", "line 5: invalid value of 'questions': expected `int` >= 1."),
        ("questions = 30", 'questions = "30"', "line 5: invalid value of 'questions': expected `int"),
        ("questions = 30", "difference = 1", "line 5: 1 points take "),
        ("questions = 30", "difference = 1.6", "ChartQA has 2,500, which show "),
        ("questions = 30", "questions = 30\ndifference = 3", "line 6: give 'questions' or 'difference', not both."),
        ("questions = 30", 'kv_types = ["q9_0"]', "line 5: invalid value of 'kv_types': invalid enum value 'q9_0'."),
        ("questions = 30", "image_tokens = [99999]", "line 5: image_tokens has to be between 1 and 16384, not 99999."),
        ("questions = 30", "questions = 3\nquestions = 4", "line 6: Cannot overwrite a value."),
        ("questions = 30", "questions =", "line 5: Invalid value."),
        ('"Q8_0"]', '"Q_8"]', "line 2: 'Q_8' is not a quantization: write one as llama.cpp does, such as Q4_K_M"),
        ('"Q8_0"]', '"Q8_0", "Q8_0"]', "line 2: 'Q8_0' stands twice."),
        ('"chartqa"]', '"chartq"]', "line 4: There is no suite 'chartq'. There are: ai2d, chartqa"),
        ('"chartqa"]', '"embedded:harder"]', "line 4: unknown level 'harder' of the embedded questions"),
        ('"chartqa"]', '"./mine.zip"]', "line 4: there is no folder or zip ./mine.zip."),
        ('"tiny-vlm"', '"tiny-vln"', "line 8: unknown preset 'tiny-vln'. Similar: tiny-vlm."),
        ('"tiny-vlm"', '"tiny-vlm"\nrepo = "a/b"', "line 7: a family needs one of 'preset', 'repo', or 'model' with"),
        ('preset = "tiny-vlm"', "", "line 7: a family needs one of 'preset', 'repo', or 'model' with"),
        ('"owner/name"', '"owner"', "line 11: 'owner' is not a repository: write owner/name."),
        ('repo = "owner/name"', 'model = "a.gguf"', "line 11: give 'projector' too"),
        ('repo = "owner/name"', 'preset = "tiny-vlm"', "line 10: two families are called 'Tiny VLM 7M'."),
        (
            'projectors = ["source"]',
            'models = ["source"]\nprojectors = ["source"]',
            "line 10: owner/name has one variant",
        ),
        ('projectors = ["source"]', "projector = 3", "line 12: invalid value of 'families[1].projector': expected "),
        ('projectors = ["source"]', "colour = 3", "line 12: unknown key 'colour'. Known: preset, repo, revision"),
        ('name = "A study"\n', "", "line 1: the key 'name' is missing."),
        ('name = "A study"', 'name = " "', "line 1: the name is empty."),
    ],
)
def test_study_when_it_says_something_impossible_then_it_is_refused_with_the_line(
    old: str, new: str, problem: str
) -> None:
    assert STUDY.count(old) == 1
    with pytest.raises(BadInput) as refused:
        parse(STUDY.replace(old, new))
    assert problem in refused.value.message


def test_study_when_its_file_is_missing_or_no_text_then_the_error_names_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"There is no study nothing. Give a file, or one of: embedded, image-tokens"):
        find_study("nothing")
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match=r"bad.toml cannot be read"):
        read_study(path)
    path.write_text(STUDY.replace("questions", "qestions"))
    with pytest.raises(BadInput, match=r"^bad.toml, line 5: unknown key 'qestions'"):
        read_study(path)


def test_suite_of_ones_own_when_named_then_it_lies_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    path = tmp_path / "study.toml"
    path.write_text(STUDY.replace('"chartqa"', '"./mine"'))
    assert read_study(path).suites[1] == "./mine"
    assert study_file.suite_name("mine.toml", tmp_path) == str(tmp_path / "mine.toml")


def test_line_when_a_key_stands_in_several_tables_then_it_is_the_one_of_the_path() -> None:
    assert line_of(STUDY, "projectors[1]") == 3
    assert line_of(STUDY, "families[1].projectors[0]") == 12
    assert line_of(STUDY, "families[0]") == 7
    assert line_of('name = "x"\nfamilies = [{preset = "y"}]\n', "families[0].preset") == 2


def test_time_when_some_steps_were_timed_then_the_others_are_taken_in_proportion() -> None:
    plan = MeasurementPlan(drift=True, accuracy=True)
    steps = steps_of(plan, 10, 3)
    assert (steps[Kind.ASK], steps[Kind.FLOOR], steps[Kind.DRIFT], steps[Kind.ANSWER]) == (10, 30, 20, 20)
    assert expected_seconds(steps, {}) is None
    assert seconds_of([(plan, 10)], 3, {}) is None
    assert seconds_of([], 3, {}) == 0.0
    every = expected_seconds(steps, dict.fromkeys(Kind, 2.0))
    assert every == 2.0 * sum(steps.values())
    slow, fast = (expected_seconds({Kind.LOOK: 5}, {Kind.ASK: pace}) for pace in (4.0, 2.0))
    assert slow is not None
    assert fast is not None
    assert slow == pytest.approx(2 * fast)
