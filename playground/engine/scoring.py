"""Probabilities of the tokens of an answer: scores, records, and the drift from a record."""

from __future__ import annotations

import codecs
import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any, NamedTuple

from playground.engine import ggml
from playground.engine.language import LanguageModel
from playground.engine.protocol import Measure, Record, Score
from playground.engine.vocabulary import Vocabulary
from playground.errors import EngineError
from playground.values.answer import Candidate, TokenDrift, TokenScore

_N_CANDIDATES = 5
_NO_RECORD = "The record is not there: the machine that had it was lost."
_OTHER_RECORD = "The reference's record belongs to another vocabulary or answer."


class Likelihoods(NamedTuple):
    """Softmaxes over the vocabulary, one for each row: float32 in few passes, their sums in float64.

    A drift takes a ninth of the time that float64 takes, and is as close to the exact one (bench/README.md).
    """

    shifted: Any  # float32 (rows, n_vocabulary): logits, less the largest one of each row
    log_totals: Any  # float64 (rows): of the sums of their exponentials

    def of(self, tokens: Sequence[int]) -> Any:
        """float64 (tokens): the natural logarithms of their probabilities. One token for each row, in their order."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        n = len(tokens)
        return self.shifted[numpy.arange(n), list(tokens)].astype(numpy.float64) - self.log_totals[:n]

    def as_record(self, dtype: str) -> bytes:
        """The natural logarithms of all probabilities."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        totals = self.log_totals[:, None]
        if dtype == "float16":
            return bytes(ggml.to_float16(self.shifted - totals.astype(numpy.float32)).tobytes())
        rows = numpy.empty(self.shifted.shape, dtype)
        numpy.subtract(self.shifted, totals, out=rows, dtype=numpy.float64, casting="unsafe")
        return rows.tobytes()


def likelihoods(logits: Any) -> Likelihoods:
    """logits: float32 (rows, n_vocabulary)."""
    import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

    shifted = logits - logits.max(axis=1, keepdims=True)
    return Likelihoods(shifted, numpy.log(numpy.exp(shifted).sum(axis=1, dtype=numpy.float64)))


def score(model: LanguageModel, request: Score, *, cancelled: Event) -> tuple[TokenScore, ...]:
    """The probability of each token of an answer, and the most likely tokens in its place, from the model's own logits.

    Returns one entry for each token, and one for what would follow the last. Raises Interrupted, EngineError.
    """
    scores = Scores(model.vocabulary, request.n_candidates)
    for token, logits in zip((*request.token_ids, None), _logits(model, request, cancelled), strict=True):
        scores.push(token, logits)
    return scores.taken


class Scores:
    """Owns the scores of an answer as its tokens come."""

    def __init__(self, vocabulary: Vocabulary, n_candidates: int) -> None:
        self._vocabulary = vocabulary
        self._n_candidates = n_candidates
        self._decoder = _decoder()
        self._scores: list[TokenScore] = []

    @property
    def taken(self) -> tuple[TokenScore, ...]:
        """Their texts join to what was written."""
        return tuple(self._scores)

    def push(self, token: int | None, logits: Any) -> None:
        """`logits`: what the token was chosen from. None: nothing follows."""
        likely = likelihoods(logits[None])
        (candidates,) = _likeliest(self._vocabulary, likely, self._n_candidates)
        self._scores.append(
            TokenScore(
                text=self._decoder.decode(self._vocabulary.piece(token)) if token is not None else "",
                probability=math.exp(likely.of([token])[0]) if token is not None else None,
                candidates=candidates,
            )
        )


def record(model: LanguageModel, request: Record, *, cancelled: Event) -> int:
    """Write the log probabilities at each token of an answer, and after the last one, to a file for `measure`.

    Returns the number of tokens in the vocabulary. Raises Interrupted, EngineError.
    """
    with open(request.path, "wb") as file:
        for logits in _logits(model, request, cancelled):
            file.write(likelihoods(logits[None]).as_record(request.dtype))
    return model.vocabulary.n_tokens


def measure(model: LanguageModel, request: Measure, *, cancelled: Event) -> tuple[TokenDrift, ...]:
    """Compare with what a reference of the same vocabulary recorded for the same answer.

    What was rounded is brought to a sum of 1 again: else rounding to 16 bits alone shows as 2e-5 nats a token.
    Returns one entry for each token, and one for what would follow the last. Raises Interrupted; EngineError for a
    record of another shape, and if the model's logits are NaN or infinite.
    """
    drifts: list[TokenDrift] = []
    record = recorded(model.vocabulary, request.path, request.dtype, len(request.token_ids) + 1)
    with open(request.own, "wb") if request.own else contextlib.nullcontext() as file:
        for text, logits in zip(
            texts(model.vocabulary, request.token_ids), _logits(model, request, cancelled), strict=True
        ):
            own = likelihoods(logits[None])
            if file is not None:
                file.write(own.as_record(request.dtype))
            drifts += record.drifts([text], own)
    return tuple(drifts)


