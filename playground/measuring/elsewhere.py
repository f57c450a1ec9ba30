"""Questions that a server elsewhere answers, and its likeliest tokens as a reference pack has them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import msgspec
import numpy

from playground.comparing import prompts
from playground.endpoints.client import EndpointAnswer
from playground.endpoints.wire import EndpointQuestion, TokenLogprob, not_sent, token_bytes
from playground.engine.protocol import TokensFound
from playground.errors import Failure
from playground.measuring.packs import Distributions
from playground.measuring.results import RecordedAnswer
from playground.measuring.steps import Item, Steps

_CUT = "\ufffd".encode()  # part of a character, from a server that leaves out a token's bytes


def ask_each(
    steps: Steps, endpoint: str, items: Sequence[Item], n_candidates: int | None = None
) -> Iterator[tuple[int, EndpointAnswer | Failure]]:
    """Places and answers, as they come: several at a time. Raises Interrupted, and Unavailable for a server that is
    gone."""
    endpoints = steps.lab.endpoints

    def ask(item: Item) -> EndpointAnswer | Failure:
        question = EndpointQuestion(
            prompts.spoken(prompts.asked(item.question.question, steps.form)),
            (item.image,),
            steps.sampling,
            steps.form.template_variables,
            n_candidates,
        )
        try:
            return endpoints.ask(endpoint, question, who=steps.lab.pool.who, stop=steps.stop)
        except Failure as error:
            return error

    threads = ThreadPoolExecutor(endpoints.named(endpoint).at_once)
    try:
        places = {threads.submit(ask, item): k for k, item in enumerate(items)}
        for future in as_completed(places):
            yield places[future], future.result()
    finally:
        threads.shutdown(cancel_futures=True)


def not_asked_for(steps: Steps) -> list[str]:
    """What OpenAI's protocol has no field for, a sentence each."""
    sentences = [f"{name} is not asked for elsewhere." for name in not_sent(steps.sampling)]
    return sentences + ["The server's own chat template is used."] * bool(steps.form.chat_template)


def recorded(answer: EndpointAnswer, token_ids: tuple[int, ...] = ()) -> RecordedAnswer:
    in_reasoning = bool(answer.reasoning) and not answer.text
    return RecordedAnswer(answer.text, token_ids, answer.finish_reason, in_reasoning)


def pieces(answers: Sequence[EndpointAnswer]) -> tuple[bytes, ...]:
    """All bytes that a token of the answers, or one that stands beside it, writes; each once."""
    tokens = [token for answer in answers for token in answer.tokens]
    written = [token_bytes(t) for token in tokens for t in (token, *(token.top_logprobs or ()))]
    return tuple(dict.fromkeys(written))


class OwnTokens:
    """The tokens of this machine that write what a server's tokens write."""

    def __init__(self, found: TokensFound, pieces: Sequence[bytes]) -> None:
        self.n_tokens = found.n_vocabulary
        self._ids = dict(zip(pieces, found.token_ids, strict=True))

    def read(self, answer: EndpointAnswer) -> tuple[tuple[int, ...], Distributions] | None:
        """The answer's tokens, and what the server held likely at each and behind them: there nothing may be known.

        None: a token is not one of this vocabulary.
        """
        *tokens, last = answer.tokens
        rows = [self._likely(token) for token in answer.tokens]
        if answer.text.encode().endswith(token_bytes(last)):  # else it is the end of the text
            tokens.append(last)
            rows.append({})
        ids = tuple(id for token in tokens if (id := self._usual(token)) is not None)
        if len(ids) < len(tokens) or not rows[0] or not all(rows[:-1]):
            return None
        return ids, _distributions(rows)

    def _usual(self, token: TokenLogprob) -> int | None:
        return next(iter(self._ids[token_bytes(token)]), None)

    def _likely(self, token: TokenLogprob) -> dict[int, float]:
        """Log-probabilities of tokens that only one token of this vocabulary can be, the likeliest first."""
        logprobs: dict[int, float] = {}
        ambiguous: set[int] = set()
        for likely in (*(token.top_logprobs or ()), token):
            written = token_bytes(likely)
            ids = self._ids[written]
            if len(ids) != 1 or _CUT in written or likely.logprob < -80:
                continue
            (id,) = ids
            if id in logprobs and likely is not token:
                ambiguous.add(id)  # two of the server's tokens look like this one
            logprobs.setdefault(id, min(likely.logprob, 0.0))
        known = {id: value for id, value in logprobs.items() if id not in ambiguous}
        return dict(sorted(known.items(), key=lambda pair: -pair[1]))


def _distributions(rows: Sequence[dict[int, float]]) -> Distributions:
    others = [1 - math.fsum(map(math.exp, row.values())) for row in rows]
    return Distributions(
        counts=numpy.asarray([len(row) for row in rows], "int32"),
        ids=numpy.asarray([id for row in rows for id in row], "int32"),
        log_probabilities=numpy.asarray([value for row in rows for value in row.values()], "float32"),
        rest=numpy.asarray([math.log(left) if left > 0 else -math.inf for left in others], "float32"),
    )


def digest(answers: Sequence[EndpointAnswer]) -> str:
    """Of all that was answered, for the keys of what is measured against it."""
    return hashlib.sha256(msgspec.json.encode([(a.text, a.tokens) for a in answers])).hexdigest()
