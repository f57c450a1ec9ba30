"""Tables of divergences, of a recipe and of a file that was made: what stands beside what, and what is marked."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from playground.measuring.gate import Gate, Verdict
from playground.measuring.results import Effect, Sight, which_half
from playground.measuring.statistics import Interval
from playground.quantizing import scan_results
from playground.quantizing.make_variant import CheckedVariant
from playground.quantizing.scan_results import RecipeOutcome, UniformComparison
from playground.rendering import made_view, measurement_view, sensitivity_view
from playground.web import made_files
from testkit.notebooks import F16, Q2, measurement, sensitivity


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([9.0e-05, 0.0009, None, 0.0], ["9.0e-05", "9.0e-04", "–", "0"]),
        ([0.0182, 0.66, 2.0], ["0.0182", "0.6600", "2.0000"]),
        ([0.66, 2.0], ["0.66", "2.00"]),
        ([None], ["–"]),
    ],
)
def test_nats_when_below_each_other_then_all_in_one_form(values: list[float | None], expected: list[str]) -> None:
    assert measurement_view.nats_alike(values) == expected


def test_table_when_a_floor_is_small_then_the_columns_stay_and_empty_ones_do_not() -> None:
    html = str(measurement_view.html(measurement(), (F16, Q2), F16.id, lambda name: None))
    assert "of the variant against itself, computed" not in html
    assert "p99" in html


@pytest.mark.parametrize(("closer", "is_green"), [((9, 0), True), ((0, 9), False), ((1, 1), False), (None, False)])
def test_recipe_when_it_does_not_win_then_it_is_not_marked_as_recommended(
    closer: tuple[int, int] | None, is_green: bool
) -> None:
    scan = sensitivity()
    assert scan.built is not None
    rival = UniformComparison("Q4_K_M", 600, Interval(0.02, 0.01, 0.03), closer=closer)
    built = msgspec.structs.replace(scan.built, uniform=(rival,))
    html = str(sensitivity_view.html(msgspec.structs.replace(scan, built=built)))
    assert html.count("vp-row-recipe") == 1
    assert ("vp-row-ship" in html) is is_green


def test_recipe_when_its_questions_share_pictures_then_pictures_decide_whether_it_wins() -> None:
    scan = sensitivity()
    assert scan.built is not None
    rival = UniformComparison("Q4_K_M", 600, Interval(0.02), closer=(20, 0), closer_pictures=(4, 0))
    built = msgspec.structs.replace(scan.built, uniform=(rival,))
    assert scan_results.outcome(built) is RecipeOutcome.EVEN
    assert "on 20 of 20 questions, on 4 of 4 pictures, no difference" in scan_results.sentence(built)


@pytest.mark.parametrize(
    ("pictures", "words"),
    [(10, "on 10 of 10 questions"), (2, "these questions do not show which half costs more")],
)
def test_grid_when_questions_share_pictures_then_pictures_decide_which_half_costs_more(
    pictures: int, words: str
) -> None:
    about = tuple(str(k % pictures) for k in range(10))

    def effect(model: str, projector: str, size: int, kl: float) -> Effect:
        return Effect(model, projector, size, kl, None, None, (kl,) * 10 if kl else (), about if kl else ())

    effects = (effect("F16", "F16", 1000, 0.0), effect("Q2_K", "F16", 500, 0.5), effect("F16", "Q2_K", 500, 0.1))
    assert words in which_half(effects)
    others = (effect("F16", "F16", 1000, 0.2), *effects[1:])
    assert which_half(others) == ""  # another pair is the reference


@pytest.mark.parametrize(
    ("verdict", "looks", "words"),
    [
        (Verdict.FIT, None, "fit to ship"),
        (Verdict.CHANGES, None, "answers change"),
        (Verdict.BROKEN, None, "answers change a lot"),
        (Verdict.BROKEN, Sight.BLIND, "broken"),
    ],
)
def test_made_file_when_sound_then_it_is_not_called_broken_and_can_be_downloaded(
    verdict: Verdict, looks: Sight | None, words: str
) -> None:
    checked = CheckedVariant(
        Path("/made/a b.gguf"), 1000, (), (), None, 9, Interval(0.29), looks, verdict, Gate(verdict, 0.05)
    )
    html = str(made_view.html(checked))
    assert f">{words}</b>" in html
    assert 'href="./vp-made/a%20b.gguf"' in html


@pytest.mark.parametrize(
    ("quantization", "expected"), [("IQ2_XS", True), (" iq3_xxs ", True), ("IQ4_XS", False), ("Q2_K", False)]
)
def test_calibration_when_a_type_has_few_bits_then_it_is_ticked(quantization: str, expected: bool) -> None:
    assert made_files.wants_calibration(quantization) is expected
