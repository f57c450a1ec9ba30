"""What a server's tokens are in the vocabulary of this machine."""

from __future__ import annotations

import math
from typing import Any

import pytest

from playground.endpoints.client import EndpointAnswer
from playground.endpoints.wire import TokenLogprob, TopLogprob
from playground.engine.protocol import TokensFound
from playground.measuring import elsewhere

IDS = {"The": (10,), " cat": (11,), " dog": (12,), "</s>": (2,), "!": (20, 21), "\ufffd": (30,)}


def token(text: str, p: float, *beside: tuple[str, float], raw: bytes | None = None) -> TokenLogprob:
    top = [TopLogprob(text, math.log(p)), *(TopLogprob(other, math.log(q)) for other, q in beside)]
    return TokenLogprob(text, math.log(p), list(raw) if raw is not None else None, top)


def read(*tokens: TokenLogprob, text: str = "") -> tuple[tuple[int, ...], Any] | None:
    answer = EndpointAnswer(text, tokens=tokens)
    pieces = elsewhere.pieces([answer])
    tokens_found = TokensFound(tuple(IDS.get(piece.decode("utf-8", "replace"), ()) for piece in pieces), 100)
    return elsewhere.OwnTokens(tokens_found, pieces).read(answer)


def test_answer_when_its_tokens_are_known_then_their_ids_and_the_likely_ones_at_each_and_at_its_end() -> None:
    answer = read(token("The", 0.9, ("A", 0.05)), token(" cat", 0.6, (" dog", 0.3)), token("</s>", 0.8))
    assert answer is not None
    ids, likely = answer
    assert ids == (10, 11)
    assert likely.counts.tolist() == [1, 2, 1]  # "A" is no token here
    assert likely.ids.tolist() == [10, 11, 12, 2]
    assert likely.log_probabilities.tolist() == pytest.approx([math.log(p) for p in (0.9, 0.6, 0.3, 0.8)], abs=1e-6)
    assert likely.rest.tolist() == pytest.approx([math.log(p) for p in (0.1, 0.1, 0.2)], abs=1e-5)


@pytest.mark.parametrize("end", [(), (token("<eos>", 0.8),)])
def test_answer_when_its_end_is_not_known_then_nothing_is_likely_there(end: tuple[TokenLogprob, ...]) -> None:
    answer = read(token("The", 0.9), token(" cat", 0.6), *end, text="The cat")
    assert answer is not None
    ids, likely = answer
    assert (ids, likely.counts.tolist()) == ((10, 11), [1, 1, 0])
    assert likely.rest.tolist()[-1] == 0  # all of the probability


@pytest.mark.parametrize("tokens", [(token("Le", 0.9), token(" cat", 0.5)), (token("Le", 0.9),)])
def test_answer_when_a_token_is_of_another_vocabulary_then_it_cannot_be_read(tokens: tuple[TokenLogprob, ...]) -> None:
    assert read(*tokens) is None


def test_token_when_its_text_fits_several_then_it_counts_as_one_of_the_others() -> None:
    answer = read(token(" cat", 0.4, ("!", 0.2), ("\ufffd", 0.1), ("\ufffd", 0.1), (" dog", 0.05)), token(" dog", 0.5))
    assert answer is not None
    assert answer[1].ids.tolist() == [11, 12, 12]
    assert math.exp(answer[1].rest[0]) == pytest.approx(0.55)
