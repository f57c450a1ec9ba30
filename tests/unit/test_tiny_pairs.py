"""The families of `python -m bench conformance`, by their source: making them needs torch."""

from __future__ import annotations

import ast
from pathlib import Path

from bench import tiny_pairs


def test_families_when_they_can_be_made_then_each_has_a_title() -> None:
    tree = ast.parse((Path(tiny_pairs.__file__).parent / "families.py").read_text())
    listed = next(
        node for node in tree.body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FAMILIES"
    )
    assert isinstance(listed.value, ast.DictComp)
    functions = listed.value.generators[0].iter
    assert isinstance(functions, ast.Tuple)
    names = {element.id.replace("_", "-") for element in functions.elts if isinstance(element, ast.Name)}
    assert names == set(tiny_pairs.TITLES)
    assert len(names) >= 36
