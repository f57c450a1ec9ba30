"""A language model's vocabulary: token ids, their bytes, and the special ones."""

from __future__ import annotations

import ctypes
import re

from llama_cpp import llama_cpp as C

# The attributes of tokens that llama.cpp hides unless they are asked for.
_CONTROL = C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN
# Control tokens that chat templates put around turns. llama.cpp counts most of those that end one as end of text.
_TURN = re.compile(
    r"<\|?/?(?:im_start|im_end|im_user|im_assistant|im_system|im_middle|start_of_turn|end_of_turn|turn|eot_id|eom_id"
    r"|start_header_id|end_header_id|begin_of_text|user|assistant|system|observation|endoftext)\|?>|\[/?INST\]"
)


class Vocabulary:
    """The bytes of each token id, and the ids with a special meaning."""

    def __init__(self, model: C.llama_model_p) -> None:
        self._vocab = C.llama_model_get_vocab(model)
        self.n_tokens: int = C.llama_vocab_n_tokens(self._vocab)
        self._pieces: dict[int, bytes] = {}
        self._writers: dict[bytes, tuple[int, ...]] = {}  # made when it is first wanted: 150,000 tokens take 0.3 s

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

    def token_ids(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """Of a text that stands in the middle of others: no special tokens are added.

        special: control tokens are read from it.
        """
        data = text.encode()
        ids = (C.llama_token * (len(data) + 1))()
        n = C.llama_tokenize(self._vocab, data, len(data), ids, len(ids), False, special)
        return tuple(ids[: max(n, 0)])

    def is_control(self, token_id: int) -> bool:
        """Whether llama.cpp hides it from an answer, unless it is asked for."""
        return bool(C.llama_vocab_get_attr(self._vocab, token_id) & _CONTROL)

    def is_named(self, token_id: int) -> bool:
        """Whether it stands for something that is not text, such as a location: by its type, whatever its look.

        Converters also add runs of spaces and line breaks with a type of their own; these are text.
        """
        if self.is_control(token_id):
            return True
        defined = C.llama_vocab_get_attr(self._vocab, token_id) & C.LLAMA_TOKEN_ATTR_USER_DEFINED
        return bool(defined) and bool(self.text_bytes(token_id).strip())

    def piece(self, token_id: int) -> bytes:
        """The bytes that a token adds to the answer; empty for the control tokens that end a text or frame a turn."""
        known = self._pieces.get(token_id)
        if known is None:
            known = self._pieces[token_id] = b"" if self._frames(token_id) else self.text_bytes(token_id)
        return known

    def text_bytes(self, token_id: int) -> bytes:
        """The bytes of any token, control tokens included."""
        buffer = ctypes.create_string_buffer(64)
        length = C.llama_token_to_piece(self._vocab, token_id, buffer, len(buffer), 0, True)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = C.llama_token_to_piece(self._vocab, token_id, buffer, len(buffer), 0, True)
        return buffer.raw[:length]

    def tokens_that_write(self, piece: bytes) -> tuple[int, ...]:
        """All tokens of these bytes; those that stand for one raw byte are left out where there are others."""
        if not self._writers:
            for token in range(self.n_tokens):
                text = self.text_bytes(token)
                self._writers[text] = (*self._writers.get(text, ()), token)
        tokens = self._writers.get(piece, ())
        whole = tuple(token for token in tokens if not self._is_raw_byte(token))
        return whole or tokens

    def _is_raw_byte(self, token_id: int) -> bool:
        return bool(C.llama_vocab_get_attr(self._vocab, token_id) & C.LLAMA_TOKEN_ATTR_BYTE)

    def _frames(self, token_id: int) -> bool:
        if not self.is_control(token_id):
            return False
        ends = (C.llama_vocab_bos, C.llama_vocab_eos, C.llama_vocab_eot, C.llama_vocab_sep, C.llama_vocab_pad)
        if self.ends_text(token_id) or token_id in [token(self._vocab) for token in ends]:
            return True
        return _TURN.fullmatch(self.special_text(token_id)) is not None
