"""Tells a model's reasoning from its answer, while both are written or afterwards. Pure.

Page, command line, API, exports and scores all read an answer here. docs/metrics.md lists the marks for readers.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class _Marks(NamedTuple):
    """How a family of models frames its reasoning. `anywhere`: it may come again behind the beginning of the answer."""

    opening: str
    closing: str
    anywhere: bool = False


_MARKS = (
    _Marks("<think>", "</think>"),
    _Marks("<thinking>", "</thinking>"),
    _Marks("<thought>", "</thought>"),
    _Marks("<reasoning>", "</reasoning>"),
    _Marks("<seed:think>", "</seed:think>"),
    _Marks("[THINK]", "[/THINK]"),
    _Marks("◁think▷", "◁/think▷"),
    _Marks("<|begin_of_thought|>", "<|end_of_thought|>"),
    _Marks("<|START_THINKING|>", "<|END_THINKING|>"),
    _Marks("<|inner_prefix|>", "<|inner_suffix|>", anywhere=True),
    _Marks("<|channel>thought", "<channel|>", anywhere=True),
    _Marks("<|channel|>analysis<|message|>", "<|end|>", anywhere=True),
)
_OPENINGS = {marks.opening: marks for marks in _MARKS}
# Without its opening it ends a reasoning that the chat template opened. <|end|> ends other things too.
_CLOSINGS = {marks.closing for marks in _MARKS} - {"<|end|>"}
# What gpt-oss writes before an answer. It belongs to neither.
_HEADERS = {"<|start|>assistant", "<|channel|>final<|message|>", "<|channel|>commentary<|message|>"}

_OUTSIDE = (*_OPENINGS, *_CLOSINGS, *_HEADERS)
_MARK = re.compile("|".join(re.escape(mark) for mark in sorted(_OUTSIDE, key=len, reverse=True)))


class Written(NamedTuple):
    """A stretch of what a model wrote, or all of it."""

    reasoning: str = ""
    answer: str = ""
    all_reasoned: bool = False  # what came before this stretch was reasoning, though it looked like an answer

    def then(self, following: Written) -> Written:
        """Both stretches as one."""
        if following.all_reasoned:
            return Written(self.reasoning + self.answer + following.reasoning, following.answer, all_reasoned=True)
        return Written(self.reasoning + following.reasoning, self.answer + following.answer, self.all_reasoned)


def opened_by(prompt: str) -> str | None:
    """The mark that closes the reasoning with which a rendered prompt ends; None if it opens none."""
    end = prompt[-100:].rstrip()
    return next((marks.closing for marks in _MARKS if end.endswith(marks.opening)), None)


def split(text: str, opened: str | None = None) -> Written:
    """Reasoning and answer of a whole text. `opened`: as in ReasoningReader."""
    return ReasoningReader(opened).push(text, last=True)


class ReasoningReader:
    """Splits a text that comes in stretches. White space around the reasoning is left out.

    `closing` is the mark that would end the reasoning that is being written now; None outside of it. At first it is
    what `opened_by` found in the prompt.
    """

    def __init__(self, opened: str | None = None) -> None:
        self.closing = opened
        self.begun = False  # the answer has a character that is not white space
        self._held = ""  # undecided: white space, and what may become a mark
        self._trims = opened is not None  # white space is to be left out until another character comes

    def push(self, text: str, *, last: bool = False) -> Written:
        """What is now certain. `last`: no more text comes."""
        text, self._held = self._held + text, ""
        written = Written()
        while text:
            text, stretch = self._outside(text, last) if self.closing is None else self._inside(text, last)
            written = written.then(stretch)
        return written

    def _inside(self, text: str, last: bool) -> tuple[str, Written]:
        """The text that is still to be read, and what the text before it is."""
        assert self.closing is not None
        at = text.find(self.closing)
        if at >= 0:
            rest = text[at + len(self.closing) :]
            reasoning = self._trimmed(text[:at].rstrip())
            self.closing, self._trims = None, True
            return rest, Written(reasoning)
        end = len(text) if last else len(text[: len(text) - _begun_mark(text, (self.closing,))].rstrip())
        self._held = text[end:]
        return "", Written(self._trimmed(text[:end]))

    def _outside(self, text: str, last: bool) -> tuple[str, Written]:
        for match in _MARK.finditer(text):
            mark, before, rest = match[0], text[: match.start()], text[match.end() :]
            begun = self.begun or bool(before.strip())
            if mark in _HEADERS:
                answer = self._answer(before) if begun else ""
                self._trims = True
                return rest, Written(answer=answer)
            if mark in _CLOSINGS:
                reasoning = self._trimmed(before.rstrip())
                self.begun, self._trims = False, True
                return rest, Written(reasoning, all_reasoned=True)
            if _OPENINGS[mark].anywhere or not begun:
                answer = self._answer(before) if begun else ""
                self.closing, self._trims = _OPENINGS[mark].closing, True
                return rest, Written(answer=answer)
        if last:
            return "", Written(answer=self._answer(text))
        end = len(text) - _begun_mark(text, _OUTSIDE)
        if not self.begun and not text[:end].strip():
            end = 0
        self._held = text[end:]
        return "", Written(answer=self._answer(text[:end]))

    def _answer(self, text: str) -> str:
        text = self._trimmed(text)
        self.begun = self.begun or bool(text.strip())
        return text

    def _trimmed(self, text: str) -> str:
        if self._trims:
            text = text.lstrip()
            self._trims = not text
        return text


_LONGEST = max(map(len, _OUTSIDE))


def _begun_mark(text: str, marks: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that one of the marks begins with."""
    end = text[-_LONGEST:]
    starts = (at for at, character in enumerate(end) if character in "<[◁")
    return next((len(end) - at for at in starts if any(mark.startswith(end[at:]) for mark in marks)), 0)
