"""A context of many sequences.

With one cache for all of them (kv_unified) a prompt's prefix is decoded once, in sequence 0, and the others share it:
sharing marks cells and copies nothing. With a cache for each nothing is shared, and no other sequence's cells are in
the way: on an H200 a step of 24 sequences with 700 tokens each then takes less than half as long.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from threading import Event
from typing import NamedTuple

from llama_cpp import llama_cpp as C

from playground.engine.context import SCORED_AT_ONCE, Context, ContextKey
from playground.engine.importance import Importance
from playground.engine.protocol import EncodedPrompt, TextChunk, n_tokens


class Row(NamedTuple):
    """One token of a batch."""

    token: int
    position: int
    sequence: int
    wants_logits: bool


class SequenceContext(Context):
    """Its sequences are 1 to n. With one cache, llama.cpp's sequence 0 holds the newest prefix, as Context keeps the
    chunks of the last prompt; with a cache for each, llama.cpp counts them from 0."""

    def __init__(self, model: C.llama_model_p, key: ContextKey, importance: Importance | None) -> None:
        super().__init__(model, key, importance)
        self.n_outputs = min(max(SCORED_AT_ONCE, key.n_outputs), key.n_batch)
        self._first = int(key.kv_unified)  # llama.cpp's number of sequence 1
        ids = self._ids = (C.llama_seq_id * (1 + key.n_sequences))(*range(1 + key.n_sequences))
        self._id_of = [ctypes.cast(ctypes.byref(ids, 4 * i), ctypes.POINTER(C.llama_seq_id)) for i in range(len(ids))]
        self._mixed_ids = (ctypes.POINTER(C.llama_seq_id) * self._n_ubatch)()

    def begin(self, sequence: int, prompt: EncodedPrompt, cancelled: Event) -> tuple[tuple[int, ...], int, int]:
        """Let a sequence start with a prompt's prefix: everything up to its last image.

        Returns the tokens that are left to decode, the position of their first one, and how many tokens of the prefix
        were in the cache. Raises Interrupted, EngineError.
        """
        chunks, n = prompt.chunks, len(prompt.prefix)
        self.end(sequence)
        if self.key.kv_unified:
            kept = self._keep(chunks[:n])
        else:
            kept, self._sequence[0] = 0, self._number(sequence)
            self.forget()
        self._read_chunks(chunks[kept:n], cancelled, logits=False)
        if n and self.key.kv_unified:
            C.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
        rest = tuple(token for chunk in chunks[n:] if isinstance(chunk, TextChunk) for token in chunk.token_ids)
        return rest, self._n_pos, sum(map(n_tokens, chunks[:kept]))

    def end(self, sequence: int) -> None:
        """Free the cells that no other sequence shares."""
        C.llama_memory_seq_rm(self._memory, self._number(sequence), -1, -1)

    def _number(self, sequence: int) -> int:
        return sequence - 1 + self._first

    def forget(self) -> None:
        """Drop the newest prefix; the sequences that share it keep it."""
        C.llama_memory_seq_rm(self._memory, self._sequence[0], -1, -1)
        self._kept.clear()
        self._n_pos = 0

    def clear(self) -> None:
        """Drop everything."""
        super().forget()

    def decode(self, rows: Sequence[Row]) -> None:
        """Decode up to n_batch tokens of any sequences. Raises EngineError."""
        for i, row in enumerate(rows):
            self._tokens[i] = row.token
            self._positions[i] = row.position
            self._mixed_ids[i] = self._id_of[self._number(row.sequence)]
            self._wants_logits[i] = row.wants_logits
        batch = self._batch(len(rows))
        batch.seq_id = self._mixed_ids
        self._decode(batch)
