"""Chunks that can be shown, from the tokens of an answer as they come: reasoning apart, control tokens named."""

from __future__ import annotations

from collections.abc import Iterable

from playground.engine.protocol import Chunk
from playground.engine.text_stream import TextStream
from playground.engine.vocabulary import Vocabulary
from playground.values.reasoning import ReasoningReader, Written


class AnswerStream:
    """Owns what is known of one answer while it is written.

    opened: the mark that closes the reasoning which the prompt opened; None if it opened none.
    """

    def __init__(self, vocabulary: Vocabulary, stop: Iterable[str], opened: str | None) -> None:
        self._vocabulary = vocabulary
        self._text = TextStream(stop)
        self._reader = ReasoningReader(opened)
        self._raw: list[bytes] = []
        self._written = Written()
        self._ids: list[int] = []
        self._controls: dict[int, str] = {}  # by their ids
        self._forced = False
        self._n_tokens = 0
        self.reasoning_tokens = 0  # with the marks around it
        self._differs = False  # the raw text from the answer

    @property
    def stopped(self) -> bool:
        """A stop text is complete."""
        return self._text.stopped

    @property
    def in_reasoning(self) -> bool:
        return self._reader.closing is not None

    @property
    def raw(self) -> str | None:
        """The text with all its control tokens and the reasoning's marks; None if the answer is all of it."""
        return b"".join(self._raw).decode("utf-8", "replace") if self._differs else None

    def push(self, token: int) -> None:
        piece, shown = self._vocabulary.text_bytes(token), self._vocabulary.piece(token)
        self._raw.append(piece)
        self._ids.append(token)
        self._differs = self._differs or piece != shown
        was_inside = self.in_reasoning
        self._read(self._text.push(shown), 1)
        if shown and not was_inside and not self.in_reasoning and self._vocabulary.is_named(token):
            self._controls[token] = shown.decode("utf-8", "replace")

    def take(self) -> Chunk:
        """What came since the last chunk."""
        written, ids, controls = self._written, tuple(self._ids), self._controls
        self._written, self._ids, self._controls = Written(), [], {}
        names = tuple(dict.fromkeys(controls.values()))
        return Chunk(written.answer, ids, written.reasoning, written.all_reasoned, names, tuple(controls))

    def end(self) -> Chunk:
        """The last chunk, with what was held back."""
        rest = "" if self._text.stopped else self._text.push(b"", last=True)
        self._read(rest, 0, last=True)
        return self.take()

    def due(self, budget: int | None) -> tuple[int, ...]:
        """The tokens that have to come next because the reasoning has used up its budget: those of its closing mark.

        As llama.cpp does it: not within a character. Once for each reasoning.
        """
        closing = self._reader.closing
        if budget is None or closing is None:
            self._forced = False
            return ()
        if self._forced or self.reasoning_tokens < budget or self._text.within_character:
            return ()
        self._forced = True
        return self._vocabulary.token_ids(closing, special=True)

    def _read(self, text: str, n_tokens: int, *, last: bool = False) -> None:
        was_inside = self.in_reasoning
        stretch = self._reader.push(text, last=last)
        self._written = self._written.then(stretch)
        self._n_tokens += n_tokens
        if stretch.all_reasoned or (self.in_reasoning and not was_inside and not self._reader.begun):
            self.reasoning_tokens = self._n_tokens  # all until now: the mark, or what came before it
        elif was_inside or self.in_reasoning:
            self.reasoning_tokens += n_tokens
        self._differs = self._differs or bool(self.reasoning_tokens)
