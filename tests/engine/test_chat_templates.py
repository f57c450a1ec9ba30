"""The presets' chat templates, rendered as the engine does."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from playground.models.presets import read_presets

MARKER = "<__media__>"  # llama.cpp's, which templates that care for a line break after an image look for


_CHILD = """
import json, sys
from playground.engine import templates
from playground.engine.protocol import ChatMessage

asked = json.load(sys.stdin)
chats = {
    "one": [ChatMessage("user", "What is this?", 1)],
    "more": [ChatMessage("user", "Compare.", 2), ChatMessage("assistant", "Alike."), ChatMessage("user", "Sure?")],
}
said = {}
for family, template in asked["templates"].items():
    templates.check(template)
    said[family] = {
        f"{name} {marker}": templates.render(template, chat, marker, bos="<s>", eos="</s>")
        for name, chat in chats.items()
        for marker in asked["markers"]
    }
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def rendered() -> dict[str, dict[str, str]]:
    wanted = {preset.family: preset.chat_template for preset in read_presets() if preset.chat_template}
    asked = json.dumps({"templates": wanted, "markers": [MARKER, "<another>"]})
    child = subprocess.run([sys.executable, "-c", _CHILD], input=asked, capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr[-2000:]
    said: dict[str, dict[str, str]] = json.loads(child.stdout.splitlines()[-1])
    assert sorted(said) == sorted(wanted)
    return said


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (
            "llava-1.5-7b",
            "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
            "detailed, and polite answers to the human's questions. USER: <__media__>\nWhat is this? ASSISTANT:",
        ),
        ("llava-1.6-mistral-7b", "[INST] <__media__>\nWhat is this? [/INST]"),
        (
            "llava-1.6-34b",
            "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<__media__>\nWhat is this?<|im_end|>"
            "<|im_start|>assistant\n",
        ),
        (
            "nanollava",
            "<|im_start|>system\nAnswer the question<|im_end|><|im_start|>user\n<__media__>\nWhat is this?<|im_end|>"
            "<|im_start|>assistant\n",
        ),
        ("obsidian-3b", "<|im_start|>user\nWhat is this?\n<__media__>\n###\n<|im_start|>assistant\n"),
        ("moondream2", "<__media__>\n\nQuestion: What is this?\n\nAnswer:"),
    ],
)
def test_chat_template_when_a_model_has_a_form_of_its_own_then_it_is_asked_in_it(
    rendered: dict[str, dict[str, str]], family: str, expected: str
) -> None:
    assert rendered[family][f"one {MARKER}"] == expected


def test_chat_templates_when_a_chat_goes_on_then_every_turn_and_image_is_there(
    rendered: dict[str, dict[str, str]],
) -> None:
    assert rendered["llava-1.6-vicuna-7b"].keys() == rendered["llava-1.5-7b"].keys()
    for family, texts in rendered.items():
        for marker in (MARKER, "<another>"):  # a marker that a template does not know costs a line break, no more
            text = texts[f"more {marker}"]
            assert text.count(marker) == 2, family
            assert text.index("Compare.") < text.index("Alike.") < text.index("Sure?"), family
