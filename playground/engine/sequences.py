"""A context of many sequences.

With one cache for all of them (kv_unified) a prompt's prefix is decoded once, in sequence 0, and the others share it:
sharing marks cells and copies nothing. With a cache for each a prefix is copied, and no other sequence's cells are in
the way: on an H200 a step of 24 sequences with 700 tokens each then takes less than half as long.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterator, Mapping, Sequence
from threading import Event
from typing import Any, NamedTuple

from llama_cpp import llama_cpp as C

from playground.engine.context import SCORED_AT_ONCE, Context, ContextKey, chunk_key, fill
from playground.engine.importance import Importance
from playground.engine.protocol import EncodedPrompt, ImageChunk, TextChunk, n_tokens
from playground.engine.token_rows import TokenRows

_PROBE = (101, 57, 23, 8, 211, 77)  # tokens that tell whether a model computes the same from their rows
_SAME = 1e-3  # of the largest logit; a wrong factor or missing ids change far more, other batches less


class Row(NamedTuple):
    """One token of a batch."""

    token: int
    position: int
    sequence: int
    wants_logits: bool


class Begun(NamedTuple):
    """A sequence whose prompt is in the cache, up to its last image at least."""

    pending: tuple[int, ...]  # tokens that are left to decode, one at least
    position: int  # of the first of them
    reused: int  # tokens of the prompt that were in the cache before


class _Whole(NamedTuple):
    """Text and images as one batch of embeddings."""

    pieces: list[bytes]  # embeddings of each chunk
    n: int
    sections: list[array[int]]  # positions; with M-RoPE t, y, x, z
    ends: list[int]  # the position behind each chunk


def _rest(prompt: EncodedPrompt) -> tuple[int, ...]:
    """The tokens behind the last image."""
    chunks = prompt.chunks[len(prompt.prefix) :]
    return tuple(token for chunk in chunks if isinstance(chunk, TextChunk) for token in chunk.token_ids)


def _alike(prompts: Mapping[int, EncodedPrompt]) -> dict[int, list[int]]:
    """The first sequence with each prefix that several have, and the others with it."""
    numbers: dict[tuple[object, ...], list[int]] = {}
    for number in sorted(prompts):
        if prompts[number].prefix:
            numbers.setdefault(tuple(map(chunk_key, prompts[number].prefix)), []).append(number)
    return {first: others for first, *others in numbers.values() if others}


def _cut(prompt: EncodedPrompt, n: int) -> tuple[tuple[TextChunk | ImageChunk, ...], tuple[int, ...]]:
    """The first n tokens, but all up to the last image, and what is left: one token at least."""
    prefix, rest = prompt.prefix, _rest(prompt)
    n_text = min(max(0, n - sum(map(n_tokens, prefix))), len(rest) - 1)
    return (*prefix, TextChunk(rest[:n_text])) if n_text else prefix, rest[n_text:]


class SequenceContext(Context):
    """Its sequences are 1 to n. With one cache, llama.cpp's sequence 0 holds the newest prefix, as Context keeps the
    chunks of the last prompt; with a cache for each, llama.cpp counts them from 0."""

    def __init__(self, model: C.llama_model_p, key: ContextKey, importance: Importance | None) -> None:
        super().__init__(model, key, importance)
        self.n_outputs = min(max(SCORED_AT_ONCE, key.n_outputs), key.n_batch)
        self._first = int(key.kv_unified)  # llama.cpp's number of sequence 1
        ids = self._ids = (C.llama_seq_id * (1 + key.n_sequences))(*range(1 + key.n_sequences))
        self._id_of = [ctypes.cast(ctypes.byref(ids, 4 * i), ctypes.POINTER(C.llama_seq_id)) for i in range(len(ids))]
        self._rows: TokenRows | None = None
        self._embeddings: ctypes.Array[ctypes.c_char] | None = None  # of a batch of several prompts
        self._n_vocab: int = C.llama_vocab_n_tokens(C.llama_model_get_vocab(model))
        self._has_sections = C.llama_model_rope_type(model) in (C.LLAMA_ROPE_TYPE_MROPE, C.LLAMA_ROPE_TYPE_IMROPE)
        self._mixed_ids = (ctypes.POINTER(C.llama_seq_id) * self._n_ubatch)()

    def begin(self, sequence: int, prompt: EncodedPrompt, cancelled: Event) -> Begun:
        """Let a sequence start with a prompt up to its last image. Raises Interrupted, EngineError."""
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
        return Begun(_rest(prompt), self._n_pos, sum(map(n_tokens, chunks[:kept])))

    def use_rows(self, rows: TokenRows, scales: Sequence[float]) -> bool:
        """Look up the text of prompts in `rows` from now on, if this model computes the same from them as from tokens.

        `scales`: by which its graph may multiply tokens' rows. Raises EngineError.
        """
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        ids = [n % self._n_vocab for n in _PROBE]

        def logits() -> Any:
            row = numpy.ctypeslib.as_array(C.llama_get_logits_ith(self.handle, -1), (self._n_vocab,)).astype("float64")
            self.clear()
            return row - row.mean()

        self.clear()
        self._decode(self._text_batch(ids, n_logits=1))
        expected = logits()
        for scale in scales:
            rows.scale = scale
            positions = self._text_positions(0, len(ids))
            self._decode_embeddings(rows.of(ids), len(ids), positions, None, logits=True)
            if float(numpy.abs(logits() - expected).max()) <= _SAME * float(numpy.abs(expected).max()):
                self._rows = rows
                self._embeddings = ctypes.create_string_buffer(4 * rows.width * self._n_ubatch)
                return True
        return False

    def _text_positions(self, first: int, n: int) -> array[int]:
        """Of n tokens as embeddings. With M-RoPE llama.cpp gives tokens the same number three times, and a zero."""
        numbers = array("i", range(first, first + n))
        return numbers * 3 + array("i", bytes(4 * n)) if self._has_sections else numbers

    def _decode_chunks(self, chunks: Sequence[TextChunk | ImageChunk], cancelled: Event, *, logits: bool) -> None:
        """In one batch of embeddings, where that can be."""
        if not self._is_whole(chunks):
            super()._decode_chunks(chunks, cancelled, logits=logits)
            return
        whole = self._whole(chunks, self._n_pos)
        positions = array("i", b"".join(section.tobytes() for section in whole.sections))
        self._decode_embeddings(b"".join(whole.pieces), whole.n, positions, cancelled, logits=logits)
        self._n_pos = whole.ends[-1]
        self._kept += [(chunk_key(chunk), end) for chunk, end in zip(chunks, whole.ends, strict=True)]

    def _is_whole(self, chunks: Sequence[TextChunk | ImageChunk]) -> bool:
        """Whether text and images can be one batch: the model computes the same from its text's rows, and every image
        has a causal mask."""
        images = [chunk for chunk in chunks if isinstance(chunk, ImageChunk)]
        return self._rows is not None and bool(images) and not any(image.non_causal for image in images)

    def _whole(self, chunks: Sequence[TextChunk | ImageChunk], position: int) -> _Whole:
        assert self._rows is not None
        pieces, ends, count = [], [], 0
        sections = [array("i") for _ in range(4 if self._has_sections else 1)]
        for chunk in chunks:
            n = n_tokens(chunk)
            if isinstance(chunk, TextChunk):
                pieces.append(self._rows.of(chunk.token_ids))
                positions, step = self._text_positions(position, n), n
            else:
                pieces.append(chunk.embeddings)
                positions, step = array("i", chunk.positions or range(position, position + n)), chunk.n_pos
            for k, section in enumerate(sections):
                section.extend(positions[k * n : (k + 1) * n])
            count, position = count + n, position + step
            ends.append(position)
        return _Whole(pieces, count, sections, ends)

    def begin_together(
        self, prompts: Mapping[int, EncodedPrompt], cancelled: Event, *, with_text: bool = False
    ) -> Iterator[dict[int, Begun]]:
        """As `begin`, for several sequences: those of one batch at a time. With a cache for each, as many prompts are
        one batch as fit into it, and what is about one picture is decoded once and copied. A GPU computes one batch
        while the next one is made.

        `with_text`: where they can be, with as much of the text behind their last images as each of them has, but for
        the last token, whose logits are wanted. llama.cpp computes only what is of one length together.
        """
        alike = {} if self.key.kv_unified else _alike(prompts)
        others = {number for numbers in alike.values() for number in numbers}
        read = {number: prompt for number, prompt in prompts.items() if number not in others}
        later: dict[int, Begun] = {}
        for pack, together in self._packs(read, with_text=with_text):
            if together:
                n = min(prompts[number].n_tokens for number in pack) - 1 if with_text else 0
                parts = {number: _cut(prompts[number], 0 if number in alike else n) for number in pack}
                wholes = {number: self._whole(chunks, 0) for number, (chunks, _) in parts.items()}
                self._decode_pack(wholes, cancelled)
                begun = {number: Begun(rest, wholes[number].ends[-1], 0) for number, (_, rest) in parts.items()}
            else:
                begun = {number: self.begin(number, prompts[number], cancelled) for number in pack}
            for number in alike.keys() & begun.keys():
                later[number] = begun.pop(number)
                for other in alike[number]:
                    later[other] = self._copied(prompts[other], later[number], number, other)
            yield begun
        yield self._with_texts(later) if with_text else later

    def _with_texts(self, begun: Mapping[int, Begun]) -> dict[int, Begun]:
        """Decode as many of their pending tokens as each of them has, but for the last one."""
        n = min(self._n_ubatch, *(len(start.pending) - 1 for start in begun.values())) if begun else 0
        numbers = sorted(begun)
        step = max(1, self._n_ubatch // max(1, n))
        for first in range(0, len(numbers) if n else 0, step):
            rows = [
                Row(token, begun[number].position + i, number, False)
                for number in numbers[first : first + step]
                for i, token in enumerate(begun[number].pending[:n])
            ]
            self.decode(rows)
        return {
            number: start._replace(pending=start.pending[n:], position=start.position + n)
            for number, start in begun.items()
        }

    def _copied(self, prompt: EncodedPrompt, begun: Begun, source: int, target: int) -> Begun:
        """Begin a sequence with the prefix of another one, which has nothing behind it yet."""
        self.end(target)
        C.llama_memory_seq_cp(self._memory, self._number(source), self._number(target), -1, -1)
        return Begun(_rest(prompt), begun.position, sum(map(n_tokens, prompt.prefix)))

    def _packs(self, prompts: Mapping[int, EncodedPrompt], *, with_text: bool) -> Iterator[tuple[list[int], bool]]:
        """Sequences, and whether their prompts are one batch."""
        pack: list[int] = []
        room = self._n_ubatch
        for number in sorted(prompts):  # llama.cpp computes those together whose numbers follow one another
            prompt = prompts[number]
            n = prompt.n_tokens if with_text else sum(map(n_tokens, prompt.prefix))
            fits = not self.key.kv_unified and self._is_whole(prompt.prefix) and n <= self._n_ubatch
            if pack and (not fits or n > room):
                yield pack, True
                pack, room = [], self._n_ubatch
            if fits:
                pack.append(number)
                room -= n
            else:
                yield [number], False
        if pack:
            yield pack, True

    def _decode_pack(self, wholes: Mapping[int, _Whole], cancelled: Event) -> None:
        assert self._embeddings is not None
        for number in wholes:
            self.end(number)
        self._kept.clear()
        at, total, filled = 0, sum(whole.n for whole in wholes.values()), ctypes.addressof(self._embeddings)
        ctypes.memset(self._wants_logits, 0, total)
        for number, whole in wholes.items():
            for k, section in enumerate(whole.sections):
                fill(self._positions, section, k * total + at)
            self._mixed_ids[at : at + whole.n] = [self._id_of[self._number(number)]] * whole.n
            at += whole.n
            for piece in whole.pieces:  # into memory that is there: 19 MB of new pages take as long as copying them
                ctypes.memmove(filled, piece, len(piece))
                filled += len(piece)
        batch = self._batch(total)
        batch.token, batch.seq_id = None, self._mixed_ids
        batch.embd = ctypes.cast(self._embeddings, ctypes.POINTER(ctypes.c_float))
        with self._listening(cancelled):
            self._decode(batch, cancelled)

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
