"""The presets' chat templates, rendered as the engine does."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from playground.models.presets import read_presets

# Renders chats as the worker does: the same code, and a marker of the worker's kind in place of which <image> is
# written for the test. A process of its own: llama_cpp has to be imported before numpy.
_CHILD = """
import json, sys
from playground.engine import loading, templates
from playground.engine.protocol import ChatMessage
from playground.errors import PlaygroundError

marker = loading.media_marker()
rendered = []
for template, messages, variables in json.load(sys.stdin):
    chat = [ChatMessage(role, text, n, tuple(places)) for role, text, n, places in messages]
    try:
        templates.check(template)
        text = templates.render(template, chat, marker, bos="<s>", eos="</s>", variables=variables)
        rendered.append(text.replace(marker, "<image>"))
    except PlaygroundError as error:
        rendered.append(f"refused: {error.message}")
print(json.dumps(rendered))
"""

Message = tuple[str, str, int, tuple[int, ...]]
ONE: list[Message] = [("user", "What is this?", 1, ())]
MORE: list[Message] = [
    ("user", "Compare.", 2, ()),
    ("assistant", "Alike.", 0, ()),
    ("user", "Sure?", 0, ()),
]
WITH_SYSTEM: list[Message] = [("system", "Be brief.", 0, ()), *ONE]
BETWEEN: list[Message] = [("user", "First  then , compare.", 2, (6, 12))]

PRESETS = {preset.family: preset.chat_template for preset in read_presets() if preset.chat_template}
VICUNA = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions. "
)

# What the makers' own code writes: haotian-liu/LLaVA, conversation.py (llava_v1, mistral_instruct, chatml_direct) and
# mm_utils.py, which puts a line break behind the image; for the others llama-cpp-python's ObsidianChatHandler,
# MoondreamChatHandler and NanoLlavaChatHandler, which quote the makers' cards.
MAKERS = {
    "llava-1.5-7b": (
        VICUNA + "USER: <image>\nWhat is this? ASSISTANT:",
        VICUNA + "USER: <image>\n<image>\nCompare. ASSISTANT: Alike.</s>USER: Sure? ASSISTANT:",
        "Be brief. USER: <image>\nWhat is this? ASSISTANT:",
    ),
    "llava-1.6-vicuna-7b": (
        VICUNA + "USER: <image>\nWhat is this? ASSISTANT:",
        VICUNA + "USER: <image>\n<image>\nCompare. ASSISTANT: Alike.</s>USER: Sure? ASSISTANT:",
        "Be brief. USER: <image>\nWhat is this? ASSISTANT:",
    ),
    "llava-1.6-mistral-7b": (
        "[INST] <image>\nWhat is this? [/INST]",
        "[INST] <image>\n<image>\nCompare. [/INST] Alike. </s>[INST] Sure? [/INST]",
        "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n<image>\nWhat is this? [/INST]",
    ),
    "llava-1.6-34b": (
        "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\nWhat is this?<|im_end|>"
        "<|im_start|>assistant\n",
        "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\n<image>\nCompare.<|im_end|>"
        "<|im_start|>assistant\nAlike.<|im_end|><|im_start|>user\nSure?<|im_end|><|im_start|>assistant\n",
        "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\n<image>\nWhat is this?<|im_end|>"
        "<|im_start|>assistant\n",
    ),
    "nanollava": (
        "<|im_start|>system\nAnswer the question<|im_end|><|im_start|>user\n<image>\nWhat is this?<|im_end|>"
        "<|im_start|>assistant\n",
        "<|im_start|>system\nAnswer the question<|im_end|><|im_start|>user\n<image>\n<image>\nCompare.<|im_end|>"
        "<|im_start|>assistant\nAlike.<|im_end|><|im_start|>user\nSure?<|im_end|><|im_start|>assistant\n",
        "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\n<image>\nWhat is this?<|im_end|>"
        "<|im_start|>assistant\n",
    ),
    "deepseek-ocr": (  # the README of deepseek-ai/DeepSeek-OCR
        "<image>\nWhat is this?",
        "<image>\n<image>\nCompare.Alike.Sure?",
        "Be brief.<image>\nWhat is this?",
    ),
    "obsidian-3b": (
        "<|im_start|>user\nWhat is this?\n<image>\n###\n<|im_start|>assistant\n",
        "<|im_start|>user\nCompare.\n<image>\n<image>\n###\n<|im_start|>assistant\nAlike.\n###\n"
        "<|im_start|>user\nSure?\n###\n<|im_start|>assistant\n",
        "<|im_start|>system\nBe brief.\n###\n<|im_start|>user\nWhat is this?\n<image>\n###\n<|im_start|>assistant\n",
    ),
    "moondream2": (
        "<image>\n\nQuestion: What is this?\n\nAnswer:",
        "<image>\n\n<image>\n\nQuestion: Compare.\n\nAnswer:Alike.\n\nQuestion: Sure?\n\nAnswer:",
        "refused: The chat template drops the system message. Leave it empty, or choose another template.",
    ),
}

# A template that a person gives may write the image's place in three ways; each is asked with one image.
OWN = {
    "constant": "{% for m in messages %}{{ m.content.replace('<__media__>', '[<__media__>]') }}{% endfor %}",
    "word": "{% for m in messages %}{% if '<image>' in m.content %}{{ m.content.replace('<image>', '[<image>]') }}"
    "{% endif %}{% endfor %}",
    "variable": "{% for m in messages %}{{ m.content.replace(media_marker, '[' ~ media_marker ~ ']') }}{% endfor %}",
}
ASKED: dict[str, tuple[str, list[Message], dict[str, object]]] = {
    **{f"{family} one": (template, ONE, {}) for family, template in PRESETS.items()},
    **{f"{family} more": (template, MORE, {}) for family, template in PRESETS.items()},
    **{f"{family} system": (template, WITH_SYSTEM, {}) for family, template in PRESETS.items()},
    **{f"{family} between": (template, BETWEEN, {}) for family, template in PRESETS.items()},
    **{name: (template, ONE, {}) for name, template in OWN.items()},
    "chatml between": ("chatml", BETWEEN, {}),
    "word removed": ("{% for m in messages %}{{ m.content | replace('<image>', '') }}{% endfor %}", ONE, {}),
    "typed": (OWN["constant"], [("user", "What does <__media__> mean?", 1, ())], {}),
    "variable set": ("{{ messages[0].content }}{% if enable_thinking is false %}NO{% endif %}", ONE, {}),
    "variable given": (
        "{{ messages[0].content }}{% if enable_thinking is false %}NO{% endif %}",
        ONE,
        {"enable_thinking": False},
    ),
    "empty prompt": ("{{ messages[0].content }}", [("user", "", 1, ())], {}),
}


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    sent = json.dumps(list(ASKED.values()))
    child = subprocess.run([sys.executable, "-c", _CHILD], input=sent, capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr[-2000:]
    texts: list[str] = json.loads(child.stdout.splitlines()[-1])
    return dict(zip(ASKED, texts, strict=True))


@pytest.mark.parametrize("family", sorted(PRESETS))
def test_preset_when_rendered_as_the_worker_does_then_asked_as_its_makers_do(
    rendered: dict[str, str], family: str
) -> None:
    single, more, system = MAKERS[family]
    assert rendered[f"{family} one"] == single
    assert rendered[f"{family} more"] == more
    assert rendered[f"{family} system"] == system


@pytest.mark.parametrize("family", sorted(PRESETS))
def test_preset_when_images_stand_between_words_then_every_image_and_word_is_there(
    rendered: dict[str, str], family: str
) -> None:
    text = rendered[f"{family} between"]
    assert text.count("<image>") == 2
    assert text.index("First") < text.index("then") < text.index("compare.")


@pytest.mark.parametrize("way", sorted(OWN))
def test_own_template_when_it_names_the_image_in_any_way_then_it_finds_it(rendered: dict[str, str], way: str) -> None:
    assert rendered[way] == "[<image>]What is this?"


def test_template_when_the_images_have_places_then_they_stand_there(rendered: dict[str, str]) -> None:
    expected = "<|im_start|>user\nFirst <image> then <image>, compare.<|im_end|>\n<|im_start|>assistant\n"
    assert rendered["chatml between"] == expected


def test_template_when_it_removes_the_word_image_then_the_image_stays(rendered: dict[str, str]) -> None:
    assert rendered["word removed"] == "<image>What is this?"


def test_template_when_the_prompt_holds_the_constant_then_it_is_text(rendered: dict[str, str]) -> None:
    assert rendered["typed"] == "[<image>]What does <__media__> mean?"


def test_template_when_a_variable_is_given_then_it_reads_it(rendered: dict[str, str]) -> None:
    assert rendered["variable set"] == "<image>What is this?"
    assert rendered["variable given"] == "<image>What is this?NO"


def test_template_when_the_prompt_is_empty_then_the_image_alone_is_asked(rendered: dict[str, str]) -> None:
    assert rendered["empty prompt"] == "<image>"
