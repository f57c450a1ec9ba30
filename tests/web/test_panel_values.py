"""What the settings panel makes of a cell, and what it shows of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from playground.comparing.run_settings import RunSettings
from playground.endpoints.client import Endpoint
from playground.endpoints.endpoints import Endpoints
from playground.errors import BadInput
from playground.notebooks.cells import CompareCell
from playground.values.request import ImagePlace, Order, Remedy
from playground.web import panel_values
from playground.web.panel_values import PanelValues
from playground.wiring import Parts
from testkit import pairs

CELL = CompareCell(
    "c",
    family="tiny-vlm",
    variants=("tiny-vlm:F16+mmproj-F16", "tiny-vlm:Q2_K+mmproj-F16"),
    settings=RunSettings(
        temperature=0.5, n_ctx=2048, stop=("a", "b"), remedies=(Remedy.LAYERS,), order=Order.RACE, probabilities=True
    ),
)


def sent(parts: Parts, cell: CompareCell, **settings: Any) -> PanelValues:
    """What the page sends while it shows a cell; the numbers as JSON has them."""
    view = panel_values.view(parts, cell)
    return PanelValues(
        family=view.family,
        models=view.models.ticked,
        projectors=view.projectors.ticked,
        reference=view.reference,
        order=view.order,
        settings={**view.settings, **settings},
    )


def test_panel_when_nothing_was_changed_then_the_cell_stays_as_it_is(parts: Parts) -> None:
    assert panel_values.changed(parts, CELL, sent(parts, CELL)) == CELL


def test_panel_when_a_setting_is_the_default_then_the_cell_has_none(parts: Parts) -> None:
    changed = panel_values.changed(parts, CELL, sent(parts, CELL, temperature=0, stop="", n_ctx=None, remedies=[]))
    assert changed.settings == RunSettings(order=Order.RACE, probabilities=True)


def test_panel_when_a_whole_number_has_decimals_then_it_is_rounded(parts: Parts) -> None:
    changed = panel_values.changed(parts, CELL, sent(parts, CELL, max_tokens=12.6, seed=7.0))
    assert (changed.settings.max_tokens, changed.settings.seed) == (13, 7)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"temperature": 9}, "temperature has to be between 0 and 5"),
        ({"n_ctx": 4}, "n_ctx has to be between 64"),
        ({"seed": "five"}, "settings cannot be used"),
        ({"remedies": ["magic"]}, "settings cannot be used"),
        ({"stop": ["a", 3]}, "settings cannot be used"),
    ],
)
def test_panel_when_a_value_is_invalid_then_it_is_named(parts: Parts, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        panel_values.changed(parts, CELL, sent(parts, CELL, **settings))


def test_panel_when_the_page_sends_settings_that_it_does_not_have_then_they_are_dropped(parts: Parts) -> None:
    changed = panel_values.changed(parts, CELL, sent(parts, CELL, reference="x", n_predict=7))
    assert changed == CELL


def test_panel_when_a_cell_has_any_setting_then_it_is_shown_and_kept(parts: Parts) -> None:
    assert {*panel_values.SETTINGS, "reference", "order"} == {*RunSettings.__struct_fields__}
    rare = RunSettings(
        penalty_last_n=128, dry_base=1.5, dry_allowed_length=3, flash_attention=False, projector_on_gpu=False,
        branches=True, probabilities=True,
    )  # fmt: skip
    cell = msgspec.structs.replace(CELL, settings=rare)
    assert panel_values.view(parts, cell).settings["flash_attention"] == "off"
    assert panel_values.changed(parts, cell, sent(parts, cell)) == cell


def test_reference_when_its_variant_is_unticked_then_it_is_the_most_precise_again(parts: Parts) -> None:
    cell = msgspec.structs.replace(CELL, settings=msgspec.structs.replace(CELL.settings, reference=CELL.variants[1]))
    values = sent(parts, cell)
    assert values.reference == CELL.variants[1]
    view = panel_values.view(parts, cell)
    assert [id for _, id in view.references] == ["", *CELL.variants]
    f16 = next(v.model.sha256 for v in parts.catalog.variants if v.id == CELL.variants[0])
    changed = panel_values.changed(parts, cell, replace(values, models=[f16]))
    assert changed.variants == CELL.variants[:1]
    assert changed.settings.reference is None


def test_family_when_it_was_just_chosen_then_its_own_are_ticked_whatever_the_panel_still_shows(
    parts: Parts, endless: pairs.PairFiles
) -> None:
    other = parts.catalog.open_pair(endless.model, endless.projector)
    switching = replace(sent(parts, CELL), family=other.family)
    switched = panel_values.changed(parts, CELL, switching)
    assert switched.variants == (other.id,)
    # The panel still has the ticks of the family before, and the next change is sent with them.
    again = replace(switching, settings={**switching.settings, "seed": 5})
    after = panel_values.changed(parts, switched, again)
    assert after.variants == (other.id,)
    assert after.settings.seed == 5
    back = panel_values.changed(parts, switched, replace(sent(parts, switched), family="tiny-vlm"))
    preset = parts.catalog.presets[0]
    assert [id.split(":")[1].split("+")[0] for id in back.variants] == list(preset.ticked)
    assert back.settings.max_tokens == preset.suggested.max_tokens


def test_panel_when_it_says_how_to_ask_then_the_cell_has_it_and_shows_it_again(parts: Parts) -> None:
    panel = {
        "system": "Be brief.",
        "image_place": "behind",
        "template_variables": '{"enable_thinking": false}',
        "json_schema": '{"type": "object"}',
        "presence_penalty": 1.5,
        "reasoning_tokens": 0,
    }
    changed = panel_values.changed(parts, CELL, sent(parts, CELL, **panel))
    assert (changed.settings.system, changed.settings.image_place) == ("Be brief.", ImagePlace.BEHIND)
    assert changed.settings.template_variables == {"enable_thinking": False}
    assert changed.settings.json_schema == {"type": "object"}
    assert changed.settings.reasoning_tokens == 0
    shown = panel_values.view(parts, changed).settings
    assert {name: shown[name] for name in panel} == panel


def test_panel_when_a_variable_is_no_json_then_refused_by_name(parts: Parts) -> None:
    with pytest.raises(BadInput, match="The template_variables is invalid JSON"):
        panel_values.changed(parts, CELL, sent(parts, CELL, template_variables="{"))


def test_makers_sampling_when_a_preset_knows_it_then_its_numbers_and_else_none(parts: Parts) -> None:
    sampling = panel_values.makers_sampling(parts, "qwen3-vl-2b")
    assert sampling == {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "presence_penalty": 1.5}
    assert set(panel_values.MAKERS_NAMES) >= set(sampling)
    assert panel_values.makers_sampling(parts, "tiny-vlm") == {}


def test_endpoints_when_ticked_then_they_answer_beside_the_variants_of_any_family(parts: Parts) -> None:
    with_box = replace(parts, endpoints=Endpoints([Endpoint("box", "http://127.0.0.1:9/v1", "m")]))
    view = panel_values.view(with_box, CELL)
    assert (view.endpoints.choices, view.endpoints.ticked) == ([("box", "elsewhere:box")], [])
    ticked = replace(sent(with_box, CELL), endpoints=["elsewhere:box", "elsewhere:gone"], reference="elsewhere:box")
    cell = panel_values.changed(with_box, CELL, ticked)
    assert cell.variants == (*CELL.variants, "elsewhere:box")
    assert cell.settings.reference == "elsewhere:box"
    assert panel_values.view(with_box, cell).endpoints.ticked == ["elsewhere:box"]
    assert panel_values.changed(with_box, cell, sent(with_box, cell)) == CELL  # unticked again
    assert with_box.choose([CELL.variants[0], "elsewhere:box"])[-1].endpoint == "box"
