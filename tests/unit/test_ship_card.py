"""The ship card: what nothing beats, what is recommended and why, and its files."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import msgspec
import PIL.Image
import pytest

from playground.errors import BadInput
from playground.measuring import ship_card as ship
from playground.measuring.results import Measurement, Speed, VariantResult
from playground.measuring.ship_card import ShipCard, ShipLimits
from playground.measuring.statistics import Interval
from playground.rendering import card_view as page
from testkit.ship_cards import ASKED, LADDER, VARIANTS, card_of, result

MARKUP = '<b>bold</b> & "quoted" <script>alert(1)</script>'


def timed(name: str, slowest: float, fastest: float) -> VariantResult:
    speed = Speed(5, (slowest + fastest) / 2, 0.1, 0.1, 0.2, 2**20, 5, slowest, fastest)
    return msgspec.structs.replace(result(name, 0.0001), speed=speed)


def label(card: ShipCard) -> str | None:
    return next((row.label for row in card.rows if row.variant == card.recommended), None)


@pytest.mark.parametrize(
    ("results", "limits", "recommended", "failing"),
    [
        (LADDER, {}, "Q4", {"Q2": "60 of 150 answers changed, at least 32.1% would (95 %); 5% are accepted"}),
        (LADDER, {"max_kl": 0.005}, "Q6", {"Q4": "KL 0.009 is above 0.005"}),
        (LADDER, {"max_kl": 0.0}, None, {"Q8": "KL 0.0001 is above 0"}),
        (LADDER, {"max_bytes": 4_999_999}, None, {"Q4": "5.0 MB are more than 5.0", "Q6": "7.0 MB are more than 5.0"}),
        (LADDER, {"max_bytes": 5_000_000}, "Q4", {"Q6": "7.0 MB are more than 5.0"}),
        # The reference changes nothing by definition: that is nothing to recommend.
        (LADDER[:1], {}, None, {}),
        # A share that a person names.
        ((*LADDER[:3], result("Q4", 0.009, changed=10)), {"max_changed": 0.2}, "Q4", {}),
        ((*LADDER[:3], result("Q4", 0.009, changed=2)), {}, "Q6",
         {"Q4": "not enough questions: 2 of 150 answers changed; about 259 questions would be enough if they went on "
                "like these"}),
        # Speed and memory: unknown is not within a limit; without a limit nobody asks.
        ((*LADDER[:3], result("Q4", 0.009, speed=49.0)), {"min_tokens_per_second": 50.0}, "Q6",
         {"Q4": "49 tok/s are fewer than 50"}),
        ((*LADDER[:3], result("Q4", 0.009, speed=50.0)), {"min_tokens_per_second": 50.0}, "Q4", {}),
        ((*LADDER[:3], result("Q4", 0.009, speed=None)), {"min_tokens_per_second": 50.0}, "Q6",
         {"Q4": "its speed was not measured"}),
        ((*LADDER[:3], result("Q4", 0.009, speed=None, memory=None)), {}, "Q4", {}),
        ((*LADDER[:3], result("Q4", 0.009, memory=2**21 + 1)), {"max_memory": 2**21}, "Q6",
         {"Q4": "it holds 2 MiB, 2 are allowed"}),
        ((*LADDER[:3], result("Q4", 0.009, speed=None, memory=None)), {"max_memory": 2**21}, "Q6",
         {"Q4": "its memory was not measured, 2 are allowed"}),
        # What no limit excuses.
        ((*LADDER[:3], result("Q4", 0.009, looks="blind")), {"max_kl": 9.0}, "Q6", {"Q4": "it ignores the picture"}),
        ((*LADDER[:3], result("Q4", 0.009, looks="reacts")), {}, "Q6",
         {"Q4": "it reacts to pictures, but was not shown to read them"}),
        ((*LADDER[:3], result("Q4", 0.009, looks=None)), {}, "Q6",
         {"Q4": "whether it sees the picture was not measured"}),
        # What an older version called "looks" shows only that it reacts.
        ((*LADDER[:3], result("Q4", 0.009, looks="looks")), {}, "Q6", {"Q4": "it was not shown to see the picture"}),
        ((*LADDER[:3], result("Q4", 0.009, words="worse")), {"max_kl": 9.0}, "Q6",
         {"Q4": "its answers are worse than the reference's"}),
        ((result("F16", looks="blind"), LADDER[1]), {}, "Q8", {"F16": "it ignores the picture"}),
        # A small one that could not be measured is no bargain.
        ((*LADDER[:3], result("Q2", None, failed=150)), {}, "Q6", {"Q2": "it failed on 150 of 150 questions"}),
        ((*LADDER[:3], result("Q2", 0.001, failed=1)), {}, "Q6", {"Q2": "it failed on 1 of 150 questions"}),
        ((*LADDER[:3], result("Q2", None)), {}, "Q6", {"Q2": "its drift was not measured"}),
        ((*LADDER[:3], result("Q4", 0.02, looks="blind", words="worse", speed=1.0)),
         {"min_tokens_per_second": 50.0, "max_kl": 0.01},
         "Q6", {"Q4": "KL 0.02 is above 0.01; its answers are worse than the reference's; it ignores the picture; "
                      "1 tok/s are fewer than 50"}),
    ],
)  # fmt: skip
def test_recommendation_when_under_limits_then_the_smallest_that_keeps_them(
    results: tuple[VariantResult, ...], limits: dict[str, Any], recommended: str | None, failing: dict[str, str]
) -> None:
    card = card_of(*results, limits=ShipLimits(**limits))
    assert label(card) == recommended
    reasons = {row.label: "; ".join(row.failing) for row in card.rows}
    assert {name: reasons[name] for name in failing} == failing
    if recommended is None:
        assert not any(reason.startswith("Not ") for reason in card.reasons)
        nearest = min(card.rows[1:], key=lambda row: (len(row.failing), row.bytes), default=None)
        assert nearest is None or card.reasons[0].startswith(f"None passes. Nearest: {nearest.label}, but")
    else:
        n = sum(not row.failing for row in card.rows[1:])
        size = VARIANTS[recommended].bytes
        which = "the only one that passes" if n == 1 else f"the smallest of the {n} that pass"
        assert card.reasons[0] == (
            f"{recommended} is {which}: {size / 1e6:.1f} MB, "
            f"{size / VARIANTS['F16'].bytes:.0%} of the reference pair's size."
        )
        smaller = [row for row in card.rows if row.bytes < size]
        assert all(row.failing for row in smaller)
        for row in smaller[:3]:
            assert f"Not {row.label}: {'; '.join(row.failing)}." in card.reasons


@pytest.mark.parametrize("measured", [True, False])
def test_recommendation_when_accuracy_was_not_measured_then_the_card_says_so(measured: bool) -> None:
    results = LADDER[:2] if measured else [msgspec.structs.replace(r, against=None) for r in LADDER[:2]]
    reasons = card_of(*results).reasons
    assert ("Accuracy was not measured; an answer that is not changed is not lost." in reasons) is not measured
    assert any(reason.startswith("Accuracy against the reference") for reason in reasons) is measured


def test_recommendation_when_there_are_too_few_questions_then_it_says_how_many_and_how_long() -> None:
    few = [msgspec.structs.replace(r, items=r.items[:8]) for r in LADDER[:3]]
    measured = Measurement(ASKED[:8], ("a",) * 8, tuple(few), elapsed_s=16.0)
    card = ship.card(
        measured, [VARIANTS[name] for name in ("F16", "Q8", "Q6")], VARIANTS["F16"].id, ShipLimits(),
        engine="e", machine="m", set_name="s", settings="greedy", command="c",
    )  # fmt: skip
    assert card.recommended is None
    assert card.reasons == (
        "Not enough questions to recommend one (8 asked).",
        "Q6 changed 0 of 8 answers; up to 31% changed would look the same, and 5% are accepted.",
        "About 105 questions without a change would show 5%, which takes about 4 minutes here.",
    )


@pytest.mark.parametrize(
    ("rounds", "words"),
    [
        ((90.0, 110.0, Interval(0.9, 0.8, 0.95)), "(90 to 110 over 5 rounds), 0.90 x the reference (0.80 to 0.95)."),
        ((90.0, 110.0, Interval(1.4, 0.84, 3.52)), "(90 to 110 over 5 rounds): no difference from the reference"),
    ],
)
def test_speed_when_rounds_disagree_then_no_ratio(rounds: tuple[float, float, Interval], words: str) -> None:
    slowest, fastest, ratio = rounds
    speed = Speed(5, 100.0, 0.1, 0.1, 0.2, 2**20, 5, slowest, fastest, ratio)
    card = card_of(LADDER[0], msgspec.structs.replace(LADDER[1], speed=speed))
    (reason,) = [reason for reason in card.reasons if reason.startswith("Speed")]
    assert words in reason


@pytest.mark.parametrize(
    ("results", "beaten"),
    [
        (LADDER, ""),
        ((LADDER[0], LADDER[1], result("Q6", 0.00005)), "Q8"),  # larger and further off
        ((LADDER[0], LADDER[1], result("Q6", 0.0001)), "Q8"),  # larger and as far off
        # Further off, but by less than it differs from itself when it is computed another way.
        ((LADDER[0], LADDER[1], result("Q6", 0.00012, floor=0.0001)), "Q8"),
        ((LADDER[0], LADDER[1], result("Q6", 0.00012)), ""),
        ((LADDER[0], timed("Q8", 200, 210), timed("Q6", 100, 199)), ""),  # larger, but certainly faster
        ((LADDER[0], timed("Q8", 190, 210), timed("Q6", 100, 199)), "Q8"),  # not certainly
        ((LADDER[0], result("Q8", 0.0)), "F16"),
        # Of one that could not be measured nothing is known: it beats none, and is no choice itself.
        ((LADDER[0], LADDER[1], result("Q2", None, failed=2)), "Q2"),
    ],
)
def test_pareto_when_compared_then_only_what_nothing_beats_in_everything(
    results: tuple[VariantResult, ...], beaten: str
) -> None:
    card = card_of(*results)
    assert " ".join(row.label for row in card.rows if not row.pareto) == beaten


@pytest.mark.parametrize(
    "limits",
    [
        {"max_bytes": 0}, {"max_bytes": -1}, {"max_bytes": 10**400}, {"max_memory": 0}, {"max_memory": 2**54},
        {"min_tokens_per_second": 0.0}, {"min_tokens_per_second": float("nan")}, {"min_tokens_per_second": 1e300},
        {"max_kl": -0.1}, {"max_kl": float("nan")}, {"max_kl": float("inf")}, {"max_kl": 1e300},
    ],
)  # fmt: skip
def test_limit_when_it_is_none_then_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="A limit has to be a number above 0"):
        ship.check(ShipLimits(**limits))


def test_limits_when_they_are_some_then_taken() -> None:
    ship.check(ShipLimits())
    ship.check(ShipLimits(max_bytes=1, max_memory=2**53, min_tokens_per_second=0.5, max_kl=0.0))


# --- files ------------------------------------------------------------------------------------------------------------


def test_json_when_read_again_then_the_same_card() -> None:
    card = card_of(*LADDER, limits=ShipLimits(max_bytes=10**7, min_tokens_per_second=3.5))
    assert msgspec.json.decode(page.write("json", card), type=ShipCard) == card
    assert [file.name for file in card.files] == [
        "F16.gguf", "mmproj-F16.gguf", "Q8.gguf", "Q6.gguf", "Q4.gguf", "Q2.gguf",
    ]  # fmt: skip  # no folders of this machine
    assert card.measured == "2026-01-02T03:04:05+01:00"


@pytest.mark.thorough
@pytest.mark.parametrize(
    "card",
    [
        card_of(*LADDER),
        card_of(LADDER[0]),
        card_of(*LADDER, limits=ShipLimits(max_bytes=1)),
        card_of(*LADDER, command="x" * 100_000, set_name="y" * 100_000),
    ],
    ids=["ladder", "one", "none fits", "long texts"],
)
def test_png_when_written_then_a_picture_that_is_not_empty(card: ShipCard) -> None:
    with PIL.Image.open(io.BytesIO(page.write("png", card))) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width == 1520
        assert 300 < picture.height < 2500
        colours = picture.getcolors(1 << 20)
        assert colours is not None
        assert 0.5 * picture.width * picture.height < max(colours)[0] < picture.width * picture.height
        named = {colour for _, colour in colours}
        assert ((0x24, 0x70, 0x3F) in named) == (card.recommended is not None)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [MARKUP, "W" * 100_000, "ü→★漢字\u202e", ""])
def test_label_when_it_holds_anything_then_shown_as_text(name: str) -> None:
    variants = [replace(v, label=name) if v.label == "Q4" else v for v in VARIANTS.values()]
    card = card_of(*LADDER, variants=variants, command=name, set_name=name, engine=name, machine=name, settings=name)
    html = page.write("html", card).decode()
    assert "<script" not in html
    assert "<b>" not in html
    if name == MARKUP:
        assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 5
    assert page.write("png", card).startswith(b"\x89PNG")
    assert msgspec.json.decode(page.write("json", card), type=ShipCard) == card


def test_variant_when_it_could_not_be_measured_then_in_the_table_and_nowhere_in_the_plot() -> None:
    html = page.write("html", card_of(*LADDER[:3], result("Q2", None, failed=150))).decode()
    assert [plot.count("<circle") for plot in html.split("</svg>")] == [3, 2, 0]  # the second has a diamond too
    assert "it failed on 150 of 150 questions" in html


def test_speeds_when_drift_was_measured_then_their_colour_is_its_decade_and_its_number_stands_there() -> None:
    section = page.section(card_of(*LADDER))
    assert re.findall(r"--vp-drift:(\d+)%", section) == ["0", "25", "49", "92"]
    assert re.findall(r"<tspan>KL ([\d.e-]+)", section) == ["1.0e-04", "0.0010", "0.0090", "0.50"]
    unknown = [result(name, kl, speed=None) for name, kl in (("F16", None), ("Q8", 0.1))]
    assert "vp-mark" not in page.section(card_of(*unknown))


H100, L4, H100_TOO = "GPU 0: NVIDIA H100", "box2 · GPU 0: NVIDIA L4", "box3 · GPU 0: NVIDIA H100"


@pytest.mark.parametrize(
    ("places", "speeds_at", "words"),
    [
        ((), "", "2 cores"),
        ((L4,), L4, L4),
        ((H100, H100_TOO), "", f"{H100}, {H100_TOO}"),
        (
            (H100, L4),
            L4,
            f"{H100}, {L4}; unlike devices, whose rounding differs beyond the noise floor; all speeds of {L4}",
        ),
    ],
    ids=["on the page's own", "on another machine", "on two of a kind", "on unlike machines"],
)
def test_machine_when_a_measurement_was_spread_then_the_card_names_the_places_and_that_of_the_speeds(
    places: tuple[str, ...], speeds_at: str, words: str
) -> None:
    measured = Measurement(ASKED, (), LADDER, places=places, speeds_at=speeds_at)
    texts = {"engine": "llama 1", "machine": "2 cores", "set_name": "", "settings": "", "command": ""}
    card = ship.card(measured, tuple(VARIANTS.values()), VARIANTS["F16"].id, ShipLimits(), **texts)
    assert card.machine == words


@pytest.mark.parametrize("kind", ["", "pdf", "HTML", "../x", "x" * 1000])
def test_kind_when_there_is_none_then_refused_and_those_that_there_are_named(kind: str) -> None:
    with pytest.raises(BadInput, match="written as html, json, png, not as") as refused:
        page.write(kind, card_of(*LADDER))
    assert len(str(refused.value)) < 100
