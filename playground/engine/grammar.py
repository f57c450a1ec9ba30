"""What an answer is bound to: a grammar in llama.cpp's GBNF, or a JSON schema, which becomes one."""

from __future__ import annotations

import itertools
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from llama_cpp import llama_cpp as C
from llama_cpp import llama_grammar

from playground.engine import llama_log
from playground.errors import BadInput
from playground.values.request import Sampling

_T = TypeVar("_T")

# The converter writes each repetition out, and llama.cpp's parser calls itself for each bracket: one number took the
# memory of the machine, and 20,000 brackets crash it. llama.cpp refuses 2,000 optional repetitions itself.
_MOST_TIMES = 100_000  # of all repetitions in a schema together
_MOST_BRACKETS = 2000  # in each other
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
_BRACES = re.compile(r"\{(\d*),?(\d*)\}")
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\r\n]*', re.DOTALL)


def text_of(sampling: Sampling) -> str | None:
    """The grammar in GBNF; None: the answer is free. Raises BadInput for a schema that cannot be converted."""
    if sampling.json_schema is None:
        return sampling.grammar
    try:
        times = sum(_times(json.loads(sampling.json_schema)))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"The JSON schema cannot be used: {error}.") from None
    if times > _MOST_TIMES:
        raise BadInput(
            f"The JSON schema repeats too often: its minItems, maxLength and their like, and the numbers in its "
            f"patterns, may be {_MOST_TIMES:,} together."
        )
    try:
        text: str = llama_grammar.json_schema_to_gbnf(sampling.json_schema)
    except RecursionError:
        raise BadInput("The JSON schema is nested too deeply.") from None
    except Exception as error:  # the converter raises what it likes
        raise BadInput(f"The JSON schema cannot be used: {type(error).__name__}: {error}.") from None
    return text


def sampler(sampling: Sampling, vocabulary: C.llama_vocab_p | None) -> C.llama_sampler_p | None:
    """The sampler that allows only what the grammar does; None: the answer is free. The caller frees it.

    vocabulary: None for a check alone. Raises BadInput with the words of llama.cpp's parser.
    """
    text = text_of(sampling)
    if text is None:
        return None
    if "\0" in text:
        raise BadInput("The grammar contains a NUL character.")
    if _depth(text) > _MOST_BRACKETS:
        raise BadInput(
            f"The grammar has more than {_MOST_BRACKETS:,} brackets in each other. A schema's maxLength and maxItems "
            "make as many."
        )
    llama_log.clear()
    made, printed = _with_stderr(lambda: C.llama_sampler_init_grammar(vocabulary, text.encode(), b"root"))
    if not made:
        reason = " ".join((*printed.split("\n"), *llama_log.last_lines())).removeprefix("parse: ").strip()
        raise BadInput(f"llama.cpp cannot read the grammar: {reason[:500]}.")
    return made


def check(sampling: Sampling) -> None:
    """Raises BadInput if the answer is to be bound to what llama.cpp cannot read."""
    made = sampler(sampling, None)
    if made is not None:
        C.llama_sampler_free(made)


def _times(schema: Any) -> Iterator[int]:
    """All numbers in a schema that say how often something is repeated."""
    left = [schema]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part
        elif isinstance(part, dict):
            left += part.values()
            yield from (count for name in _COUNTS if isinstance(count := part.get(name), int) and count > 0)
            if isinstance(pattern := part.get("pattern"), str):
                yield from (int(count[:9] or 0) for counts in _BRACES.findall(pattern) for count in counts)


def _depth(grammar: str) -> int:
    """How many brackets stand in each other; those in texts, classes and remarks are none."""
    brackets = re.findall("[()]", _QUOTED.sub("", grammar))
    return max(itertools.accumulate(1 if bracket == "(" else -1 for bracket in brackets), default=0)


def _with_stderr(call: Callable[[], _T]) -> tuple[_T, str]:
    """The result, and what was printed to stderr meanwhile: llama.cpp's parser prints its reason there."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            result = call()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        return result, file.read().decode("utf-8", "replace").strip()
