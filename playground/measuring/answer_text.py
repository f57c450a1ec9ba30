"""What is taken off an answer before it is scored: reasoning, special tokens, Markdown. Pure.

docs/metrics.md lists it for readers; this file is the one place that does it.
"""

from __future__ import annotations

import re

# How the families mark their reasoning: opening and closing. A closing mark alone ends a reasoning that the chat
# template opened; an opening mark alone means that the answer was cut off before the reasoning ended.
_REASONING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
)
# What families put round the answer itself. The last one counts.
_ANSWER = re.compile(
    r"<answer>(?P<answer>(?:(?!</?answer>).)*)(?:</answer>|\Z)"
    r"|<\|begin_of_box\|>(?P<box>(?:(?!<\|(?:begin|end)_of_box\|>).)*)(?:<\|end_of_box\|>|\Z)"
    r"|\\boxed\{(?:\\text\{)?(?P<boxed>[^{}]*)\}",
    re.DOTALL,
)
_HARMONY = re.compile(r"<\|start\|>assistant|<\|channel\|>(?:final|commentary)<\|message\|>")
_SPECIAL = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<｜[^<>｜]{1,40}｜>|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>|\[/?INST\]"
    r"|\[UNUSED_TOKEN_\d+\]|<0x[0-9A-F]{2}>"
)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[\w+-]*[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+", re.MULTILINE)
# Only marks that wrap words, so that 2*3*4 and a_b_c stay what they are.
_EMPHASIS = (
    re.compile(r"\*\*\*([^*\n]+)\*\*\*"),
    re.compile(r"\*\*([^*\n]+)\*\*"),
    re.compile(r"(?<!\w)__([^_\n]+)__(?!\w)"),
    re.compile(r"(?<![\w*])\*(?! )([^*\n]+)(?<! )\*(?![\w*])"),
    re.compile(r"``?([^`\n]+)``?"),
)


def answer_text(answer: str, *, marks: bool = False) -> str:
    """The part of an answer that is scored. `marks`: keep emphasis, which may be part of what was read."""
    text = _without_reasoning(answer)
    framed = list(_ANSWER.finditer(text))
    if framed:
        text = framed[-1][str(framed[-1].lastgroup)]
    text = _FENCE.sub("", _SPECIAL.sub("", text))
    if not marks:
        text = _HEADING.sub("", text)
        for emphasis in _EMPHASIS:
            text = emphasis.sub(r"\1", text)
    return text.strip()


def _without_reasoning(text: str) -> str:
    for opening, closing in _REASONING:
        kept, rest = [], text
        while (start := rest.find(opening)) >= 0:
            kept.append(rest[:start])
            _, found, rest = rest[start + len(opening) :].partition(closing)
            if not found:  # cut off
                rest = ""
        text = "".join((*kept, rest))
        if closing != "<|end|>":
            text = text.rpartition(closing)[2]
    return _HARMONY.sub("", text)
