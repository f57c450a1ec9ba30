"""Text that can be shown, from the bytes of tokens as they come."""

from __future__ import annotations

import codecs
from collections.abc import Iterable


class TextStream:
    """Turns token bytes into text that can be shown: whole characters, without any part of a stop text."""

    def __init__(self, stop: Iterable[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = [s for s in stop if s]
        self._held = ""
        self.stopped = False

    @property
    def within_character(self) -> bool:
        """The last bytes are the beginning of a character."""
        return bool(self._decoder.getstate()[0])

    def push(self, piece: bytes, *, last: bool = False) -> str:
        """Returns the text that is now certain. Sets `stopped` once a stop text is complete."""
        text = self._held + self._decoder.decode(piece, final=last)
        self._held = ""
        positions = [position for s in self._stop if (position := text.find(s)) >= 0]
        if positions:
            self.stopped = True
            return text[: min(positions)]
        if not last:
            held = max((_overlap(text, s) for s in self._stop), default=0)
            if held:
                text, self._held = text[:-held], text[-held:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
