"""Whether llama.cpp can read what an answer is bound to, before a run begins."""

from __future__ import annotations

from dataclasses import replace

from playground.engine import protocol
from playground.pool.pool import Pool
from playground.pool.worker_spec import GRAMMAR
from playground.values.request import Sampling

_MOST_KEPT = 100
_readable: set[Sampling] = set()  # whatever the model is, and for as long as this llama.cpp runs


def check(pool: Pool, sampling: Sampling) -> None:
    """Raises BadInput for a grammar or a JSON schema that llama.cpp cannot read, with its words.

    The first check of a text takes a worker of its own, about a second.
    """
    form = replace(Sampling(), grammar=sampling.grammar, json_schema=sampling.json_schema)
    if form == Sampling() or form in _readable:
        return
    try:
        with pool.lease(GRAMMAR) as lease:
            lease.request(protocol.CheckGrammar(form))
    finally:
        pool.unload(GRAMMAR)
    if len(_readable) >= _MOST_KEPT:
        _readable.clear()
    _readable.add(form)
