"""The files of examples/ are used as their README says; test_settings.py reads playground.toml."""

from __future__ import annotations

import inspect
import re

import yaml

from playground.cli import gate
from playground.measuring import question_sets
from playground.models.gguf.header import read_header
from playground.models.presets import data_folder
from playground.quantizing import recipes
from playground.values.files import Half
from testkit.webapp import ROOT


def test_questions_when_read_then_none_is_left_out() -> None:
    questions = question_sets.read_questions(ROOT / "examples/questions")
    lines = (ROOT / "examples/questions/items.jsonl").read_text().splitlines()
    assert questions.problems == ()
    assert len(questions.items) == len(lines)
    assert all(questions.image(question).width for question in questions.items)


def test_recipe_when_read_then_its_groups_are_groups_of_the_embedded_pair() -> None:
    recipe = recipes.read(ROOT / "examples/recipe.toml")
    for half, name in ((Half.MODEL, "tiny-vlm-7M-F16.gguf"), (Half.PROJECTOR, "mmproj-tiny-vlm-7M-F16.gguf")):
        tensors = read_header(data_folder() / "tiny-vlm" / name).tensors
        weights = {tensor.name: tensor.n_bytes for tensor in tensors if len(tensor.shape) > 1}
        groups = {group.name for group in recipes.groups_of(weights, recipe.depth, half)}
        assert recipe.types(half)
        assert recipe.types(half).keys() <= groups


def test_workflow_when_read_then_its_options_are_those_of_the_gate() -> None:
    text = (ROOT / "examples/quantization-gate.yml").read_text()
    assert yaml.safe_load(text)["jobs"]["gate"]["steps"]
    command = text.split("playground gate", 1)[1].split("|| code", 1)[0]
    parameters = inspect.signature(gate.gate).parameters
    for option in re.findall(r"--([a-z-]+)", command):
        assert option.replace("-", "_") in {*parameters, "json"}
