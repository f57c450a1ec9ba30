"""Probabilities of the tokens of an answer: scores, records, and the drift from a record."""

from __future__ import annotations

import codecs
import contextlib
import functools
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from threading import Event
from typing import Any, NamedTuple

from playground.engine import ggml
from playground.engine.language import LanguageModel
from playground.engine.protocol import Measure, Record, Score
from playground.engine.vocabulary import Vocabulary
from playground.errors import EngineError
from playground.values.answer import Candidate, TokenDrift, TokenScore

_N_CANDIDATES = 5
_OTHER_RECORD = "The reference's record belongs to another vocabulary or answer."


class Likelihoods(NamedTuple):
    """A softmax over the vocabulary: float32 in few passes, its sums in float64.

    A drift takes a ninth of the time that float64 takes, and is as close to the exact one (bench/README.md).
    """

    shifted: Any  # float32 (n_vocabulary): logits, less the largest one
    log_total: float  # of the sum of their exponentials

    def of(self, token: int) -> float:
        """The natural logarithm of a token's probability."""
        return float(self.shifted[token]) - self.log_total

    def as_record(self, dtype: str) -> bytes:
        """The natural logarithms of all probabilities."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        if dtype == "float16":
            return bytes(ggml.to_float16(self.shifted - self.log_total).tobytes())
        row = numpy.empty(len(self.shifted), dtype)
        numpy.subtract(self.shifted, self.log_total, out=row, dtype=numpy.float64, casting="unsafe")
        return row.tobytes()


def likelihoods(logits: Any) -> Likelihoods:
    import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

    shifted = logits - logits.max()
    return Likelihoods(shifted, math.log(float(numpy.exp(shifted).sum(dtype=numpy.float64))))


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
        likely = likelihoods(logits)
        self._scores.append(
            TokenScore(
                text=self._decoder.decode(self._vocabulary.piece(token)) if token is not None else "",
                probability=math.exp(likely.of(token)) if token is not None else None,
                candidates=_likeliest(self._vocabulary, likely, self._n_candidates),
            )
        )


def record(model: LanguageModel, request: Record, *, cancelled: Event) -> int:
    """Write the log probabilities at each token of an answer, and after the last one, to a file for `measure`.

    Returns the number of tokens in the vocabulary. Raises Interrupted, EngineError.
    """
    with open(request.path, "wb") as file:
        for logits in _logits(model, request, cancelled):
            file.write(likelihoods(logits).as_record(request.dtype))
    return model.vocabulary.n_tokens


def measure(model: LanguageModel, request: Measure, *, cancelled: Event) -> tuple[TokenDrift, ...]:
    """Compare with what a reference of the same vocabulary recorded for the same answer.

    What was rounded is brought to a sum of 1 again: else rounding to 16 bits alone shows as 2e-5 nats a token.
    Returns one entry for each token, and one for what would follow the last. Raises Interrupted; EngineError for a
    record of another shape, and if the model's logits are NaN or infinite.
    """
    drifts = []
    rows = zip(
        texts(model.vocabulary, request.token_ids),
        recorded(model.vocabulary, request.path, request.dtype, len(request.token_ids) + 1),
        _logits(model, request, cancelled),
        strict=True,
    )
    with open(request.own, "wb") if request.own else contextlib.nullcontext() as file:
        for text, drift_from, logits in rows:
            own = likelihoods(logits)
            if file is not None:
                file.write(own.as_record(request.dtype))
            drifts.append(drift_from(text, own))
    return tuple(drifts)


# Of a token's text, and a variant's softmax in its place.
DriftFrom = Callable[[str, Likelihoods], TokenDrift]


def recorded(vocabulary: Vocabulary, path: str, dtype: str, n_rows: int) -> Iterator[DriftFrom]:
    """The drift from each position of a record. Raises EngineError for a record of another shape."""
    import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

    if path.endswith(".npz"):
        return _packed(vocabulary, path, n_rows)
    if os.path.getsize(path) != n_rows * vocabulary.n_tokens * numpy.dtype(dtype).itemsize:
        raise EngineError(_OTHER_RECORD)
    # Mapped, not read: 16 answers at a vocabulary of 260,000 take 1 GB.
    rows = numpy.memmap(path, dtype, "r", shape=(n_rows, vocabulary.n_tokens))
    return (functools.partial(_drift, vocabulary, row) for row in rows)


def _packed(vocabulary: Vocabulary, path: str, n_rows: int) -> Iterator[DriftFrom]:
    import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

    with numpy.load(path, allow_pickle=False) as record:
        counts, ids, likely, rest = (record[name] for name in ("counts", "ids", "log_probabilities", "rest"))
        if int(record["n_vocabulary"]) != vocabulary.n_tokens or len(counts) != n_rows:
            raise EngineError(_OTHER_RECORD)
    ends = numpy.cumsum(counts).tolist()
    kept = [slice(end - count, end) for end, count in zip(ends, counts.tolist(), strict=True)]
    return (
        functools.partial(_packed_drift, vocabulary, ids[part], likely[part], others)
        for part, others in zip(kept, rest.tolist(), strict=True)
    )


def _drift(vocabulary: Vocabulary, row: Any, text: str, own: Likelihoods) -> TokenDrift:
    import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

    theirs = ggml.to_float32(row) if row.dtype == numpy.float16 else row
    weights = numpy.exp(theirs)
    total = float(weights.sum(dtype=numpy.float64))
    weights *= theirs - own.shifted
    kl = float(weights.sum(dtype=numpy.float64)) / total - math.log(total) + own.log_total
    reference = _likeliest(vocabulary, Likelihoods(theirs, math.log(total)))
    variant = _likeliest(vocabulary, own)
    return TokenDrift(
        text=text,
        # Rounding takes it a little below 0 where both are the same.
        kl=max(0.0, kl),
        same_top=reference[0].token_id == variant[0].token_id,
        reference=reference,
        variant=variant,
    )


def _packed_drift(
    vocabulary: Vocabulary, ids: Any, likely: Any, rest: float, text: str, softmax: Likelihoods
) -> TokenDrift:
    """All other tokens count as one: the KL is a lower bound of that over the whole vocabulary.

    `ids`: the likeliest first; empty where nothing is known. `rest`: the natural logarithm of what the others have
    together.
    """
    import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

    theirs, own = likely.astype(numpy.float64), softmax.shifted.astype(numpy.float64) - softmax.log_total
    kl = float((numpy.exp(theirs) * (theirs - own[ids])).sum())
    if rest > -math.inf:
        others = numpy.ones(len(own), bool)
        others[ids] = False
        own_rest = float(numpy.exp(own[others]).sum())
        kl += math.exp(rest) * (rest - math.log(max(own_rest, sys.float_info.min)))
    first = zip(ids[:_N_CANDIDATES].tolist(), theirs[:_N_CANDIDATES].tolist(), strict=True)
    return TokenDrift(
        text=text,
        kl=max(0.0, kl),
        same_top=not len(ids) or int(ids[0]) == int(own.argmax()),
        reference=tuple(Candidate(token, _shown(vocabulary, token), math.exp(value)) for token, value in first),
        variant=_likeliest(vocabulary, softmax),
    )


def texts(vocabulary: Vocabulary, token_ids: Sequence[int]) -> Iterator[str]:
    """The text of each token, so that they join to the answer; then an empty text for the position after the last."""
    decoder = _decoder()
    for token in token_ids:
        yield decoder.decode(vocabulary.piece(token))
    yield ""


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")


def _likeliest(vocabulary: Vocabulary, likely: Likelihoods, n: int = _N_CANDIDATES) -> tuple[Candidate, ...]:
    """The first of those that are equally likely first. One pass for each: a partition takes longer than twenty."""
    left = likely.shifted.copy()
    candidates = []
    for _ in range(min(n, len(left))):
        token = int(left.argmax())
        candidates.append(Candidate(token, _shown(vocabulary, token), math.exp(likely.of(token))))
        left[token] = -math.inf
    return tuple(candidates)


def _shown(vocabulary: Vocabulary, token: int) -> str:
    piece = vocabulary.piece(token)
    return piece.decode("utf-8", "replace") if piece else vocabulary.special_text(token)


def _logits(model: LanguageModel, request: Score | Record | Measure, cancelled: Event) -> Iterator[Any]:
    return model.logits(request.prompt, request.token_ids, request.runtime, cancelled)
