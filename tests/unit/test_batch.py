"""How many prompts wait in the worker of a batch."""

from __future__ import annotations

import pytest

from playground.comparing import batch
from playground.engine import protocol


@pytest.mark.parametrize(
    ("size", "sequences", "expected"),
    [
        (0, 32, 32),  # the embeddings are there already
        (4 * 2560 * 576, 32, 32),  # LLaVA's 576 tokens of a 3 B
        (4 * 8192 * 4096, 32, 2),  # 134 MB each
        (2**24, 32, 16),
        (2**24, 1, 2),
    ],
)
def test_prompts_when_sent_ahead_then_as_many_as_fit_into_a_quarter_of_a_gibibyte(
    size: int, sequences: int, expected: int
) -> None:
    image = protocol.ImageChunk(0, "a", 1, 1, False, b"", bytes(size))
    prompt = protocol.EncodedPrompt((image, protocol.TextChunk((1,))), 1, "", 0.0, None)
    assert batch.n_ahead(prompt, sequences) == expected