class WholeRecord:
    """A record of all probabilities, read from its first row to its last."""

    def __init__(self, vocabulary: Vocabulary, path: str, dtype: str, n_rows: int) -> None:
        """Raises EngineError for a record of another shape."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        if os.path.getsize(path) != n_rows * vocabulary.n_tokens * numpy.dtype(dtype).itemsize:
            raise EngineError(_OTHER_RECORD)
        self._vocabulary = vocabulary
        # Mapped, not read: 16 answers at a vocabulary of 260,000 take 1 GB.
        self._rows = numpy.memmap(path, dtype, "r", shape=(n_rows, vocabulary.n_tokens))
        self._at = 0

    def drifts(self, texts: Sequence[str], own: Likelihoods) -> list[TokenDrift]:
        """Of the next rows: from the tokens' texts, and a variant's softmaxes in their places."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        rows = self._rows[self._at : self._at + len(texts)]
        self._at += len(texts)
        theirs = ggml.to_float32(rows) if rows.dtype == numpy.float16 else rows
        weights = numpy.exp(theirs)
        totals = weights.sum(axis=1, dtype=numpy.float64)
        weights *= theirs - own.shifted
        kls = weights.sum(axis=1, dtype=numpy.float64) / totals - numpy.log(totals) + own.log_totals
        references = _likeliest(self._vocabulary, Likelihoods(theirs, numpy.log(totals)))
        return [
            TokenDrift(
                text=text,
                # Rounding takes it a little below 0 where both are the same.
                kl=max(0.0, kl),
                same_top=reference[0].token_id == variant[0].token_id,
                reference=reference,
                variant=variant,
            )
            for text, kl, reference, variant in zip(
                texts, kls.tolist(), references, _likeliest(self._vocabulary, own), strict=True
            )
        ]


class LikeliestRecord:
    """A record of the likeliest tokens alone, of a reference pack. Otherwise as WholeRecord.

    All other tokens count as one: the KL is a lower bound of that over the whole vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, path: str, n_rows: int) -> None:
        """Raises EngineError for a record of another shape."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        with numpy.load(path, allow_pickle=False) as record:
            counts, ids, likely, rest = (record[name] for name in ("counts", "ids", "log_probabilities", "rest"))
            if int(record["n_vocabulary"]) != vocabulary.n_tokens or len(counts) != n_rows:
                raise EngineError(_OTHER_RECORD)
        self._vocabulary = vocabulary
        ends = numpy.cumsum(counts)[:-1]
        # The likeliest tokens first; none where nothing is known. `rest`: the natural logarithm of what the others have
        # together.
        self._rows = zip(numpy.split(ids, ends), numpy.split(likely, ends), rest.tolist(), strict=True)

    def drifts(self, texts: Sequence[str], own: Likelihoods) -> list[TokenDrift]:
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        drifts = []
        own_rows = own.shifted.astype(numpy.float64) - own.log_totals[:, None]
        variants = _likeliest(self._vocabulary, own)
        for text, row, variant in zip(texts, own_rows, variants, strict=True):
            ids, likely, rest = next(self._rows)
            theirs = likely.astype(numpy.float64)
            kl = float((numpy.exp(theirs) * (theirs - row[ids])).sum())
            if rest > -math.inf:
                others = numpy.ones(len(row), bool)
                others[ids] = False
                own_rest = float(numpy.exp(row[others]).sum())
                kl += math.exp(rest) * (rest - math.log(max(own_rest, sys.float_info.min)))
            first = zip(ids[:_N_CANDIDATES].tolist(), theirs[:_N_CANDIDATES].tolist(), strict=True)
            drifts.append(
                TokenDrift(
                    text=text,
                    kl=max(0.0, kl),
                    same_top=not len(ids) or int(ids[0]) == variant[0].token_id,
                    reference=tuple(Candidate(id, _shown(self._vocabulary, id), math.exp(p)) for id, p in first),
                    variant=variant,
                )
            )
        return drifts


def recorded(vocabulary: Vocabulary, path: str, dtype: str, n_rows: int) -> WholeRecord | LikeliestRecord:
    """Raises EngineError for a record of another shape, and for one that is not there."""
    if not os.path.exists(path):
        raise EngineError(_NO_RECORD)
    if path.endswith(".npz"):
        return LikeliestRecord(vocabulary, path, n_rows)
    return WholeRecord(vocabulary, path, dtype, n_rows)


def texts(vocabulary: Vocabulary, token_ids: Sequence[int]) -> Iterator[str]:
    """The text of each token, so that they join to the answer; then an empty text for the position after the last."""
    decoder = _decoder()
    for token in token_ids:
        yield decoder.decode(vocabulary.piece(token))
    yield ""


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")


def _likeliest(vocabulary: Vocabulary, likely: Likelihoods, n: int = _N_CANDIDATES) -> list[tuple[Candidate, ...]]:
    """Of each row; the first of those that are equally likely first.

    One pass for each candidate: a partition takes longer than twenty.
    """
    import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

    left = likely.shifted.copy()
    n_rows, n_tokens = left.shape
    found: list[list[Candidate]] = [[] for _ in range(n_rows)]
    for _ in range(min(n, n_tokens)):
        tokens = left.argmax(axis=1).tolist()
        for candidates, token, log_probability in zip(found, tokens, likely.of(tokens).tolist(), strict=True):
            candidates.append(Candidate(token, _shown(vocabulary, token), math.exp(log_probability)))
        left[numpy.arange(n_rows), tokens] = -math.inf
    return [tuple(candidates) for candidates in found]


def _shown(vocabulary: Vocabulary, token: int) -> str:
    piece = vocabulary.piece(token)
    return piece.decode("utf-8", "replace") if piece else vocabulary.special_text(token)


def _logits(model: LanguageModel, request: Score | Record | Measure, cancelled: Event) -> Iterator[Any]:
    return model.logits(request.prompt, request.token_ids, request.runtime, cancelled)
