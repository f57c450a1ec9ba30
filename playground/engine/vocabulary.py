"""A language model's vocabulary: token ids, their bytes, and the special ones."""

from __future__ import annotations

import ctypes

from llama_cpp import llama_cpp as C


class Vocabulary:
    """The bytes of each token id, and the ids with a special meaning."""

    def __init__(self, model: C.llama_model_p) -> None:
        self._vocab = C.llama_model_get_vocab(model)
        self.n_tokens: int = C.llama_vocab_n_tokens(self._vocab)
        self._pieces: dict[int, bytes] = {}

    @property
    def handle(self) -> C.llama_vocab_p:
        """llama.cpp's own, for as long as its model is loaded."""
        return self._vocab

    def ends_text(self, token_id: int) -> bool:
        return bool(C.llama_vocab_is_eog(self._vocab, token_id))

    def special_text(self, token_id: int) -> str:
        """The text of a control token, such as <s>, for a chat template; empty if the id is invalid or has no text."""
        if token_id < 0:
            return ""
        text = C.llama_vocab_get_text(self._vocab, token_id)
        return text.decode("utf-8", "replace") if text else ""

    @property
    def bos(self) -> str:
        return self.special_text(C.llama_vocab_bos(self._vocab))

    @property
    def eos(self) -> str:
        return self.special_text(C.llama_vocab_eos(self._vocab))

    @property
    def adds_bos(self) -> bool:
        return bool(C.llama_vocab_get_add_bos(self._vocab))

    def any_token(self) -> int:
        """A token id that certainly exists, for warming up."""
        bos = int(C.llama_vocab_bos(self._vocab))
        return bos if bos >= 0 else 0

    def token_ids(self, text: str) -> tuple[int, ...]:
        """Of a text that stands in the middle of others: no special tokens are added, and none is read from it."""
        data = text.encode()
        ids = (C.llama_token * (len(data) + 1))()
        n = C.llama_tokenize(self._vocab, data, len(data), ids, len(ids), False, False)
        return tuple(ids[: max(n, 0)])

    def piece(self, token_id: int) -> bytes:
        """The bytes that a token adds to the text; empty for a control token."""
        known = self._pieces.get(token_id)
        if known is None:
            buffer = ctypes.create_string_buffer(64)
            length = C.llama_token_to_piece(self._vocab, token_id, buffer, len(buffer), 0, False)
            if length < 0:
                buffer = ctypes.create_string_buffer(-length)
                length = C.llama_token_to_piece(self._vocab, token_id, buffer, len(buffer), 0, False)
            known = self._pieces[token_id] = buffer.raw[:length]
        return known
