"""What is taken off an answer before it is scored: reasoning, special tokens, Markdown. Pure.

docs/metrics.md lists it for readers; this file is the one place that does it.
"""

from __future__ import annotations

import re

from playground.values.reasoning import split

# What families put round the answer itself. The last one counts.
_ANSWER = re.compile(
    r"<answer>(?P<answer>(?:(?!</?answer>).)*)(?:</answer>|\Z)"
    r"|<\|begin_of_box\|>(?P<box>(?:(?!<\|(?:begin|end)_of_box\|>).)*)(?:<\|end_of_box\|>|\Z)"
    r"|\\boxed\{(?:\\text\{)?(?P<boxed>[^{}]*)\}",
    re.DOTALL,
)
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
    text = split(answer).answer
    framed = list(_ANSWER.finditer(text))
    if framed:
        text = framed[-1][str(framed[-1].lastgroup)]
    text = _FENCE.sub("", _SPECIAL.sub("", text))
    if not marks:
        text = _HEADING.sub("", text)
        for emphasis in _EMPHASIS:
            text = emphasis.sub(r"\1", text)
    return text.strip()
